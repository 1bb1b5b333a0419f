"""Wheels as layers."""

import tarfile
from pathlib import Path

import pytest

from image_registry.builds.cache import Layer
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.layer import can_be_joined, write_group_layer, write_wheel_layer
from image_registry.builds.oci.manifest import OCI_LAYER_GZIP, Descriptor, digest_of_file
from image_registry.builds.plan import Limits
from image_registry.builds.wheel import WheelFile
from tests.fixtures.package_index import make_wheel


def layer_of(folder: Path, name: str, **parts: dict[str, bytes | str]) -> tuple[Layer, Path]:
    filename, content = make_wheel(name, **parts)  # type: ignore[arg-type]
    (folder / filename).write_bytes(content)
    with WheelFile(folder / filename, filename, Limits()) as wheel:
        return write_wheel_layer(wheel, "3.11", folder / name), folder / name


def test_layer_describes_its_blob(tmp_path: Path) -> None:
    layer, path = layer_of(tmp_path, "lib", files={"lib/data.txt": "x" * 10_000}, scripts={"tool": "lib:main"})
    assert layer.blob == Descriptor(OCI_LAYER_GZIP, digest_of_file(path), path.stat().st_size)
    assert layer.libraries == (("lib", "1.0"),)
    assert Layer.from_json(layer.to_json()) == layer
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    files = [member.name.removeprefix("opt/managed/") for member in members if member.isfile()]
    folders = [member.name.removeprefix("opt/managed/") for member in members if member.isdir()]
    assert files == list(layer.paths)
    assert folders == ["opt/managed", *layer.folders]


def test_same_wheel_makes_the_same_bytes_for_ever(tmp_path: Path) -> None:
    """These bytes are in people's registries: whatever changes them has to change the layer's `_FORMAT` too."""
    wheel = {"files": {"lib/a.txt": "a" * 99}, "scripts": {"tool": "lib:main"}}
    layer, _ = layer_of(tmp_path, "lib", **wheel)  # type: ignore[arg-type]
    assert layer.diff_id == "sha256:4b4c5e621e985fd6536bf8f163da263a8f8bfcfa8f92c7e8194f9280326e4d02"


def test_joined_layers_hold_all_files_once(tmp_path: Path) -> None:
    parts = [layer_of(tmp_path, name, files={f"shared/{name}.txt": name * 5000}) for name in ("one", "two")]
    joined = write_group_layer(parts, tmp_path / "joined")
    with tarfile.open(tmp_path / "joined") as archive:
        names = archive.getnames()
        content = archive.extractfile("opt/managed/lib/python3.11/site-packages/shared/two.txt")
        assert content is not None
        assert content.read() == b"two" * 5000
    assert len(names) == len(set(names)) == 1 + len(joined.folders) + len(joined.paths)
    assert joined.libraries == (("one", "1.0"), ("two", "1.0"))


@pytest.mark.parametrize(
    ("other", "joinable"),
    [({"shared/b": ""}, True), ({"shared/a": ""}, False), ({"shared": ""}, False), ({"shared/a/b": ""}, False)],
)
def test_what_can_be_joined(tmp_path: Path, other: dict[str, bytes | str], joinable: bool) -> None:
    first, _ = layer_of(tmp_path, "one", files={"shared/a": ""})
    second, _ = layer_of(tmp_path, "two", files=other)
    assert can_be_joined(second, set(first.folders), set(first.paths)) is joinable


@pytest.mark.parametrize("change", [("sha256:", "sha257:"), ("lib", "lob"), ("{", "[")])
def test_damaged_notes_are_noticed(tmp_path: Path, change: tuple[str, str]) -> None:
    layer, _ = layer_of(tmp_path, "lib")
    with pytest.raises((ValueError, KeyError, TypeError, InvalidImageError)):
        Layer.from_json(layer.to_json().replace(*change))
