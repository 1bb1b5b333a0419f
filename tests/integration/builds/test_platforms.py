"""Images for every Python, processor and C library: wheels are judged by the base image, never by this machine.

The base images here hold just the files that tell what they are; nothing in them could run anywhere.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from image_registry.builds.oci.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
)
from image_registry.builds.plan import FailureReason
from image_registry.builds.plan import PackageIndex as IndexSettings
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.integration.builds.conftest import Builder
from tests.unit.builds.images import image_of, layer_of, tar_of, write_layout

GLIBC = "\0GNU C Library (GNU libc) stable release version {}.\n"
BASES: dict[str, Callable[[str], dict[str, bytes | str]]] = {
    "glibc": lambda version: {"usr/lib64/libc.so.6": GLIBC.format("2.34"), **python(version)},
    "old glibc": lambda version: {"lib/x86_64-linux-gnu/libc-2.28.so": GLIBC.format("2.28"), **python(version)},
    "musl": lambda version: {"lib/ld-musl-x86_64.so.1": "\0musl libc\0\x001.2.4\0", **python(version)},
}


def python(version: str) -> dict[str, bytes | str]:
    return {f"usr/local/bin/python{version}": f"\0{version}.7\0"}


def write_base(folder: Path, files: dict[str, bytes | str], architecture: str = "amd64") -> str:
    """Write a base image the way Docker writes them: an index of platforms, schema 2 manifests, packed by zstd."""
    blob = zstandard.compress(tar_of(files))
    packed = (Descriptor(OCI_LAYER_ZSTD, digest_of(blob), len(blob)), blob, digest_of(tar_of(files)))
    lower = layer_of({"usr/local/bin/python3.8": "removed by the layer above"})
    whiteout = layer_of({"usr/local/bin/.wh.python3.8": ""})
    manifest, config = image_of(lower, whiteout, packed, media_type=DOCKER_MANIFEST, architecture=architecture)
    entry = {
        "mediaType": DOCKER_MANIFEST,
        "digest": manifest.digest,
        "size": len(manifest.data),
        "platform": {"os": "linux", "architecture": architecture},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": [entry]}).encode()
    blobs = [index, manifest.data, config, *(layer[1] for layer in (lower, whiteout, packed))]
    top = {"mediaType": DOCKER_INDEX, "digest": digest_of(index), "size": len(index)}
    write_layout(folder, {digest_of(one): one for one in blobs}, [top])
    return f"oci:{folder}"


def offer_all(package_index: PackageIndex) -> None:
    """Offer a library in wheels for many platforms, that needs another one on Python 3.9 only."""
    requires = ["backport; python_version < '3.10'"]
    for version in ("39", "310", "311", "312", "313"):
        for platform in (
            *("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64", "musllinux_1_2_x86_64"),
            *("manylinux_2_17_aarch64", "musllinux_1_1_aarch64", "win_amd64", "macosx_11_0_arm64"),
        ):
            tag = f"cp{version}-cp{version}-{platform}"
            package_index.add(make_wheel("lib", tag=tag, files={"lib/tag.txt": tag}, requires=requires))
    package_index.add(make_wheel("backport"))


@pytest.mark.parametrize(
    ("base", "architecture", "platform", "version"),
    [
        *(("glibc", "amd64", "manylinux_2_34_x86_64", version) for version in ("3.9", "3.10", "3.11", "3.12", "3.13")),
        ("old glibc", "amd64", "manylinux_2_28_x86_64", "3.9"),
        ("glibc", "arm64", "manylinux_2_17_aarch64", "3.12"),
        ("musl", "amd64", "musllinux_1_2_x86_64", "3.13"),
        ("musl", "arm64", "musllinux_1_1_aarch64", "3.9"),
    ],
)
async def test_wheels_fit_the_base(
    tmp_path: Path, package_index: PackageIndex, base: str, architecture: str, platform: str, version: str
) -> None:
    offer_all(package_index)
    reference = write_base(tmp_path / "base", BASES[base](version), architecture)
    builder = builder_for(tmp_path, package_index, reference, version)
    result = await builder.build("lib", platform=f"linux/{architecture}")
    tag = f"cp{version.replace('.', '')}"
    assert f"lib-1.0-{tag}-{tag}-{platform}.whl" in {library.filename for library in result.lock.libraries}
    assert ("backport" in {library.name for library in result.lock.libraries}) is (version == "3.9")
    assert result.python_version == f"{version}.7"


def builder_for(tmp_path: Path, package_index: PackageIndex, reference: str, version: str) -> Builder:
    (tmp_path / "builder").mkdir()
    base = TestBase(reference, tmp_path / "base", version)
    return Builder(tmp_path / "builder", base, IndexSettings(url=package_index.url))


async def test_base_for_another_processor_is_refused(tmp_path: Path, package_index: PackageIndex) -> None:
    reference = write_base(tmp_path / "base", BASES["glibc"]("3.11"))
    builder = builder_for(tmp_path, package_index, reference, "3.11")
    failure = await builder.refused("lib", platform="linux/arm64")
    assert failure.reason is FailureReason.INTERNAL
    assert "no image for linux/arm64, only for linux/amd64" in failure.message


async def test_only_wheels_for_another_platform(tmp_path: Path, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib", tag="cp311-cp311-win_amd64"))
    reference = write_base(tmp_path / "base", BASES["glibc"]("3.11"))
    failure = await builder_for(tmp_path, package_index, reference, "3.11").refused("lib")
    assert failure.reason is FailureReason.USER_ERROR
    assert "win_amd64" in failure.message
    assert "publish a wheel" in failure.message


async def test_image_keeps_the_bases_layers(tmp_path: Path, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    reference = write_base(tmp_path / "base", BASES["glibc"]("3.11"))
    builder = builder_for(tmp_path, package_index, reference, "3.11")
    result = await builder.build("lib")
    layout = builder.root / "image"
    manifest = json.loads((layout / "blobs" / result.digest.replace(":", "/")).read_text())
    types = [layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]]
    assert manifest["mediaType"] == OCI_MANIFEST
    assert types == ["gzip", "gzip", "zstd", "gzip", "gzip"]
    for layer in manifest["layers"]:
        assert (layout / "blobs" / layer["digest"].replace(":", "/")).stat().st_size == layer["size"]


async def test_damaged_base_is_refused(tmp_path: Path, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    reference = write_base(tmp_path / "base", BASES["glibc"]("3.11"))
    builder = builder_for(tmp_path, package_index, reference, "3.11")
    largest = max((tmp_path / "base" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\xff")
    failure = await builder.refused("lib")
    assert failure.reason is FailureReason.INTERNAL
    assert "damaged" in failure.message or "can't be read" in failure.message
