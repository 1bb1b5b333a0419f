"""Files that several processes share: locks, and writes that are seen whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

READ_ONLY = 0o444
_PART = ".part-"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Hold an exclusive lock between processes and threads on the lock file at `path`; yields its file descriptor.

    `wait` False yields None at once when somebody else holds it. The lock ends with the process, however that ends,
    and with those that it has handed the descriptor to.
    The file may be removed, or its folder moved away, by the holder: waiters notice and lock the new file instead.
    Raises FileNotFoundError when the folder doesn't exist.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            if _is_still(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def written_whole(path: Path, mode: int = READ_ONLY) -> Iterator[Path]:
    """Give a new path in the same folder to write to; it replaces `path` durably when the block ends without error."""
    part = path.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        yield part
        part.chmod(mode)
        flush_file(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, mode: int = READ_ONLY) -> None:
    """Write a small file so that nobody ever reads half of it."""
    with written_whole(path, mode) as part:
        part.write_bytes(data)


def link_whole(source: Path, path: Path) -> None:
    """Put the file `source` at `path` too: the same file where the file system allows, else a copy.

    An existing file at `path` is replaced, unless it is the same one.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.samefile(source):
            return
    part = path.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        part.hardlink_to(source)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}:
            raise
        with written_whole(path) as copy:
            shutil.copyfile(source, copy)
        return
    try:
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Whether the name is one of a file whose writer has not finished (or died)."""
    return name.startswith(_PART)


def flush_file(path: Path) -> None:
    """Make a file's content durable (or a folder's names)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
