"""What a base image holds, found by reading its layers once: Pythons, C library, libraries. Nothing of it is run.

What one layer says is kept by the layer's digest, so a base image costs its reading time (about a second per 100 MB)
once per machine, and an image built on it costs only what it adds.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from packaging.utils import canonicalize_name

from image_registry.builds.faults import InvalidImageError
from image_registry.builds.files import write_whole
from image_registry.builds.layer import PREFIX
from image_registry.builds.oci.manifest import OCI_LAYER_ZSTD, Descriptor
from image_registry.builds.packages.managers import System, parse_release
from image_registry.builds.plan import Library, internal
from image_registry.builds.wheel import read_headers

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_FORMAT = 2
"""Change it with what is looked for: kept answers have it in their names."""
_METADATA = re.compile(r"\.dist-info/METADATA$|\.egg-info/PKG-INFO$|\.egg-info$")
_PYTHON = re.compile(r"(?:usr/|usr/local/|opt/[^/]+/)bin/python3\.\d+")
_PYTHON_CODE = re.compile(r"(?:.*/)?(?:bin/python3\.\d+|libpython3\.\d+\.so\.1\.0)")
_GLIBC = re.compile(r"usr/lib(?:64|/[a-z0-9_]+-linux-gnu)?/(?:libc\.so\.6|libc-2\.\d+\.so)")
_GLIBC_VERSION = re.compile(rb"GNU C Library [^\n]{0,80}version (2)\.(\d+)")
_MUSL = re.compile(r"usr/lib/ld-musl-[a-z0-9_]+\.so\.1")
_MUSL_VERSION = re.compile(rb"\0(1)\.(\d+)\.\d+\0")
_RELEASE = re.compile(r"(?:etc|usr/lib)/os-release")
_MANAGER = re.compile(r"usr/bin/(?:apt-get|dnf|yum|microdnf)")
_MERGED = re.compile(r"^(?=(?:bin|sbin|lib|lib64)/)")
_LARGEST_METADATA = 8 * 1024 * 1024
_LARGEST_CODE = 64 * 1024 * 1024
_CHUNK = 1 << 20


@dataclass
class LayerContents:
    """What one layer adds and removes; paths are relative to the root, with `/bin` and `/lib` taken as `/usr`'s."""

    removed: list[str] = field(default_factory=list)
    """Paths that this layer removes from the layers below, with all that is in them."""
    emptied: list[str] = field(default_factory=list)
    """Folders of which this layer removes all that the layers below have in them."""
    libraries: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Metadata file → (name, version)."""
    links: dict[str, str] = field(default_factory=dict)
    """Python → what it is a link to; empty for a file."""
    versions: dict[str, str] = field(default_factory=dict)
    """Python or libpython → `X.Y.Z`."""
    libc: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """C library → (kind, major, minor)."""
    environment: dict[str, str] = field(default_factory=dict)
    """`pyvenv.cfg` of a managed environment → its text."""
    release: dict[str, str] = field(default_factory=dict)
    """os-release file → its text; empty for a link to the other place."""
    managers: dict[str, str] = field(default_factory=dict)
    """Program of a package manager → its name."""

    @classmethod
    def from_json(cls, text: str) -> LayerContents:
        """Read what `json.dumps(asdict(...))` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        values = json.loads(text)
        for kind in ("libraries", "libc"):
            values[kind] = {path: tuple(found) for path, found in values[kind].items()}
        return cls(**values)


def read_layer(open_data: Callable[[], BinaryIO], descriptor: Descriptor, kept: Path) -> LayerContents:
    """Return what a layer holds, from `kept` where an earlier call has put it. Raises InvalidImageError and OSError.

    Otherwise the layer is read to its end and checked against its digest.
    """
    answer = kept / f"{descriptor.digest.removeprefix('sha256:')}.{_FORMAT}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return LayerContents.from_json(answer.read_text())
    with open_data() as data:
        contents = _read(data, descriptor)
    kept.mkdir(parents=True, exist_ok=True)
    write_whole(answer, json.dumps(asdict(contents)).encode())
    return contents


