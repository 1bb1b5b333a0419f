"""Where finished images go: one small interface, two homes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
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
    base: LayoutReference | RegistryReference | None = None
    with suppress(ValueError):  # opening the base says what is wrong with it
        base = parse_reference(plan.base)
    access = Access(plan.registries, plan.index.ca_bundle, plan.cache_dir / "pushed")
    return _open(plan.destination, plan.destination_root, access, resources, base)


def delete_repository(destination: str, root: str, owner: str, access: Access | None = None) -> bool:
    """Remove a repository of an image's life, see Repository.delete. `access` is needed for registries only.

    Raises ValueError for one outside its root.
    """
    with ExitStack() as resources:
        return _open(destination, root, access or Access(), resources).delete(owner)


@dataclass(frozen=True)
class Access:
    """How to get at registries, see BuildPlan. `known` keeps what is where in them; None keeps nothing."""

    registries: tuple[RegistryAccess, ...] = ()
    ca_bundle: Path | None = None
    known: Path | None = None

    def to(self, host: str) -> RegistryAccess:
        """Return how to talk to one registry, by default: encrypted, and without credentials."""
        return next((access for access in self.registries if access.host == host), RegistryAccess(host=host))


def _open(
    destination: str,
    root: str,
    access: Access,
    resources: ExitStack,
    base: LayoutReference | RegistryReference | None = None,
) -> Repository:
    reference, within = parse_reference(destination), parse_reference(root)
    if isinstance(reference, LayoutReference) and isinstance(within, LayoutReference):
        return LayoutRepository(reference.path, within.path)
    if isinstance(reference, LayoutReference) or isinstance(within, LayoutReference) or reference.host != within.host:
        raise ValueError(f"{destination!r} is not in {root!r}")
    from image_registry.builds.oci.push import RegistryRepository  # noqa: PLC0415 (slow to import, often not needed)
    from image_registry.builds.oci.registry import RegistryClient  # noqa: PLC0415

    client = RegistryClient(access.to(reference.host), access.ca_bundle)
    beside = base.repository if isinstance(base, RegistryReference) and base.host == reference.host else ""
    repository = RegistryRepository(client, reference.repository, within.repository, access.known, beside)
    return resources.enter_context(repository)
