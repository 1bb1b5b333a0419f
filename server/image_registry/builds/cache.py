"""What builds of one machine share: blobs by their digest, and layers by what they are made from.

    blobs/<sha256>      wheels, layers, base layers: verified when used, fetched or made again if damaged
    layers/<key>        which blob is the layer of a key, and what is in it
    locks/<key>         held while a blob is fetched or a layer made: whoever else needs it waits and then finds it

Only whole files are ever seen. Users take a file by linking it into their own folder, so the least recently used
files can be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from image_registry.builds.faults import DamagedBlobError, InvalidImageError
from image_registry.builds.files import (
    READ_ONLY,
    flush_file,
    is_unfinished,
    link_whole,
    locked,
    write_whole,
    written_whole,
)
from image_registry.builds.oci.manifest import Descriptor, checked_digest, digest_of_file

_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class Layer:
    """A finished layer: its blob, its uncompressed digest, and what it holds.

    `libraries` are (name, version) as in the libraries' own metadata. `folders` and `paths` (of files) are relative to
    where the layer's libraries are; `body` is the offset in the blob at which the files begin, behind the folders.
    `title` is what people read of a layer without libraries.
    """

    blob: Descriptor
    diff_id: str
    libraries: tuple[tuple[str, str], ...]
    unpacked_bytes: int
    folders: tuple[str, ...]
    paths: tuple[str, ...]
    body: int
    title: str = ""

    def to_json(self) -> str:
        """Return the layer as JSON with a checksum of itself."""
        body = json.dumps({**asdict(self), "blob": self.blob.to_json()}, sort_keys=True)
        return json.dumps({"layer": body, "sha256": hashlib.sha256(body.encode()).hexdigest()})

    @classmethod
    def from_json(cls, text: str) -> Layer:
        """Read what `to_json` wrote. Raises ValueError, KeyError, TypeError or InvalidImageError for anything else."""
        wrapped = json.loads(text)
        body = wrapped["layer"]
        if hashlib.sha256(body.encode()).hexdigest() != wrapped["sha256"]:
            raise ValueError("the entry is damaged")
        values = json.loads(body)
        libraries = tuple((str(name), str(version)) for name, version in values["libraries"])
        return cls(
            Descriptor.from_json(values["blob"]),
            checked_digest(values["diff_id"]),
            libraries,
            int(values["unpacked_bytes"]),
            tuple(values["folders"]),
            tuple(values["paths"]),
            int(values["body"]),
            str(values.get("title", "")),
        )


@dataclass(frozen=True)
class CachedLayer:
    """A layer, where its blob is, and whether it was in the cache already."""

    layer: Layer
    path: Path
    reused: bool


class Cache:
    """The shared cache in the folder `root`; `own` is the build's own folder, into which files are taken."""

    def __init__(self, root: Path, own: Path, on_line: Callable[[str], None]) -> None:
        self._root = root
        self._own = own
        self._on_line = on_line
        for name in ("blobs", "layers", "locks"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def blob(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """Return a path in the build's folder of the blob, calling `fetch` to write it to a path if it isn't cached.

        One caller on the machine fetches, others wait. Raises DamagedBlobError when what was fetched is something else.
        """
        name = checked_digest(digest).removeprefix("sha256:")
        if path := self.taken(digest):
            return path
        with locked(self._root / "locks" / name):
            if path := self.taken(digest):
                return path
            with written_whole(self._root / "blobs" / name) as part:
                fetch(part)
                if digest_of_file(part) != digest:
                    raise DamagedBlobError(f"what was received is not {digest}")
                link_whole(part, self._own / name)
            (self._root / "locks" / name).unlink(missing_ok=True)
        return self._own / name

    def taken(self, digest: str) -> Path | None:
        """Return a path in the build's folder of a cached blob, or None; a damaged one is removed and said so."""
        name = checked_digest(digest).removeprefix("sha256:")
        cached, path = self._root / "blobs" / name, self._own / name
        if path.exists():
            return path
        try:
            link_whole(cached, path)
            os.utime(cached)
        except FileNotFoundError:
            if not path.exists():
                return None
        if digest_of_file(path) == digest:
            return path
        self._on_line(f"the cached {digest} is damaged; it is made again")
        cached.unlink(missing_ok=True)
        path.unlink()
        return None

    def layer(self, key: str, make: Callable[[Path], Layer]) -> CachedLayer:
        """Return the layer of a key, calling `make` to write its blob to a path and describe it if it isn't cached.

        `key` is a hex digest of all that the layer depends on. One caller on the machine makes it, others wait.
        """
        if found := self.taken_layer(key):
            return found
        with locked(self._root / "locks" / key):
            if found := self.taken_layer(key):
                return found
            part = self._own / f"{key}.new"
            layer = make(part)
            name = layer.blob.digest.removeprefix("sha256:")
            path = self._own / name
            part.chmod(READ_ONLY)
            flush_file(part)
            part.replace(path)
            link_whole(path, self._root / "blobs" / name)
            write_whole(self._root / "layers" / key, layer.to_json().encode())
            (self._root / "locks" / key).unlink(missing_ok=True)
        return CachedLayer(layer, path, reused=False)

    def taken_layer(self, key: str) -> CachedLayer | None:
        """Return a key's layer if it is cached and undamaged."""
        layer = self._note(key)
        path = self.taken(layer.blob.digest) if layer else None
        return CachedLayer(layer, path, reused=True) if layer and path else None

    def has_layer(self, key: str) -> bool:
        """Whether the cache has a key's layer; it may still turn out to be damaged."""
        layer = self._note(key)
        return layer is not None and self._blob(layer.blob.digest).exists()

    def _blob(self, digest: str) -> Path:
        return self._root / "blobs" / checked_digest(digest).removeprefix("sha256:")

    def _note(self, key: str) -> Layer | None:
        note = self._root / "layers" / key
        try:
            return Layer.from_json(note.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, InvalidImageError):
            self._on_line(f"the cache's note of layer {key} is damaged; the layer is made again")
            note.unlink(missing_ok=True)
            return None

    def shrink(self, limit: int) -> None:
        """Remove the least recently used files until the cache has at most `limit` bytes, and what crashes left.

        Does nothing while another process does it.
        """
        with locked(self._root / "locks" / "shrink", wait=False) as held:
            if held is not None:
                _shrink(self._root, limit)


def size(root: Path) -> int:
    """Return the bytes of the blobs in the cache at `root`."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(root / "blobs") as blobs:
        for blob in blobs:
            with contextlib.suppress(FileNotFoundError):
                total += blob.stat().st_size
    return total


def make_room(root: Path) -> None:
    """Remove the half of the cache that was used least recently: its disk is full, wherever its limit may be."""
    lock = root / "locks" / "shrink"
    with contextlib.suppress(OSError), locked(lock, wait=False) as held:  # a full disk may allow no lock
        if held is not None:
            _shrink(root, sum(path.stat().st_size for path in (root / "blobs").iterdir()) // 2)


def unused(root: Path, needed: Iterable[str], before: float) -> list[tuple[Path, int]]:
    """Return the blobs, with their sizes, that no build has used since the time `before`, and what crashes left.

    `needed` are keys of layers whose blobs are not among them, however long ago they were used.
    """
    kept = {layer.blob.digest.removeprefix("sha256:") for key in needed if (layer := _read(root / "layers" / key))}
    found = []
    for path in sorted((root / "blobs").glob("*")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime < before and path.name not in kept:
                found.append((path, stat.st_size))
    return found


def remove_unused(root: Path, blob: Path, before: float) -> bool:
    """Remove one of them unless it has been used meanwhile; return whether it is gone."""
    with locked(root / "locks" / "shrink"):
        with contextlib.suppress(FileNotFoundError):
            if blob.stat().st_mtime >= before:
                return False
            blob.unlink()
        _forget_lost(root)
    return True


def _read(note: Path) -> Layer | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, InvalidImageError):
        return Layer.from_json(note.read_text())
    return None


def _shrink(root: Path, limit: int) -> None:
    blobs = []
    for path in (root / "blobs").iterdir():
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if not is_unfinished(path.name):
                blobs.append((stat.st_mtime, stat.st_size, path))
            elif stat.st_mtime < time.time() - _ABANDONED_SECONDS:
                path.unlink()
    total = sum(size for _, size, _ in blobs)
    for _, size, path in sorted(blobs):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
    _forget_lost(root)


def _forget_lost(root: Path) -> None:
    """Remove the notes of layers whose blobs are gone."""
    for note in (root / "layers").iterdir():
        layer = _read(note)
        if layer and not (root / "blobs" / layer.blob.digest.removeprefix("sha256:")).exists():
            note.unlink(missing_ok=True)
