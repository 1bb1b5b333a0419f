"""OCI image layouts on disk: reading any, and repositories of our own with an owner.

A repository is one layout in a folder of its own. Its `index.json` is the single truth: written whole, under a lock,
it names the owner (the image's life that pushed it), the tags and their manifests. What it doesn't name isn't there.

The rules for owners: a push needs a repository that is absent, unfinished, or its own; a deletion touches nothing but
its own, and leaves a note that lets no late push of that owner in again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from image_registry.builds.faults import ForeignRepositoryError, InvalidImageError, OwnerDeletedError
from image_registry.builds.files import flush_file, is_unfinished, link_whole, locked, write_whole
from image_registry.builds.oci.manifest import (
    LARGEST_MANIFEST,
    MANIFESTS,
    Descriptor,
    Manifest,
    checked_digest,
    digest_of,
    parse_object,
    select_platform,
)

_OWNER = "ri.imageregistry.owner"
_REF_NAME = "org.opencontainers.image.ref.name"
NOTE_SECONDS = 90 * 24 * 3600.0


class Layout:
    """An OCI image layout; everything in it is checked when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob_path(self, digest: str) -> Path:
        """Where the blob of this digest is, or would be."""
        return self.path / "blobs" / "sha256" / checked_digest(digest).removeprefix("sha256:")

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a small blob. Raises InvalidImageError when it is missing, damaged or above `limit` bytes."""
        path = self.blob_path(descriptor.digest)
        try:
            if path.stat().st_size != descriptor.size or descriptor.size > limit:
                raise InvalidImageError(f"{descriptor.digest} has not the size that is recorded, or is too large")
            data = path.read_bytes()
        except OSError as error:
            raise InvalidImageError(f"{descriptor.digest} can't be read: {error.strerror}") from error
        if digest_of(data) != descriptor.digest:
            raise InvalidImageError(f"{descriptor.digest} is damaged")
        return data

    def manifest(self, reference: str, architecture: str) -> Manifest:
        """Return the image of a tag or digest (empty: the only one) for linux and the architecture.

        Raises InvalidImageError.
        """
        descriptor = self._find(reference)
        data = self.read_blob(descriptor, LARGEST_MANIFEST)
        if descriptor.media_type not in MANIFESTS:
            descriptor = select_platform(data, architecture)
            data = self.read_blob(descriptor, LARGEST_MANIFEST)
        return Manifest.read(data, descriptor.media_type)

    def tags(self) -> dict[str, Descriptor]:
        """Return the manifest of each tag. Raises InvalidImageError."""
        found = ((d.annotations.get(_REF_NAME, ""), d) for d in self._descriptors(self.index()))
        return {tag: descriptor for tag, descriptor in found if tag}

    def _find(self, reference: str) -> Descriptor:
        descriptors = self._descriptors(self.index())
        for descriptor in descriptors:
            if reference in {descriptor.digest, descriptor.annotations.get(_REF_NAME)}:
                return descriptor
        if not reference and len({d.digest for d in descriptors}) == 1:
            return descriptors[0]
        wanted = f"no image {reference!r}" if reference else f"{len(descriptors)} images, name one by its tag"
        raise InvalidImageError(f"{self.path} holds {wanted}")

    def index(self) -> dict[str, Any]:
        """Return `index.json`, decoded. Raises InvalidImageError when the folder is no layout."""
        try:
            return parse_object((self.path / "index.json").read_bytes(), "index.json")
        except OSError as error:
            raise InvalidImageError(f"{self.path} is not an OCI image layout") from error

    @staticmethod
    def _descriptors(index: dict[str, Any]) -> list[Descriptor]:
        entries = index.get("manifests")
        return [Descriptor.from_json(entry) for entry in entries] if isinstance(entries, list) else []


class LayoutRepository(Layout):
    """A repository of the service: one layout in a folder within `root`, which is never left.

    Raises ValueError for a folder that is not inside the root.
    """

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(Path(os.path.realpath(path)))
        self.root = Path(os.path.realpath(root))
        inside = self.path.relative_to(self.root).parts if self.path.is_relative_to(self.root) else ()
        if not inside or any(part.startswith(".") for part in inside):
            raise ValueError(f"{path} is not a repository within {root}")

    @property
    def owner(self) -> str | None:
        """Who pushed what is there; None when there is no finished image. Raises InvalidImageError."""
        if not (self.path / "index.json").exists():
            return None
        annotations = self.index().get("annotations")
        return str(annotations.get(_OWNER, "")) if isinstance(annotations, dict) else ""

    def push(
        self,
        owner: str,
        manifest: Manifest,
        files: Iterable[tuple[Descriptor, Path]],
        config: bytes,
        tags: Iterable[str],
    ) -> None:
        """Put an image in place under the tags; what was there before serves until it is, and nothing after a failure.

        `files` are the layers' blobs, verified by the caller; they are linked, not copied, within a file system.
        Other tags stay as they are; blobs that no tag needs any more go. Waits while another process works on the
        same repository.

        Raises ForeignRepositoryError, OwnerDeletedError, InvalidImageError, and OSError when the disk is full.
        """
        with contextlib.ExitStack() as stack:
            self._lock_folder(stack)
            try:
                self._claim(owner)
                for descriptor, path in files:
                    link_whole(path, self.blob_path(descriptor.digest))
                self._write_blob(manifest.config.digest, config)
                self._write_blob(manifest.digest, manifest.data)
                flush_file(self.path / "blobs" / "sha256")
                write_whole(self.path / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}\n')
                self._write_index(owner, manifest.descriptor, list(tags))
            except BaseException:
                if not (self.path / "index.json").exists():
                    self._throw_away()
                raise
            self._remove_unused()

    def delete(self, owner: str) -> bool:
        """Remove the repository if it is the owner's, or was never finished; return whether something was removed.

        False, and nothing is touched, when it is absent or another life's. Afterwards no push of this owner succeeds.
        """
        self._write_note(owner)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock"))
            except (FileNotFoundError, NotADirectoryError):
                self._empty_trash()  # an attempt before this one may have been killed over it
                return False
            if self.owner not in {owner, None}:
                return False
            self._throw_away()
        return True

    def _lock_folder(self, stack: contextlib.ExitStack) -> None:
        blobs = self.path / "blobs" / "sha256"
        while True:
            try:
                blobs.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path / ".lock"))
            except (FileNotFoundError, FileExistsError):  # a deletion came between
                if self.path.is_file():
                    raise
            else:
                blobs.mkdir(parents=True, exist_ok=True)  # the lock may be that of a folder just begun by another push
                return

    def _claim(self, owner: str) -> None:
        if self._note(owner).exists():
            raise OwnerDeletedError(f"the image {self.path.name} that this build is for was deleted meanwhile")
        current = self.owner
        if current not in {None, owner}:
            raise ForeignRepositoryError(f"the repository {self.path.name} still belongs to an image deleted before")

    def _write_blob(self, digest: str, data: bytes) -> None:
        path = self.blob_path(digest)
        if not path.exists() or path.read_bytes() != data:
            write_whole(path, data)

    def _write_index(self, owner: str, descriptor: Descriptor, tags: list[str]) -> None:
        others = self.tags() if self.owner is not None else {}
        kept = [other for tag, other in others.items() if tag not in tags and self._is_readable(other)]
        new = [Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, {_REF_NAME: tag}) for tag in tags]
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry.to_json() for entry in (*kept, *new)],
            "annotations": {_OWNER: owner},
        }
        write_whole(self.path / "index.json", json.dumps(index, indent=1).encode())
        flush_file(self.path)

    def _is_readable(self, descriptor: Descriptor) -> bool:
        try:
            Manifest.read(self.read_blob(descriptor, LARGEST_MANIFEST), descriptor.media_type)
        except InvalidImageError:
            return False
        return True

    def _remove_unused(self) -> None:
        used = set()
        for descriptor in self.tags().values():
            manifest = Manifest.read(self.read_blob(descriptor, LARGEST_MANIFEST), descriptor.media_type)
            used |= {descriptor.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        names = {digest.removeprefix("sha256:") for digest in used}
        for folder in (self.path, self.path / "blobs" / "sha256"):
            for path in folder.iterdir():
                if is_unfinished(path.name) or (folder != self.path and path.name not in names):
                    path.unlink(missing_ok=True)

    def _throw_away(self) -> None:
        """Take the folder out of sight in one step, then remove it, what crashes left, and empty parents."""
        trash = self.root / ".trash"
        trash.mkdir(exist_ok=True)
        self.path.rename(trash / secrets.token_hex(8))
        self._empty_trash()
        for parent in self.path.parents:
            if parent == self.root:
                break
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()

    def _empty_trash(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for left in (self.root / ".trash").iterdir():
                shutil.rmtree(left, ignore_errors=True)

    def _note(self, owner: str) -> Path:
        return self.root / ".deleted" / hashlib.sha256(owner.encode()).hexdigest()

    def _write_note(self, owner: str) -> None:
        note = self._note(owner)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
        for old in note.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if old.stat().st_mtime < time.time() - NOTE_SECONDS:
                    old.unlink()
