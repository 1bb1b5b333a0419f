"""Descriptors, manifests and indexes of OCI and of Docker's schema 2; reading checks all that is used later."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_registry.builds.faults import InvalidImageError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)

LARGEST_MANIFEST = 4 * 1024 * 1024  # the least that a registry must accept, distribution-spec "Pushing Manifests"

_LAYER_TYPES = {
    OCI_LAYER: OCI_LAYER,
    OCI_LAYER_GZIP: OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD: OCI_LAYER_ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": OCI_LAYER_ZSTD,
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20


def checked_digest(text: object) -> str:
    """Return the digest, or raise InvalidImageError: only SHA-256 is supported, and nothing else may become a path."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise InvalidImageError(f"{text!r:.100} is not a sha256 digest")
    return text


def digest_of(data: bytes) -> str:
    """Return the digest of bytes in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@dataclass(frozen=True)
class Descriptor:
    """A reference to content: its type, digest and exact size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as it stands in a manifest."""
        values: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**values, "annotations": self.annotations} if self.annotations else values

    @classmethod
    def from_json(cls, values: object) -> Descriptor:
        """Read a descriptor. Raises InvalidImageError."""
        if not isinstance(values, dict):
            raise InvalidImageError("a descriptor is missing")
        size, annotations = values.get("size"), values.get("annotations") or {}
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidImageError(f"a descriptor has the size {size!r:.40}")
        if not isinstance(annotations, dict):
            raise InvalidImageError("a descriptor's annotations are no object")
        texts = {str(name): str(value) for name, value in annotations.items()}
        return cls(str(values.get("mediaType", "")), checked_digest(values.get("digest")), size, texts)


@dataclass(frozen=True)
class Manifest:
    """An image for one platform. `layers` have OCI media types, whatever the source said; `data` is its exact bytes."""

    media_type: str
    data: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest itself."""
        return digest_of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """A reference to the manifest itself."""
        return Descriptor(self.media_type, self.digest, len(self.data))

    @classmethod
    def read(cls, data: bytes, media_type: str) -> Manifest:
        """Read a manifest's bytes. Raises InvalidImageError, also for layers of kinds that can't be built on."""
        values = parse_object(data, "a manifest")
        if media_type not in MANIFESTS:
            raise InvalidImageError(f"a manifest of type {media_type!r:.100} is not supported")
        layers = values.get("layers")
        if not isinstance(layers, list):
            raise InvalidImageError("a manifest has no layers")
        return cls(
            media_type,
            data,
            Descriptor.from_json(values.get("config")),
            tuple(_layer(Descriptor.from_json(layer)) for layer in layers),
        )


def _layer(layer: Descriptor) -> Descriptor:
    if layer.media_type not in _LAYER_TYPES:
        raise InvalidImageError(f"a layer of type {layer.media_type!r:.100} is not supported")
    return Descriptor(_LAYER_TYPES[layer.media_type], layer.digest, layer.size, layer.annotations)


def select_platform(data: bytes, architecture: str) -> Descriptor:
    """Return the manifest for linux and the architecture out of an index. Raises InvalidImageError if it has none.

    Of several variants the first is taken, as container engines do.
    """
    entries = parse_object(data, "an index").get("manifests")
    if not isinstance(entries, list):
        raise InvalidImageError("an index has no manifests")
    found = []
    for entry in entries:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return Descriptor.from_json(entry)
        found.append(f"{platform.get('os')}/{platform.get('architecture')}"[:40])
    raise InvalidImageError(f"there is no image for linux/{architecture}, only for {', '.join(found) or 'no platform'}")


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Decode a JSON object of a bounded size. Raises InvalidImageError."""
    if len(data) > LARGEST_MANIFEST:
        raise InvalidImageError(f"{what} is larger than {LARGEST_MANIFEST} bytes")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidImageError(f"{what} is not JSON") from error
    if not isinstance(values, dict):
        raise InvalidImageError(f"{what} is not a JSON object")
    return values


def canonical_json(values: dict[str, Any]) -> bytes:
    """Return JSON whose bytes depend on the values alone."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
