"""Look for an image that has what is needed already, before building one.

python examples/find_by_library.py 127.0.0.1:50051 numpy==1.26.4 pandas
"""

import sys

from image_registry.client import ImageRegistryClient, ImageStatus

if len(sys.argv) < 2:
    sys.exit(f"usage: python {sys.argv[0]} HOST:PORT LIBRARY[==VERSION]…")
address, *libraries = sys.argv[1:]

with ImageRegistryClient(address) as registry:
    for image in registry.list_images(libraries):
        if image.status is ImageStatus.READY:
            print(f"{image.name}  Python {image.python_version}  {image.repo_uri}")
