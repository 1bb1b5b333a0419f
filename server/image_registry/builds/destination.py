"""Where finished images go: one small interface, two homes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.oci.manifest import Descriptor, Manifest
from image_registry.builds.oci.reference import LayoutReference, RegistryReference, parse_reference
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

    def delete(self, owner: str) -> bool:
        """Remove the repository if it is the owner's; return whether something was removed.

        False, and nothing is touched, when it is absent or another life's. Raises UnavailableError, OSError.
        """


def open_destination(plan: BuildPlan, resources: ExitStack) -> Repository:
    """Return the repository of a plan, open until `resources` is closed. Raises ValueError for one outside its root."""
    reference, root = parse_reference(plan.destination), parse_reference(plan.destination_root)
    if isinstance(reference, LayoutReference) and isinstance(root, LayoutReference):
        return LayoutRepository(reference.path, root.path)
    if isinstance(reference, LayoutReference) or isinstance(root, LayoutReference) or reference.host != root.host:
        raise ValueError(f"{plan.destination!r} is not in {plan.destination_root!r}")
    from image_registry.builds.oci.push import RegistryRepository  # noqa: PLC0415 (slow to import, often not needed)
    from image_registry.builds.oci.registry import RegistryClient  # noqa: PLC0415

    client = RegistryClient(access_to(reference.host, plan), plan.index.ca_bundle)
    known, base = plan.cache_dir / "pushed", parse_reference(plan.base)
    beside = base.repository if isinstance(base, RegistryReference) and base.host == reference.host else ""
    repository = RegistryRepository(client, reference.repository, root.repository, known, beside)
    return resources.enter_context(repository)


def access_to(host: str, plan: BuildPlan) -> RegistryAccess:
    """Return how the plan says to talk to a registry, by default: encrypted, and without credentials."""
    return next((access for access in plan.registries if access.host == host), RegistryAccess(host=host))
