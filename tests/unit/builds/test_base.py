"""What is found in base images: made up here, layer by layer, of just the files that tell."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from image_registry.builds.base import Base, read_layer
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.oci.manifest import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, digest_of
from image_registry.builds.plan import BuildFailed
from tests.unit.builds.images import layer_of, tar_of

GLIBC = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n"
MUSL = b"\0musl libc\0\x001.2.5\0Version %s\0"


def metadata(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: none of this\n"


DEBIAN: dict[str, bytes | str] = {
    "./usr/bin/python3.11": b"\x7fELF\0" + b"3.40.1\0" + b"3.11.2\0",
    "./usr/bin/python3": "->python3.11",
    "./lib/x86_64-linux-gnu/libc.so.6": GLIBC,
    "./usr/lib/python3/dist-packages/pip-23.0.1.dist-info/METADATA": metadata("pip", "23.0.1"),
    "./usr/lib/python3/dist-packages/setuptools-66.1.1.egg-info/PKG-INFO": metadata("setuptools", "66.1.1"),
    "./usr/lib/python3/dist-packages/old.egg-info": metadata("old", "0.1"),
    "./usr/local/lib/python3.11/dist-packages/Added_Later-1.dist-info/METADATA": metadata("Added_Later", "1"),
    "./usr/local/lib/python3.11/site-packages/unseen-1.dist-info/METADATA": metadata("unseen", "1"),
    "./usr/lib/python3.10/dist-packages/unseen-1.dist-info/METADATA": metadata("unseen", "1"),
}
OFFICIAL: dict[str, bytes | str] = {
    **DEBIAN,
    "usr/local/bin/python3.12": b"\x7fELF, and the rest is in the library",
    "usr/local/lib/libpython3.12.so.1.0": b"\x7fELF\0" + b"3.12.7\0",
    "usr/local/lib/python3.12/site-packages/pip-24.2.dist-info/METADATA": metadata("pip", "24.2"),
}


def base_of(folder: Path, *layers: dict[str, bytes | str]) -> Base:
    contents = []
    for files in layers:
        descriptor, blob, _ = layer_of(files)
        contents.append(read_layer(lambda blob=blob: io.BytesIO(blob), descriptor, folder))  # type: ignore[misc]
    return Base.of(contents)


def names(base: Base, interpreter: str) -> dict[str, str]:
    return {library.name: library.version for library in base.visible(interpreter).values()}


def test_debian(tmp_path: Path) -> None:
    base = base_of(tmp_path, DEBIAN)
    assert base.python("3.11") == ("/usr/bin/python3.11", "3.11.2")
    assert base.libc == ("glibc", (2, 36))
    assert names(base, "/usr/bin/python3.11") == {
        "pip": "23.0.1",
        "setuptools": "66.1.1",
        "old": "0.1",
        "Added_Later": "1",
    }
    assert not base.has_environment("3.11")
    with pytest.raises(BuildFailed, match=r"no Python 3\.12: it has 3\.11\."):
        base.python("3.12")


def test_official_python_goes_before_the_distributions(tmp_path: Path) -> None:
    base = base_of(tmp_path, OFFICIAL, {"usr/local/bin/python3.11": "->/usr/bin/python3.11"})
    assert base.python("3.12") == ("/usr/local/bin/python3.12", "3.12.7")
    assert base.python("3.11") == ("/usr/local/bin/python3.11", "3.11.2")
    assert names(base, "/usr/local/bin/python3.12") == {"pip": "24.2"}


def test_alpine(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "lib/ld-musl-aarch64.so.1": MUSL,
        "usr/bin/python3.12": b"\0" + b"3.12.3\0",
        "usr/lib/python3.12/site-packages/pip-24.0.dist-info/METADATA": metadata("pip", "24.0"),
    }
    base = base_of(tmp_path, files)
    assert base.libc == ("musl", (1, 2))
    assert base.python("3.12") == ("/usr/bin/python3.12", "3.12.3")
    assert names(base, "/usr/bin/python3.12") == {"pip": "24.0"}


def test_red_hat(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "usr/lib64/libc.so.6": GLIBC.replace(b"2.36", b"2.34"),
        "usr/bin/python3.9": b"\0" + b"3.9.18\0",
        "usr/lib/python3.9/site-packages/pip-21.3.1.dist-info/METADATA": metadata("pip", "21.3.1"),
        "usr/lib64/python3.9/site-packages/dbus_python-1.2.18-py3.9.egg-info": metadata("dbus-python", "1.2.18"),
        "usr/local/lib/python3.9/site-packages/pip-24.0.dist-info/METADATA": metadata("pip", "24.0"),
    }
    base = base_of(tmp_path, files)
    assert base.libc == ("glibc", (2, 34))
    assert names(base, "/usr/bin/python3.9") == {"pip": "24.0", "dbus-python": "1.2.18"}


def test_later_layers_hide_and_replace(tmp_path: Path) -> None:
    base = base_of(
        tmp_path,
        OFFICIAL,
        {
            "usr/local/lib/python3.12/site-packages/.wh.pip-24.2.dist-info": "",
            "usr/local/lib/python3.12/site-packages/pip-25.0.dist-info/METADATA": metadata("pip", "25.0"),
        },
        {"usr/lib/python3/.wh..wh..opq": ""},
        {"usr/bin/.wh.python3.11": "", ".wh.opt": ""},
    )
    assert names(base, "/usr/local/bin/python3.12") == {"pip": "25.0"}
    assert names(base, "/usr/bin/python3.11") == {"Added_Later": "1"}
    with pytest.raises(BuildFailed, match=r"it has 3\.12\."):
        base.python("3.11")


def test_managed_environment_fixes_its_libraries(tmp_path: Path) -> None:
    base = base_of(
        tmp_path,
        DEBIAN,
        {
            "opt/managed/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11.2\n",
            "opt/managed/bin/python3.11": "->/usr/bin/python3.11",
            "opt/managed/lib/python3.11/site-packages/six-1.16.0.dist-info/METADATA": metadata("six", "1.16.0"),
        },
    )
    assert base.has_environment("3.11")
    assert {library.name: library.version for library in base.pinned("3.11").values()} == {"six": "1.16.0"}
    assert base.python("3.11")[0] == "/usr/bin/python3.11"
    with pytest.raises(BuildFailed, match="another Python"):
        base.has_environment("3.12")


def test_base_without_python(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="it has no Python at all"):
        base_of(tmp_path, {"bin/sh": b""}).python("3.11")


@pytest.mark.parametrize("kind", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
def test_all_compressions(tmp_path: Path, kind: str) -> None:
    half = len(tar_of(DEBIAN)) // 2
    pack: dict[str, Callable[[bytes], bytes]] = {
        OCI_LAYER: lambda data: data,
        OCI_LAYER_GZIP: lambda data: gzip.compress(data[:half]) + gzip.compress(data[half:]),
        OCI_LAYER_ZSTD: lambda data: zstandard.compress(data[:half]) + zstandard.compress(data[half:]),
    }
    blob = pack[kind](tar_of(DEBIAN))
    descriptor = Descriptor(kind, digest_of(blob), len(blob))
    contents = read_layer(lambda: io.BytesIO(blob), descriptor, tmp_path)
    assert Base.of([contents]).python("3.11") == ("/usr/bin/python3.11", "3.11.2")


def test_layers_are_read_once(tmp_path: Path) -> None:
    descriptor, blob, _ = layer_of(DEBIAN)
    first = read_layer(lambda: io.BytesIO(blob), descriptor, tmp_path)
    second = read_layer(lambda: pytest.fail("read again"), descriptor, tmp_path)
    assert first == second
    (kept,) = tmp_path.iterdir()
    kept.chmod(0o644)
    kept.write_text("damaged")
    assert read_layer(lambda: io.BytesIO(blob), descriptor, tmp_path) == first


@pytest.mark.parametrize("damage", ["cut off", "changed", "not a tar"])
def test_damaged_layers(tmp_path: Path, damage: str) -> None:
    descriptor, blob, _ = layer_of(DEBIAN)
    data = {
        "cut off": blob[: len(blob) // 2],
        "changed": blob + b"\0",
        "not a tar": gzip.compress(b"this is no archive" * 100),
    }[damage]
    with pytest.raises(InvalidImageError):
        read_layer(lambda: io.BytesIO(data), descriptor, tmp_path)
    assert list(tmp_path.iterdir()) == []
