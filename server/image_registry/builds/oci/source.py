"""Where a base image comes from: one small interface, two homes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from image_registry.builds.faults import InvalidImageError
from image_registry.builds.oci.layout import Layout
from image_registry.builds.oci.manifest import Descriptor, Manifest

LARGEST_CONFIG = 16 * 1024 * 1024


class ImageSource(Protocol):
    """An image that can be read."""

    def manifest(self) -> Manifest:
        """Return the manifest for the platform wanted. Raises InvalidImageError, or UnavailableError (network)."""

    def config(self, manifest: Manifest) -> bytes:
        """Return the image's config, verified. Raises InvalidImageError, or UnavailableError (network)."""

    def layer_file(self, layer: Descriptor) -> Path:
        """Return a local file of a layer's blob. Raises InvalidImageError, or UnavailableError (network)."""


class LayoutSource:
    """An image in an OCI image layout on disk."""

    def __init__(self, path: Path, reference: str, architecture: str) -> None:
        self._layout = Layout(path)
        self._reference = reference
        self._architecture = architecture

    def manifest(self) -> Manifest:
        """See ImageSource."""
        return self._layout.manifest(self._reference, self._architecture)

    def config(self, manifest: Manifest) -> bytes:
        """See ImageSource."""
        return self._layout.read_blob(manifest.config, LARGEST_CONFIG)

    def layer_file(self, layer: Descriptor) -> Path:
        """See ImageSource. The size is checked here, the digest when the layer is read for the first time."""
        path = self._layout.blob_path(layer.digest)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InvalidImageError(f"layer {layer.digest} is missing") from error
        if size != layer.size:
            raise InvalidImageError(f"layer {layer.digest} is damaged")
        return path