def _read(data: BinaryIO, descriptor: Descriptor) -> LayerContents:
    hashed = _Hashed(data)
    contents = LayerContents()
    try:
        stream = io.BufferedReader(hashed, _CHUNK)
        unpacked: Any = _unpacked(stream, descriptor)  # only read from, which tarfile's stubs don't say
        with tarfile.open(fileobj=unpacked, mode="r|", bufsize=_CHUNK) as archive:
            for member in archive:
                _look_at(archive, member, contents)
        while stream.read(_CHUNK):
            pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise InvalidImageError(f"layer {descriptor.digest} can't be read: {error}") from error
    if hashed.digest != descriptor.digest:
        raise InvalidImageError(f"layer {descriptor.digest} is damaged")
    return contents


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Hashed(io.RawIOBase):
    """Bytes read through here are counted into a digest."""

    def __init__(self, data: BinaryIO) -> None:
        super().__init__()
        self._data = data
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        chunk = self._data.read(len(view))
        view[: len(chunk)] = chunk
        self._hash.update(chunk)
        return len(chunk)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _unpacked(stream: io.BufferedReader[_Hashed], descriptor: Descriptor) -> _Readable:
    """Return the tar archive inside a layer's blob; its first bytes say more surely than its type how it is packed."""
    head = stream.peek(4)
    if head.startswith(b"\x28\xb5\x2f\xfd") or descriptor.media_type == OCI_LAYER_ZSTD:
        import zstandard  # noqa: PLC0415 (seldom needed, and slow to import)

        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    return stream


def _look_at(archive: tarfile.TarFile, member: tarfile.TarInfo, contents: LayerContents) -> None:
    path = _MERGED.sub("usr/", "/".join(part for part in member.name.split("/") if part not in {"", "."}))
    folder, _, name = path.rpartition("/")
    if name == ".wh..wh..opq":
        contents.emptied.append(folder)
    elif name.startswith(".wh."):
        contents.removed.append(f"{folder}/{name.removeprefix('.wh.')}".removeprefix("/"))
    elif member.isdir():
        return
    elif _METADATA.search(path):
        headers = read_headers(_content(archive, member, _LARGEST_METADATA).decode("utf-8", "replace"))
        if headers.get("Name") and headers.get("Version"):
            contents.libraries[path] = (headers["Name"], headers["Version"])
    elif _PYTHON_CODE.fullmatch(path):
        _look_at_python(archive, member, path, contents)
    elif (glibc := _GLIBC.fullmatch(path)) or _MUSL.fullmatch(path):
        code = _content(archive, member, _LARGEST_CODE)
        if found := (_GLIBC_VERSION if glibc else _MUSL_VERSION).search(code):
            contents.libc[path] = ("glibc" if glibc else "musl", int(found[1]), int(found[2]))
    elif _RELEASE.fullmatch(path):
        contents.release[path] = _content(archive, member, _LARGEST_METADATA).decode("utf-8", "replace")
    elif _MANAGER.fullmatch(path):
        contents.managers[path] = posixpath.basename(path)
    elif path == f"{PREFIX}/pyvenv.cfg":
        contents.environment[path] = _content(archive, member, _LARGEST_METADATA).decode("utf-8", "replace")


def _look_at_python(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, contents: LayerContents) -> None:
    target = ""
    if member.issym():
        target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), member.linkname)).lstrip("/")
    elif member.islnk():
        target = posixpath.normpath(posixpath.join("/", member.linkname)).lstrip("/")
    contents.links[path] = _MERGED.sub("usr/", target)
    minor = re.escape(".".join(re.findall(r"\d+", posixpath.basename(path))[:2])).encode()
    version = re.compile(rb"\0(" + minor + rb"\.\d+(?:rc\d+)?)\+?\0")
    if found := version.search(_content(archive, member, _LARGEST_CODE)):
        contents.versions[path] = found[1].decode()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    file = archive.extractfile(member) if member.isreg() and member.size <= limit else None
    return file.read() if file else b""


