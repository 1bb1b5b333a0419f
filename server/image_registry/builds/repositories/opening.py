"""Which home a root means."""

from __future__ import annotations

from image_registry.builds.credentials import Keyring
from image_registry.builds.oci.reference import LayoutReference, parse_reference
from image_registry.builds.repositories.ecr import EcrHome, ecr_login, is_ecr
from image_registry.builds.repositories.gar import GarHome, gar_login, is_gar
from image_registry.builds.repositories.home import Home
from image_registry.builds.repositories.layouts import LayoutHome
from image_registry.builds.repositories.registries import RegistryHome

CLOUDS = (ecr_login, gar_login)
"""Whose identities this machine may have, for a Keyring."""


def open_home(root: str, keyring: Keyring) -> Home:
    """Return the home of a root: `oci:/folder` or `registry.host/path`. Raises ValueError for what is neither."""
    reference = parse_reference(root)
    if isinstance(reference, LayoutReference):
        return LayoutHome(reference)
    home = EcrHome if is_ecr(reference.host) else GarHome if is_gar(reference.host) else RegistryHome
    return home(reference, keyring)
