"""Libraries as image layers: a wheel's files at the places where an installer puts them in a virtual environment.

Every image has one virtual environment at PREFIX, whose Python is the base image's own. Places are those of Python's
`venv` install scheme; scripts begin with the environment's Python; RECORD lists exactly what is there.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from image_registry.builds.cache import Layer
from image_registry.builds.oci.manifest import OCI_LAYER_GZIP, Descriptor
from image_registry.builds.targz import END, TarGz, is_worth_packing
from image_registry.builds.wheel import Entry, WheelFile, folders_of

PREFIX = "opt/managed"
_FORMAT = 2
"""Change it with anything that changes a layer's bytes: cached layers have it in their keys."""
_PYTHON = f"/{PREFIX}/bin/python"
_INSTALLER = b"image-registry\n"
_CHUNK = 1 << 20
_OWN_FILES = re.compile(r"pyvenv\.cfg|bin|lib|lib64|include|bin/python(3(\.\d+)?)?")
_COMMAND = """\
#!{python}
import sys

from {module} import {first}

if __name__ == "__main__":
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit({attribute}())
"""
_PIP = f"""\
#!{_PYTHON}
import runpy

runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def wheel_layer_key(sha256: str, python_version: str) -> str:
    """Return the cache key of a wheel's layer: the same for every image with this Python version."""
    return _key("wheel", sha256, python_version)


def group_layer_key(parts: Iterable[Layer]) -> str:
    """Return the cache key of several layers in one."""
    return _key("group", *(part.blob.digest for part in parts))


def environment_layer_key(environment: Environment) -> str:
    """Return the cache key of the environment's own layer."""
    return _key("environment", environment.python_version, environment.interpreter, str(environment.has_pip))


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, PREFIX, *parts]).encode()).hexdigest()


@dataclass(frozen=True)
class Environment:
    """The virtual environment of an image.

    `python_version` is `X.Y.Z`, `interpreter` the absolute path of the base's Python, `has_pip` whether that has pip.
    """

    python_version: str
    interpreter: str
    has_pip: bool


def write_environment_layer(environment: Environment, path: Path) -> Layer:
    """Write the layer that makes PREFIX a virtual environment: what `python -m venv --system-site-packages` writes."""
    minor = ".".join(environment.python_version.split(".")[:2])
    home = environment.interpreter.rpartition("/")[0]
    configuration = (
        f"home = {home}\ninclude-system-site-packages = true\nversion = {environment.python_version}\n"
        f"executable = {environment.interpreter}\ncommand = {environment.interpreter} -m venv /{PREFIX}\n"
    )
    with _new_layer(path, folders_of(["bin/-", f"lib/python{minor}/site-packages/-"])) as new:
        new.tar.file(f"{PREFIX}/pyvenv.cfg", configuration.encode())
        new.tar.link(f"{PREFIX}/lib64", "lib")
        for name in ("python", "python3", f"python{minor}"):
            new.tar.link(f"{PREFIX}/bin/{name}", environment.interpreter)
        for name in ("pip", "pip3") if environment.has_pip else ():
            new.tar.file(f"{PREFIX}/bin/{name}", _PIP.encode(), executable=True)
    return new.finished()


def write_wheel_layer(wheel: WheelFile, python_version: str, path: Path) -> Layer:
    """Write the layer of one wheel. Raises BuildFailed (USER_ERROR) for what can't be installed, and OSError."""
    site = f"lib/python{python_version}/site-packages"
    record_path = f"{site}/{wheel.dist_info}/RECORD"
    made = {f"bin/{name}": _command(*target) for name, *target in wheel.console_scripts()}
    made[f"{site}/{wheel.dist_info}/INSTALLER"] = _INSTALLER
    placed = _places(wheel, python_version, site)
    for place in (*made, record_path):
        placed.pop(place, None)
    places = sorted([*placed, *made])
    _check_places(wheel, places)
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with _new_layer(path, folders_of([*places, record_path])) as new:
        for place in places:
            if place in made:
                row = _add_data(new.tar, place, made[place], executable=place.startswith("bin/"))
            else:
                row = _add_entry(new.tar, wheel, placed[place], place)
            rows.writerow([_relative(place, site), *row])
        rows.writerow([f"{wheel.dist_info}/RECORD", "", ""])
        new.tar.file(f"{PREFIX}/{record_path}", record.getvalue().encode())
    unpacked = sum(entry.size for entry in wheel.entries.values())
    return new.finished(((wheel.name, wheel.version),), unpacked, (*places, record_path))


def can_be_joined(layer: Layer, folders: set[str], paths: set[str]) -> bool:
    """Whether a layer may go into one with others that hold these folders and files.

    No path may be in a layer twice: container engines refuse it.
    """
    return paths.isdisjoint((*layer.paths, *layer.folders)) and folders.isdisjoint(layer.paths)


