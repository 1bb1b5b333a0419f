"""What a base image's reference stands for at the moment."""

from __future__ import annotations

from image_registry.builds.credentials import Keyring
from image_registry.builds.oci.layout import Layout
from image_registry.builds.oci.reference import LayoutReference, parse_reference
from image_registry.builds.plan import host_platform


def current_digest(reference: str, keyring: Keyring) -> str:
    """Return the digest of the manifest that a build on this machine would take. Blocks.

    Raises ValueError for what is no reference, InvalidImageError, UnavailableError, OSError.
    """
    parsed, architecture = parse_reference(reference), host_platform().partition("/")[2]
    if isinstance(parsed, LayoutReference):
        return Layout(parsed.path).manifest(parsed.reference, architecture).digest
    from image_registry.builds.oci.registry import RegistryClient, read_manifest  # noqa: PLC0415 (slow to import)

    with RegistryClient(keyring.access(parsed.host)) as client:
        return read_manifest(client, parsed, architecture).digest
