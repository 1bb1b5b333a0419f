"""Compressed tar archives whose bytes depend on their content alone, made without compressing anything again.

A gzip file may consist of many members (RFC 1952, 2.2), and a ZIP archive holds the same raw deflate streams together
with the length and CRC-32 that a gzip member ends with. So a file goes from a wheel into a layer as it is: as one
member of its own. What lies between (tar headers, padding, small or new files) is written as stored blocks. No
compressor takes part, hence the result is the same on every machine, and making it costs only the unpacking that the
digests need.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

EPOCH = 315_619_200
"""Modification time of all files: 2 January 1980, because ZIP archives (which people make of installed libraries) can
hold nothing earlier in any time zone."""

_BLOCK = 512
_MEMBER_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no flags, no time, unknown system
_LARGEST_STORED = 0xFFFF
_FLUSH_ABOVE = 1 << 20
_CHUNK = 4 << 20
_MEMBER_COST = 64  # bytes below which a member of its own is not worth it


class Writable(Protocol):
    """Anything with `write`."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


class TarGz:
    """Writes a `.tar.gz`; files come in any order, folders before their files. Call `finish` at the end."""

    def __init__(self, output: Writable) -> None:
        self._output = output
        self._packed = hashlib.sha256()
        self._unpacked = hashlib.sha256()
        self._pending = bytearray()
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of the compressed archive so far."""
        return f"sha256:{self._packed.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """The digest of the archive before compression."""
        return f"sha256:{self._unpacked.hexdigest()}"

    def folder(self, path: str) -> None:
        """Add a folder."""
        self._store(_header(path, tarfile.DIRTYPE, 0o755))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._store(_header(path, tarfile.SYMTYPE, 0o777, target=target))

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file out of memory."""
        self.begin(path, len(data), executable=executable)
        self.content(data)
        self.end(len(data))

    def begin(self, path: str, size: int, *, executable: bool) -> None:
        """Begin a file of `size` bytes, of which `content` or `packed_content` is added before `end`."""
        self._store(_header(path, tarfile.REGTYPE, 0o755 if executable else 0o644, size))

    def content(self, data: bytes) -> None:
        """Add a piece of the begun file as it is."""
        self._store(data)

    def packed_content(self, pieces: Iterable[tuple[bytes, bytes]], size: int, crc: int) -> None:
        """Add the begun file's whole content as the raw deflate stream that it came in.

        Each of `pieces` is a piece of the stream and a piece of the content, either of which may be empty; `size` and
        `crc` (CRC-32) are those of the content.
        """
        self.flush()
        self._write(_MEMBER_HEADER)
        for packed, unpacked in pieces:
            self._write(packed)
            self._unpacked.update(unpacked)
        self._write(struct.pack("<LL", crc, size & 0xFFFFFFFF))

    def end(self, size: int) -> None:
        """End the begun file."""
        self._store(bytes(-size % _BLOCK))

    def append(self, packed: Iterable[bytes]) -> None:
        """Add the entries of another archive of this class (its bytes without END)."""
        self.flush()
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
        for chunk in packed:
            self._write(chunk)
            rest = chunk
            while rest:
                self._unpacked.update(unpack.decompress(rest))
                rest = unpack.unused_data
                if unpack.eof:
                    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def finish(self) -> None:
        """Write the end of the archive."""
        self.flush()
        self._unpacked.update(bytes(2 * _BLOCK))
        self._write(END)

    def _store(self, data: bytes) -> None:
        self._unpacked.update(data)
        self._pending += data
        if len(self._pending) > _FLUSH_ABOVE:
            self.flush()

    def flush(self) -> None:
        """End the current member: what follows can be cut off and appended elsewhere."""
        if self._pending:
            self._write(stored_member(bytes(self._pending)))
            self._pending.clear()

    def _write(self, data: bytes) -> None:
        self._packed.update(data)
        self.size += len(data)
        self._output.write(data)


def stored_member(data: bytes) -> bytes:
    """Return a gzip member that holds the data uncompressed (RFC 1951, 3.2.4)."""
    parts = [_MEMBER_HEADER]
    for start in range(0, len(data) or 1, _LARGEST_STORED):
        block = data[start : start + _LARGEST_STORED]
        last = start + _LARGEST_STORED >= len(data)
        parts += (struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block)
    parts.append(struct.pack("<LL", zlib.crc32(data), len(data) & 0xFFFFFFFF))
    return b"".join(parts)


END = stored_member(bytes(2 * _BLOCK))
"""The last member of every archive of this class."""


def _header(path: str, kind: bytes, mode: int, size: int = 0, target: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, target, EPOCH
    if path.isascii() and target.isascii():
        with contextlib.suppress(ValueError):  # too long or too large for the short form
            return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def is_worth_packing(size: int, stored_size: int) -> bool:
    """Whether a file's deflate stream as a member of its own takes less room than its content as it is."""
    return stored_size + _MEMBER_COST < size


def compress(archive: Path, path: Path, level: int) -> tuple[str, int, str]:
    """Compress a file on all processors; return its digest, the compressed file's size, and that one's digest.

    The result is one gzip member for each 4 MiB, which is as good a gzip file as any (RFC 1952, 2.2).
    """
    unpacked, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    threads = len(os.sched_getaffinity(0))
    member = partial(gzip.compress, compresslevel=level, mtime=0)
    with archive.open("rb") as source, path.open("wb") as target, ThreadPoolExecutor(threads) as pool:
        while batch := [chunk for chunk in (source.read(_CHUNK) for _ in range(2 * threads)) if chunk]:
            for chunk, part in zip(batch, pool.map(member, batch), strict=True):
                unpacked.update(chunk)
                packed.update(part)
                size += target.write(part)
    return f"sha256:{unpacked.hexdigest()}", size, f"sha256:{packed.hexdigest()}"
