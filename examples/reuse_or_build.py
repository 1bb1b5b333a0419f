"""Use an image that holds what is needed already; make one only if there is none.

python examples/reuse_or_build.py 127.0.0.1:50051 vision 'numpy>=1.26,<3' pandas
"""

import sys

from image_registry.client import FoundImage, ImageRegistryClient

if len(sys.argv) < 4:
    sys.exit(f"usage: python {sys.argv[0]} HOST:PORT NAME REQUIREMENT…")
address, name, *requirements = sys.argv[1:]

with ImageRegistryClient(address) as registry:
    for found in registry.find_images(requirements, max_results=3):
        fitting = ", ".join(str(library) for library in found.matching_libraries)
        print(f"found {found.image.name}: {fitting}, and {found.further_libraries} further libraries")
    made = registry.create_image(name, requirements, reuse=True)
    print("reused" if isinstance(made, FoundImage) else "built", registry.wait(made, timeout=1800).repo_uri)
