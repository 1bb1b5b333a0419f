"""What an Envoy of your own needs beside its configuration, all of this release.

`python -m image_registry.gateway.files FOLDER` writes the descriptor set and the documents that it serves there.
"""

import sys
from pathlib import Path

from image_registry import openapi
from image_registry.gateway.config import descriptor_set_path


def write_files(folder: Path) -> None:
    """Write `descriptor_set.binpb`, `openapi.json` and `openapi.html` into a folder that exists."""
    (folder / "descriptor_set.binpb").write_bytes(descriptor_set_path().read_bytes())
    for name, text in openapi.files().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
