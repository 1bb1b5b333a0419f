"""Reading a wheel without trusting it: every entry is judged before the first byte is unpacked.

The format is PEP 427 in a ZIP archive. A wheel that holds anything that an installer shouldn't meet (paths that climb
out, links, names with control characters, archives that unpack to more than they admit) is refused whole.
"""

from __future__ import annotations

import csv
import io
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from image_registry.builds.plan import Limits, user_error

_CHUNK = 1 << 18
_LARGEST_PIECE = 1 << 20
_LARGEST_METADATA = 16 * 1024 * 1024
_LARGEST_DIRECTORY = 64 * 1024 * 1024
_LONGEST_PATH = 1024
_LONGEST_NAME = 200  # characters; Linux file systems take 255 bytes
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
_ENTRY_POINT = re.compile(r"\s*([\w.]+)\s*(?::\s*([\w.]+))?\s*(?:\[[^\]]*\])?\s*")
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Entry:
    """One file of a wheel: where it is in the archive, and what the archive says of it."""

    name: str
    offset: int
    compressed: bool
    stored_size: int
    size: int
    crc: int
    executable: bool


class WheelFile:
    """An open wheel that has passed all checks that need no unpacking. Use as a context manager.

    Raises BuildFailed (USER_ERROR) naming the wheel and what is wrong with it.
    """

    def __init__(self, path: Path, filename: str, limits: Limits) -> None:
        self.filename = filename
        self._file: BinaryIO = path.open("rb")
        try:
            self.entries = self._read_directory(limits)
            self._dist_info = self._find_dist_info()
            self.name, self.version = self._read_metadata()
            self._check_record()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> WheelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def refuse(self, why: str) -> NoReturn:
        """Raise BuildFailed: this wheel can't be installed."""
        user_error(f"The wheel {self.filename} is refused: {why}.")

    @property
    def dist_info(self) -> str:
        """The name of the wheel's `.dist-info` folder."""
        return self._dist_info

    def _read_directory(self, limits: Limits) -> dict[str, Entry]:
        self._check_directory_size()
        try:
            with zipfile.ZipFile(self._file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
            self.refuse(f"it is not a ZIP archive ({error})")
        if len(infos) > limits.files:
            self.refuse(f"it holds more than {limits.files} files")
        if sum(info.file_size for info in infos) > limits.unpacked_bytes:
            self.refuse(f"it unpacks to more than {limits.unpacked_bytes} bytes")
        entries: dict[str, Entry] = {}
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            entry = self._check_entry(info)
            if info.header_offset < end:
                self.refuse("files overlap in the archive")
            end = entry.offset + entry.stored_size
            if info.is_dir():
                continue
            if entry.name in entries:
                self.refuse(f"it holds {entry.name!a} twice")
            entries[entry.name] = entry
        if clash := folders_of(entries) & entries.keys():
            self.refuse(f"{min(clash)!a} is both a file and a folder")
        return entries

    def _check_directory_size(self) -> None:
        """Look at the archive's own account of its directory, so that reading it can't take all memory."""
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(max(0, size - _END_OF_DIRECTORY.size - 0xFFFF))
        tail = self._file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
            self.refuse("it is not a ZIP archive")
        directory = _END_OF_DIRECTORY.unpack_from(tail, at)[5]
        if directory == 0xFFFFFFFF:
            locator = tail.rfind(b"PK\6\6")
            directory = struct.unpack_from("<Q", tail, locator + 40)[0] if 0 <= locator <= len(tail) - 56 else 1 << 63
        if directory > _LARGEST_DIRECTORY:
            self.refuse("its list of files is too long")

    def _check_entry(self, info: zipfile.ZipInfo) -> Entry:
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        if problem := unsafe_path(info.orig_filename):
            self.refuse(f"the path {info.orig_filename[:200]!a} {problem}")
        if name != info.orig_filename:
            self.refuse(f"{name[:200]!a} has two names")
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            self.refuse(f"{name!a} is a link or a device")
        if info.flag_bits & 0x1:
            self.refuse(f"{name!a} is encrypted")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            self.refuse(f"{name!a} is compressed in a way that wheels are not")
        compressed = info.compress_type == zipfile.ZIP_DEFLATED
        if not compressed and info.compress_size != info.file_size:
            self.refuse(f"{name!a} has two sizes")
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            self.refuse(f"{name!a} is not where the archive says")
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        return Entry(
            name=name.rstrip("/"),
            offset=info.header_offset + _LOCAL_HEADER.size + name_length + extra_length,
            compressed=compressed,
            stored_size=info.compress_size,
            size=info.file_size,
            crc=info.CRC,
            executable=bool(info.external_attr >> 16 & 0o111),
        )

    def pieces(self, entry: Entry) -> Iterator[tuple[bytes, bytes]]:
        """Yield an entry as pieces of what the archive stores and of what that unpacks to; either may be empty.

        Refuses an entry that is damaged or isn't what the archive's list says, as soon as that shows.
        """
        unpack = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compressed else None
        size, crc = 0, 0
        for stored in self._stored(entry):
            rest = stored
            for unpacked in self._inflated(unpack, stored, entry) if unpack else (stored,):
                size, crc = size + len(unpacked), zlib.crc32(unpacked, crc)
                if size > entry.size:
                    self.refuse(f"{entry.name!a} unpacks to more than the {entry.size} bytes that it admits")
                yield rest, unpacked
                rest = b""
        complete = unpack is None or (unpack.eof and not unpack.unused_data)
        if not complete or (size, crc) != (entry.size, entry.crc):
            self.refuse(f"{entry.name!a} is not what the archive's list says")

    def unpacked(self, entry: Entry) -> Iterator[bytes]:
        """Yield an entry's content."""
        return (unpacked for _, unpacked in self.pieces(entry))

    def _stored(self, entry: Entry) -> Iterator[bytes]:
        at, end = entry.offset, entry.offset + entry.stored_size
        while at < end:
            self._file.seek(at)
            chunk = self._file.read(min(end - at, _CHUNK))
            if not chunk:
                self.refuse(f"{entry.name!a} is cut off")
            at += len(chunk)
            yield chunk

    def _inflated(self, unpack: zlib._Decompress, stored: bytes, entry: Entry) -> Iterator[bytes]:
        """Unpack in pieces of bounded size; yields at least one, maybe empty."""
        try:
            yield unpack.decompress(stored, _LARGEST_PIECE)
            while unpack.unconsumed_tail:
                yield unpack.decompress(unpack.unconsumed_tail, _LARGEST_PIECE)
        except zlib.error:
            self.refuse(f"{entry.name!a} is damaged")

    def read(self, name: str) -> bytes:
        """Return a small file of the wheel."""
        entry = self.entries.get(name)
        if entry is None:
            self.refuse(f"it has no {name}")
        if entry.size > _LARGEST_METADATA:
            self.refuse(f"its {name} is too large")
        return b"".join(self.unpacked(entry))

    def _find_dist_info(self) -> str:
        folders = {name.partition("/")[0] for name in self.entries}
        found = [folder for folder in folders if folder.endswith(".dist-info")]
        if len(found) != 1:
            self.refuse(f"it has {len(found)} .dist-info folders")
        name, _, version = found[0].removesuffix(".dist-info").partition("-")
        if not self._is_own(name, version):
            self.refuse(f"its folder {found[0]!a} is not that of the wheel's name and version")
        return found[0]

    def _is_own(self, name: str, version: str) -> bool:
        try:
            own_name, own_version, *_ = parse_wheel_filename(self.filename)
            return (canonicalize_name(name), Version(version)) == (own_name, own_version)
        except (InvalidWheelFilename, InvalidVersion):
            return False

    def _read_metadata(self) -> tuple[str, str]:
        wheel = read_headers(self._text("WHEEL"))
        if not wheel.get("Wheel-Version", "").startswith("1."):
            self.refuse("its format is not version 1 of the wheel format")
        metadata = read_headers(self._text("METADATA"))
        name, version = metadata.get("Name", ""), metadata.get("Version", "")
        if not self._is_own(name, version) or not f"{name}{version}".isprintable():
            self.refuse("its METADATA is that of another name or version")
        return name, version

    def _text(self, name: str) -> str:
        return self.read(f"{self._dist_info}/{name}").decode("utf-8", "replace")

    def _check_record(self) -> None:
        """RECORD is written anew from what is installed; but one that names files elsewhere shows what was meant."""
        try:
            paths = [row[0] for row in csv.reader(self._text("RECORD").splitlines()) if row]
        except csv.Error:
            self.refuse("its RECORD can't be read")
        for path in paths:
            if problem := unsafe_path(path):
                self.refuse(f"its RECORD names {path[:200]!a}, which {problem}")

    def console_scripts(self) -> Iterator[tuple[str, str, str]]:
        """Yield (script, module, attribute) of the entry points that become commands."""
        if f"{self._dist_info}/entry_points.txt" not in self.entries:
            return
        parser = ConfigParser(delimiters=("=",), strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        try:
            parser.read_string(self._text("entry_points.txt"))
        except ConfigError:
            self.refuse("its entry_points.txt can't be read")
        for section in ("console_scripts", "gui_scripts"):
            for name, value in parser.items(section) if parser.has_section(section) else ():
                match = _ENTRY_POINT.fullmatch(value)
                if not match or not match[2] or not _SCRIPT_NAME.fullmatch(name):
                    self.refuse(f"its command {name[:200]!a} is none")
                yield name, match[1], match[2]


def read_headers(text: str) -> dict[str, str]:
    """Return the first value of each header of a metadata file (PEP 566), up to the blank line, unfolded."""
    headers: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            break
        if colon and not line[0].isspace():
            headers.setdefault(name, value.strip())
    return headers


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return all folders that files at these relative paths are in, at any depth."""
    folders: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def unsafe_path(path: str) -> str | None:
    """Say why a path can't be one within a wheel, or return None."""
    parts = path.removesuffix("/").split("/")
    faults = (
        (not path or len(path) > _LONGEST_PATH, "is empty or too long"),
        (any(map(_is_control, path)), "holds control characters"),
        ("\\" in path or path.startswith("/") or path[1:2] == ":", "is not a relative path"),
        (not {"", ".", ".."}.isdisjoint(parts), "leaves its folder or is not in plain form"),
        (any(len(part) > _LONGEST_NAME for part in parts), "has too long a name in it"),
        # A whiteout, image-spec "layer.md": it would remove files from the image.
        (any(part.startswith(".wh.") for part in parts), "would remove files from the image"),
    )
    return next((fault for is_so, fault in faults if is_so), None)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