def write_group_layer(parts: Sequence[tuple[Layer, Path]], path: Path) -> Layer:
    """Write one layer out of several wheels' layers, which can be joined."""
    layers = [layer for layer, _ in parts]
    with _new_layer(path, {folder for layer in layers for folder in layer.folders}) as new:
        for layer, blob in parts:
            new.tar.append(_body(blob, layer))
    libraries = tuple(library for layer in layers for library in layer.libraries)
    places = tuple(place for layer in layers for place in layer.paths)
    return new.finished(libraries, sum(layer.unpacked_bytes for layer in layers), places)


@dataclass
class _NewLayer:
    """A layer that is being written: the folders, in order, then whatever is added to `tar`."""

    tar: TarGz
    folders: tuple[str, ...]
    body: int

    def finished(
        self, libraries: tuple[tuple[str, str], ...] = (), unpacked_bytes: int = 0, paths: tuple[str, ...] = ()
    ) -> Layer:
        """Describe the layer, which is complete."""
        blob = Descriptor(OCI_LAYER_GZIP, self.tar.digest, self.tar.size)
        return Layer(blob, self.tar.diff_id, libraries, unpacked_bytes, self.folders, paths, self.body)


@contextmanager
def _new_layer(path: Path, folders: set[str]) -> Iterator[_NewLayer]:
    with path.open("wb") as file:
        tar = TarGz(file)
        ordered = tuple(sorted(folders))
        tar.folder(PREFIX)
        for folder in ordered:
            tar.folder(f"{PREFIX}/{folder}")
        tar.flush()
        yield _NewLayer(tar, ordered, tar.size)
        tar.finish()


def _body(path: Path, layer: Layer) -> Iterator[bytes]:
    """Yield a layer's files as they are in its blob, without folders and end."""
    left = layer.blob.size - len(END) - layer.body
    with path.open("rb") as file:
        file.seek(layer.body)
        while left > 0:
            chunk = file.read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk


def _places(wheel: WheelFile, python_version: str, site: str) -> dict[str, Entry]:
    """Return where each file of the wheel goes, relative to PREFIX (PEP 427, "Installing a wheel")."""
    headers = f"include/site/python{python_version}/{canonicalize_name(wheel.name)}"
    schemes = {"purelib": site, "platlib": site, "headers": headers, "scripts": "bin", "data": ""}
    places: dict[str, Entry] = {}
    for name, entry in wheel.entries.items():
        scheme, path = "purelib", name
        top, _, rest = name.partition("/")
        if top.endswith(".data") and rest:
            scheme, _, path = rest.partition("/")
        if scheme not in schemes or not path:
            wheel.refuse(f"{name!a} is in no place that wheels have")
        place = f"{schemes[scheme]}/{path}".removeprefix("/")
        if place.startswith("lib64/"):
            place = f"lib/{place.removeprefix('lib64/')}"
        if place in places:
            wheel.refuse(f"two of its files would be {place!a}")
        places[place] = entry
    return places


def _check_places(wheel: WheelFile, places: list[str]) -> None:
    """Refuse files that would take the place of the environment's own, or of each other."""
    for place in places:
        if _OWN_FILES.fullmatch(place):
            wheel.refuse(f"it would replace the image's own {place}")
    if clash := folders_of(places) & set(places):
        wheel.refuse(f"{min(clash)!a} is both a file and a folder")


def _relative(place: str, site: str) -> str:
    if place.startswith(f"{site}/"):
        return place.removeprefix(f"{site}/")
    return f"{'../' * (site.count('/') + 1)}{place}"


def _command(module: str, attribute: str) -> bytes:
    first = attribute.partition(".")[0]
    return _COMMAND.format(python=_PYTHON, module=module, first=first, attribute=attribute).encode()


def _add_data(tar: TarGz, place: str, data: bytes, *, executable: bool) -> tuple[str, int]:
    tar.file(f"{PREFIX}/{place}", data, executable=executable)
    return _record_hash(hashlib.sha256(data)), len(data)


def _add_entry(tar: TarGz, wheel: WheelFile, entry: Entry, place: str) -> tuple[str, int]:
    is_script = place.startswith("bin/")
    if is_script and next(wheel.unpacked(entry), b"").startswith(b"#!python"):
        script = b"".join(wheel.unpacked(entry)).partition(b"\n")[2]
        return _add_data(tar, place, f"#!{_PYTHON}\n".encode() + script, executable=True)
    content = hashlib.sha256()
    tar.begin(f"{PREFIX}/{place}", entry.size, executable=entry.executable or is_script)
    if entry.compressed and is_worth_packing(entry.size, entry.stored_size):
        tar.packed_content(_hashed(wheel.pieces(entry), content), entry.size, entry.crc)
    else:
        for _, piece in _hashed(wheel.pieces(entry), content):
            tar.content(piece)
    tar.end(entry.size)
    return _record_hash(content), entry.size


def _hashed(pieces: Iterator[tuple[bytes, bytes]], content: hashlib._Hash) -> Iterator[tuple[bytes, bytes]]:
    for stored, unpacked in pieces:
        content.update(unpacked)
        yield stored, unpacked


def _record_hash(content: hashlib._Hash) -> str:
    return f"sha256={base64.urlsafe_b64encode(content.digest()).rstrip(b'=').decode()}"
