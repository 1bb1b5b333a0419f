"""References, manifests, and the manifests of new images."""

import json
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.cache import Layer
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.image import compose
from image_registry.builds.oci.layout import Layout
from image_registry.builds.oci.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    select_platform,
)
from image_registry.builds.oci.reference import LayoutReference, RegistryReference, parse_reference
from tests.unit.builds.images import image_of, layer_of, write_layout

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("python", RegistryReference("docker.io", "library/python", "latest")),
        ("python:3.11-slim", RegistryReference("docker.io", "library/python", "3.11-slim")),
        ("docker.io/library/python:3.11", RegistryReference("docker.io", "library/python", "3.11")),
        ("docker.io/python", RegistryReference("docker.io", "library/python", "latest")),
        ("me/python:x", RegistryReference("docker.io", "me/python", "x")),
        ("localhost/x", RegistryReference("localhost", "x", "latest")),
        ("registry.example:5000/a/b_c/d:tag", RegistryReference("registry.example:5000", "a/b_c/d", "tag")),
        ("[::1]:5000/x:1", RegistryReference("[::1]:5000", "x", "1")),
        (f"r.example/x@{DIGEST}", RegistryReference("r.example", "x", DIGEST)),
        (f"r.example/x:tag@{DIGEST}", RegistryReference("r.example", "x", DIGEST)),
        ("oci:/a/b:v1", LayoutReference(Path("/a/b"), "v1")),
        ("oci:/a/b", LayoutReference(Path("/a/b"), "")),
        ("oci:/a:1/b", LayoutReference(Path("/a:1/b"), "")),
        (f"oci:/a/b@{DIGEST}", LayoutReference(Path("/a/b"), DIGEST)),
    ],
)
def test_references(text: str, reference: LayoutReference | RegistryReference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("", ":x", "UPPER", "a//b", "a\nb", "x" * 300, "x:ta g", "x@", "http://r.example/x"),
        *("r.example/", "r.example/x:", "r.example/x@md5:12", "r.example/x/../y", "r.example:port/x"),
        *("oci:", "oci:a/b", "oci:/a/../b", "oci:/a@sha256:12"),
    ],
)
def test_texts_that_are_no_references(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        print(parse_reference(text))


def index(media_type: str, *platforms: tuple[str, str, str]) -> bytes:
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": digest, "size": 3, "platform": {"os": system, "architecture": machine}}
        for system, machine, digest in platforms
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_platform_is_chosen_from_an_index(media_type: str) -> None:
    other = DIGEST.replace("0", "f")
    data = index(media_type, ("windows", "arm64", DIGEST), ("linux", "amd64", DIGEST), ("linux", "arm64", other))
    assert select_platform(data, "arm64").digest == other
    with pytest.raises(InvalidImageError, match=r"no image for linux/s390x, only for windows/arm64, linux/amd64"):
        select_platform(data, "s390x")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"layers": [{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]},
        {"layers": [{"mediaType": OCI_LAYER_GZIP, "digest": "sha256:../../etc/passwd", "size": 3}]},
        {"layers": [{"mediaType": OCI_LAYER_GZIP, "digest": DIGEST, "size": -1}]},
        {"layers": [{"mediaType": OCI_LAYER_GZIP, "digest": DIGEST, "size": True}]},
        {"layers": [{"mediaType": OCI_LAYER_GZIP, "digest": DIGEST, "size": 1, "annotations": 7}]},
        {"config": None},
        {"config": "text"},
    ],
)
def test_manifests_that_cannot_be_used(change: dict[str, Any]) -> None:
    manifest, _ = image_of(layer_of({"a": "b"}))
    with pytest.raises(InvalidImageError):
        Manifest.read(json.dumps({**json.loads(manifest.data), **change}).encode(), OCI_MANIFEST)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'"text"', b"[" * 100_000, b" " * 5_000_000])
def test_data_that_is_no_manifest(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        Manifest.read(data, OCI_MANIFEST)


def test_layout_with_an_index_of_platforms(tmp_path: Path) -> None:
    arm, arm_config = image_of(layer_of({"a": "arm"}), media_type=DOCKER_MANIFEST)
    intel, intel_config = image_of(layer_of({"a": "intel"}))
    both = index(OCI_INDEX, ("linux", "arm64", arm.digest), ("linux", "amd64", intel.digest))
    both = both.replace(b'"size": 3', f'"size": {len(intel.data)}'.encode())
    entry = {"mediaType": OCI_INDEX, "digest": digest_of(both), "size": len(both)}
    blobs = (both, arm.data, intel.data, arm_config, intel_config)
    write_layout(tmp_path / "layout", {digest_of(blob): blob for blob in blobs}, [entry])
    assert Layout(tmp_path / "layout").manifest("", "amd64") == intel


def made_layer(name: str) -> Layer:
    descriptor, _, diff_id = layer_of({name: name})
    return Layer(descriptor, diff_id, ((name, "1.0"),), 1, (), (name,), 0)


def test_new_image_has_the_bases_layers_and_its_own() -> None:
    base_layer = layer_of({"base": "x"})
    base, config = image_of(
        base_layer,
        created="2024-05-05T05:05:05Z",
        history=[{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}],
        config={"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"], "Labels": None},
    )
    layers = [made_layer("one"), made_layer("two")]
    manifest, image = compose(base, config, layers)
    values, made = json.loads(manifest.data), json.loads(image)
    assert [layer["digest"] for layer in values["layers"]] == [
        base_layer[0].digest,
        *(layer.blob.digest for layer in layers),
    ]
    assert made["rootfs"]["diff_ids"] == [base_layer[2], *(layer.diff_id for layer in layers)]
    assert made["config"]["Env"] == ["PATH=/opt/managed/bin:/usr/bin:/bin", "LANG=C.UTF-8", "VIRTUAL_ENV=/opt/managed"]
    assert made["config"]["Cmd"] == ["python3"]
    assert made["created"] == "2024-05-05T05:05:05Z"
    assert [entry["created_by"] for entry in made["history"]] == [
        "ADD",
        "ENV",
        "image-registry: one 1.0",
        "image-registry: two 1.0",
    ]
    assert values["annotations"] == {"org.opencontainers.image.base.digest": base.digest}
    assert values["config"]["digest"] == digest_of(image)


def test_building_on_a_managed_image_changes_the_path_once() -> None:
    base, config = image_of(layer_of({"base": "x"}))
    system, system_config = compose(base, config, [made_layer("one")])
    _, image = compose(system, system_config, [made_layer("two")])
    path = next(entry for entry in json.loads(image)["config"]["Env"] if entry.startswith("PATH="))
    assert path.count("/opt/managed/bin") == 1
    assert path.endswith(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def test_docker_images_become_oci_images() -> None:
    descriptor, blob, diff_id = layer_of({"base": "x"})
    docker = Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", descriptor.digest, descriptor.size)
    base, config = image_of((docker, blob, diff_id), media_type=DOCKER_MANIFEST)
    manifest, _ = compose(base, config, [made_layer("one")])
    assert {layer["mediaType"] for layer in json.loads(manifest.data)["layers"]} == {OCI_LAYER_GZIP}
    assert compose(base, config, []) == (base, config)


def test_config_of_another_image_is_refused() -> None:
    base, _ = image_of(layer_of({"base": "x"}))
    _, config = image_of()
    with pytest.raises(InvalidImageError, match="other layers"):
        compose(base, config, [made_layer("one")])
