"""A folder of OCI image layouts, one for each repository."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from image_registry.builds.faults import InvalidImageError
from image_registry.builds.lease import StopSign
from image_registry.builds.oci.layout import NOTE_SECONDS, LayoutRepository
from image_registry.builds.oci.reference import LayoutReference, layout_within
from image_registry.builds.repositories.home import FoundRepository, HomeFaultError, Leftover

_TRASH_SECONDS = 3600.0


class LayoutHome:
    """Repositories in folders below `root`. See Home."""

    def __init__(self, root: LayoutReference) -> None:
        self.root = f"oci:{root.path}"
        self._root = root

    def prepare(self, repository: str) -> None:
        """See Home. A push makes its folder itself."""
        self._repository(repository)

    def delete(self, repository: str, owner: str, stop: StopSign | None = None) -> bool:
        """See Home. The lock lets nobody come between."""
        if stop is not None:
            stop.check()
        return self._repository(repository).delete(owner)

    def repositories(self) -> Iterator[FoundRepository]:
        """See Home."""
        for folder, folders, _ in os.walk(self._root.path):
            path = Path(folder)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if path == self._root.path or not (path / "blobs").is_dir():
                continue
            folders.clear()
            try:
                owner = LayoutRepository(path, self._root.path).owner
            except InvalidImageError:
                owner = ""
            yield FoundRepository(f"oci:{path}", owner, path.stat().st_mtime)

    def leftovers(self) -> Iterator[Leftover]:
        """See Home."""
        for kind, least, what in (
            (".trash", _TRASH_SECONDS, "a removed repository"),
            (".deleted", NOTE_SECONDS, "an old note"),
        ):
            for path in sorted((self._root.path / kind).glob("*")):
                if path.stat().st_mtime < time.time() - least:
                    yield Leftover(what, f"{kind}/{path.name}")

    def discard(self, leftover: Leftover) -> None:
        """See Home."""
        path = self._root.path / leftover.name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def check(self) -> str:
        """See Home."""
        existing = next(path for path in (self._root.path, *self._root.path.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            remedy = "make it a folder that the worker may write to, or correct IMAGE_REGISTRY_REPOSITORY"
            raise HomeFaultError(f"{existing} can't be written to", remedy, is_passing=False)
        return f"{self._root.path} can be written to"

    def _repository(self, repository: str) -> LayoutRepository:
        return LayoutRepository(layout_within(repository, self._root), self._root.path)
