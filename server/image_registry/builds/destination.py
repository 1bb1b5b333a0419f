"""Where a build puts its image: one small interface for layouts and registries. `repositories/` has the rest of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.oci.manifest import Descriptor, Manifest
from image_registry.builds.oci.reference import (
    LayoutReference,
    RegistryReference,
    layout_within,
    parse_reference,
    repository_within,
)
from image_registry.builds.plan import BuildPlan, RegistryAccess


class Repository(Protocol):
    """A repository of the service, which knows whose it is."""

    def push(
        self,
        owner: str,
        manifest: Manifest,
        files: Iterable[tuple[Descriptor, Path]],
        config: bytes,
        tags: Iterable[str],
    ) -> None:
        """Put an image in place under the tags; what was there before serves until it is.

        `files` are the layers' blobs. Raises ForeignRepositoryError, OwnerDeletedError, UnavailableError, OSError.
        """


def open_destination(plan: BuildPlan, resources: ExitStack) -> Repository:
    """Return the repository of a plan, open until `resources` is closed. Raises ValueError for one outside its root."""
    root = parse_reference(plan.destination_root)
    if isinstance(root, LayoutReference):
        return LayoutRepository(layout_within(plan.destination, root), root.path)
    from image_registry.builds.oci.push import RegistryRepository  # noqa: PLC0415 (slow to import, often not needed)
    from image_registry.builds.oci.registry import RegistryClient  # noqa: PLC0415

    repository = repository_within(plan.destination, root)
    base: LayoutReference | RegistryReference | None = None
    with suppress(ValueError):  # opening the base says what is wrong with it
        base = parse_reference(plan.base)
    beside = base.repository if isinstance(base, RegistryReference) and base.host == root.host else ""
    client = resources.enter_context(RegistryClient(access_to(root.host, plan)))
    return RegistryRepository(client, repository, root.repository, plan.cache_dir / "pushed", beside)


def access_to(host: str, plan: BuildPlan) -> RegistryAccess:
    """Return how to talk to a registry, by default: encrypted, and without credentials."""
    return next((access for access in plan.registries if access.host == host), RegistryAccess(host=host))
