"""Small images for tests."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_registry.builds.oci.manifest import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    digest_of,
)


def tar_of(files: Mapping[str, bytes | str]) -> bytes:
    """A tar archive; text that begins with `->` is a symbolic link, with `=>` a hard one."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            if isinstance(content, str) and content[:2] in {"->", "=>"}:
                info.type = tarfile.SYMTYPE if content[0] == "-" else tarfile.LNKTYPE
                info.linkname = content[2:]
                archive.addfile(info)
                continue
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def layer_of(files: Mapping[str, bytes | str]) -> tuple[Descriptor, bytes, str]:
    """A gzip layer: its descriptor, blob and uncompressed digest."""
    tar = tar_of(files)
    blob = gzip.compress(tar, mtime=0)
    return Descriptor(OCI_LAYER_GZIP, digest_of(blob), len(blob)), blob, digest_of(tar)


def image_of(
    *layers: tuple[Descriptor, bytes, str], media_type: str = OCI_MANIFEST, **config: Any
) -> tuple[Manifest, bytes]:
    """A manifest and its config."""
    values = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, _, diff_id in layers]},
        **config,
    }
    data = canonical_json(values)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": Descriptor(OCI_CONFIG, digest_of(data), len(data)).to_json(),
        "layers": [descriptor.to_json() for descriptor, _, _ in layers],
    }
    return Manifest.read(canonical_json(manifest), media_type), data


def write_blobs(folder: Path, *layers: tuple[Descriptor, bytes, str]) -> list[tuple[Descriptor, Path]]:
    """Put the layers' blobs into files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for descriptor, blob, _ in layers:
        path = folder / hashlib.sha256(blob).hexdigest()
        path.write_bytes(blob)
        files.append((descriptor, path))
    return files


def write_layout(folder: Path, blobs: Mapping[str, bytes], entries: list[dict[str, Any]]) -> None:
    """Write an OCI image layout as another program would."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for digest, blob in blobs.items():
        (folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(blob)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