@dataclass(frozen=True)
class Base:
    """What a base image holds, all its layers taken together.

    `environment` is the full Python version of the managed environment that it has, if any.
    """

    contents: LayerContents

    @classmethod
    def of(cls, layers: Iterable[LayerContents]) -> Base:
        """Put layers on one another, the lowest first."""
        total = LayerContents()
        for layer in layers:
            for kind in ("libraries", "links", "versions", "libc", "environment", "release", "managers"):
                below, own = getattr(total, kind), getattr(layer, kind)
                gone = [path for path in below if path in layer.links or _is_removed(path, layer)]
                for path in gone:
                    del below[path]
                below.update(own)
        return cls(total)

    @property
    def libc(self) -> tuple[str, tuple[int, int]] | None:
        """Kind and version of the C library: glibc if there are both."""
        found = sorted((kind, (major, minor)) for kind, major, minor in self.contents.libc.values())
        return found[0] if found else None

    @property
    def system(self) -> System:
        """The distribution, and the programs of package managers that there are."""
        texts = (self.contents.release.get(path) for path in ("etc/os-release", "usr/lib/os-release"))
        release = next((text for text in texts if text), "")
        return System(parse_release(release), frozenset(self.contents.managers.values()))

    def python(self, version: str) -> tuple[str, str]:
        """Return the path of the interpreter of this version (X.Y), and its full version.

        Raises BuildFailed (INTERNAL) naming the Pythons that there are.
        """
        paths = [p for p in self.contents.links if _PYTHON.fullmatch(p) and not p.startswith(f"{PREFIX}/")]
        found = sorted((p for p in paths if p.endswith(f"bin/python{version}")), key=_python_order)
        if not found:
            others = sorted({path.rpartition("python")[2] for path in paths}, key=lambda v: int(v.split(".")[1]))
            has = f"has {', '.join(others)}" if others else "has no Python at all"
            internal(f"The base image has no Python {version}: it {has}.")
        return f"/{found[0]}", self._full_version(found[0], version)

    def _full_version(self, path: str, version: str) -> str:
        prefix = path.rpartition("bin/")[0]
        seen = set()
        while path and path not in seen:
            seen.add(path)
            if path in self.contents.versions:
                return self.contents.versions[path]
            path = self.contents.links.get(path, "")
        shared = f"libpython{version}.so.1.0"
        for path, full in self.contents.versions.items():
            if path.startswith(f"{prefix}lib") and path.endswith(f"/{shared}"):
                return full
        return f"{version}.0"

    def pinned(self, version: str) -> dict[str, Library]:
        """Return the libraries of the managed environment that the base image has, by normalised name."""
        return self._in_folders([f"{PREFIX}/lib/python{version}/site-packages"])

    def has_environment(self, version: str) -> bool:
        """Whether there is a managed environment for this Python. Raises BuildFailed for one of another Python."""
        text = self.contents.environment.get(f"{PREFIX}/pyvenv.cfg")
        if text is None:
            return False
        if not re.search(rf"^version = {re.escape(version)}\.", text, re.MULTILINE):
            internal(f"The base image is a managed image of another Python than {version}.")
        return True

    def visible(self, interpreter: str) -> dict[str, Library]:
        """Return the base's own libraries that an interpreter (`/usr/bin/python3.11`) sees, by normalised name.

        The order is that of Python's `site.getsitepackages`, and of Debian's where there are `dist-packages`.
        """
        prefix, _, name = interpreter.removeprefix("/").rpartition("/bin/")
        site = [f"{prefix}/{lib}/{name}/site-packages" for lib in ("lib64", "lib")]
        if prefix == "usr":
            debian = [f"usr/local/lib/{name}", "usr/lib/python3", f"usr/lib/{name}"]
            debian = [f"{folder}/dist-packages" for folder in debian]
            local = [f"usr/local/{lib}/{name}/site-packages" for lib in ("lib64", "lib")]
            is_debian = any("/dist-packages/" in path for path in self.contents.libraries)
            site = [f"usr/lib/{name}/site-packages", *debian] if is_debian else [*local, *site]
        return self._in_folders(site)

    def _in_folders(self, folders: list[str]) -> dict[str, Library]:
        found: dict[str, Library] = {}
        for folder in folders:
            for path, (name, version) in sorted(self.contents.libraries.items()):
                parent = path.rpartition("/")[0]
                if folder in {parent, parent.rpartition("/")[0]}:
                    found.setdefault(canonicalize_name(name), Library(name=name, version=version))
        return found


def _python_order(path: str) -> tuple[bool, bool, str]:
    """`/usr/local` first, as in PATH, then `/opt`, then the distribution's."""
    return not path.startswith("usr/local/"), not path.startswith("opt/"), path


def _is_removed(path: str, layer: LayerContents) -> bool:
    removed = any(path == gone or path.startswith(f"{gone}/") for gone in layer.removed)
    return removed or any(not folder or path.startswith(f"{folder}/") for folder in layer.emptied)
