"""A folder of OCI image layouts, one for each repository."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from image_registry.builds.faults import InvalidImageError
from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.oci.reference import LayoutReference, layout_within
from image_registry.builds.repositories.home import FoundRepository, HomeFaultError


class LayoutHome:
    """Repositories in folders below `root`. See Home."""

    def __init__(self, root: LayoutReference) -> None:
        self.root = f"oci:{root.path}"
        self._root = root

    def prepare(self, repository: str) -> None:
        """See Home. A push makes its folder itself."""
        self._repository(repository)

    def delete(self, repository: str, owner: str) -> bool:
        """See Home."""
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

    def check(self) -> str:
        """See Home."""
        try:
            self._root.path.mkdir(parents=True, exist_ok=True)
            probe = self._root.path / f".probe-{secrets.token_hex(8)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            remedy = "make the folder writable for the worker, or correct IMAGE_REGISTRY_REPOSITORY"
            text = f"{self._root.path} can't be written to: {error.strerror}"
            raise HomeFaultError(text, remedy, is_passing=False) from None
        return f"{self._root.path} can be written to"

    def _repository(self, repository: str) -> LayoutRepository:
        return LayoutRepository(layout_within(repository, self._root), self._root.path)
