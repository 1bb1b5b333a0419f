"""Base images out of container registries."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_registry.builds.cache import Cache
from image_registry.builds.faults import InvalidImageError, UnavailableError
from image_registry.builds.oci.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from image_registry.builds.oci.reference import RegistryReference
from image_registry.builds.oci.registry import RegistryClient, RegistrySource
from image_registry.builds.plan import RegistryAccess
from tests.fixtures.container_registry import ContainerRegistry, run_registry
from tests.unit.builds.images import image_of, layer_of
from tests.unit.builds.test_images import index

LAYER = layer_of({"etc/hello": "hello" * 1000})
IMAGE, CONFIG = image_of(LAYER)
BLOB_PATH = f"/v2/team/image/blobs/{LAYER[0].digest}"
TAG_PATH = "/v2/team/image/manifests/v1"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_registry.builds.http._WAITS", (0.0, 0.01, 0.02))


@pytest.fixture
def registry(container_registry: ContainerRegistry) -> ContainerRegistry:
    """A registry that holds IMAGE as team/image:v1."""
    container_registry.blobs = {LAYER[0].digest: LAYER[1], IMAGE.config.digest: CONFIG}
    container_registry.manifests = dict.fromkeys(("v1", IMAGE.digest), (OCI_MANIFEST, IMAGE.data))
    return container_registry


@pytest.fixture
def source_of(tmp_path: Path) -> Iterator[Callable[..., RegistrySource]]:
    """Makes sources of team/image in a registry."""
    (tmp_path / "own").mkdir()
    clients = []

    def make(registry: ContainerRegistry, reference: str = "v1", *, password: str = "pass word") -> RegistrySource:
        access = RegistryAccess(
            host=registry.host, username="user", password=password, endpoint=f"http://{registry.host}"
        )
        clients.append(RegistryClient(access))
        cache = Cache(tmp_path / "cache", tmp_path / "own", print)
        return RegistrySource(clients[-1], RegistryReference(registry.host, "team/image", reference), "amd64", cache)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


SourceOf = Callable[..., RegistrySource]


def pull(source: RegistrySource) -> tuple[Manifest, bytes, bytes]:
    manifest = source.manifest()
    return manifest, source.config(manifest), source.layer_file(manifest.layers[0]).read_bytes()


@pytest.mark.parametrize("authentication", ["", "basic", "bearer"])
def test_image_is_pulled(registry: ContainerRegistry, source_of: SourceOf, authentication: str) -> None:
    registry.authentication = authentication
    assert pull(source_of(registry)) == (IMAGE, CONFIG, LAYER[1])
    if authentication == "bearer":
        assert registry.paths().count("/token") == 1


def test_image_is_pulled_by_digest(registry: ContainerRegistry, source_of: SourceOf) -> None:
    assert source_of(registry, IMAGE.digest).manifest() == IMAGE


def test_wrong_credentials(registry: ContainerRegistry, source_of: SourceOf) -> None:
    for authentication in ("basic", "bearer"):
        registry.authentication = authentication
        registry.requests.clear()
        with pytest.raises(UnavailableError, match="401") as caught:
            pull(source_of(registry, password="wrong"))
        assert not caught.value.is_transient
        assert "wrong" not in str(caught.value)
        assert len(registry.requests) <= 3


def test_platform_is_chosen(registry: ContainerRegistry, source_of: SourceOf) -> None:
    other = "sha256:" + "0" * 64
    registry.manifests["v1"] = (
        DOCKER_INDEX,
        index(DOCKER_INDEX, ("linux", "arm64", other), ("linux", "amd64", IMAGE.digest)),
    )
    assert source_of(registry).manifest() == IMAGE


def test_dockers_manifests_are_read(registry: ContainerRegistry, source_of: SourceOf) -> None:
    image, _ = image_of(LAYER, media_type=DOCKER_MANIFEST)
    registry.manifests["v1"] = (DOCKER_MANIFEST, image.data)
    assert source_of(registry).manifest() == image


def test_layers_are_fetched_once(registry: ContainerRegistry, source_of: SourceOf) -> None:
    pull(source_of(registry))
    pull(source_of(registry))
    assert registry.paths().count(BLOB_PATH) == 1


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_passing_faults_are_sat_out(registry: ContainerRegistry, source_of: SourceOf, status: int) -> None:
    registry.faults = {BLOB_PATH: [status, status, status], TAG_PATH: [status]}
    assert pull(source_of(registry)) == (IMAGE, CONFIG, LAYER[1])


def test_lasting_faults_are_retryable(registry: ContainerRegistry, source_of: SourceOf) -> None:
    registry.faults = {TAG_PATH: [503] * 9}
    with pytest.raises(UnavailableError, match="503") as caught:
        pull(source_of(registry))
    assert caught.value.is_transient
    assert registry.paths().count(TAG_PATH) == 4


def test_registry_that_is_away(registry: ContainerRegistry, source_of: SourceOf) -> None:
    registry.host = "127.0.0.1:9"
    with pytest.raises(UnavailableError, match="ConnectError") as caught:
        pull(source_of(registry))
    assert caught.value.is_transient


def test_missing_image_is_not_tried_again(registry: ContainerRegistry, source_of: SourceOf) -> None:
    with pytest.raises(UnavailableError, match="team/image:v2: HTTP 404") as caught:
        pull(source_of(registry, "v2"))
    assert not caught.value.is_transient
    assert len(registry.requests) == 1


def test_download_that_is_cut_off_is_never_used(
    registry: ContainerRegistry, source_of: SourceOf, tmp_path: Path
) -> None:
    registry.cut = {BLOB_PATH}
    with pytest.raises(UnavailableError):
        pull(source_of(registry))
    assert [path.name for path in (tmp_path / "cache" / "blobs").iterdir()] == [IMAGE.config.digest[7:]]


@pytest.mark.parametrize("lie", [LAYER[1] + b"x", LAYER[1][:-1], bytes(len(LAYER[1]))])
def test_other_content_is_never_used(
    registry: ContainerRegistry, source_of: SourceOf, tmp_path: Path, lie: bytes
) -> None:
    registry.lies = {BLOB_PATH: lie}
    with pytest.raises(UnavailableError):
        pull(source_of(registry))
    assert not (tmp_path / "cache" / "blobs" / LAYER[0].digest[7:]).exists()


def test_other_manifest_is_never_used(registry: ContainerRegistry, source_of: SourceOf) -> None:
    other, _ = image_of()
    registry.manifests[IMAGE.digest] = (OCI_MANIFEST, other.data)
    with pytest.raises(InvalidImageError, match="another manifest"):
        source_of(registry, IMAGE.digest).manifest()


@pytest.mark.parametrize("lie", [b"<html>", b"[]", b"x" * 5_000_000])
def test_nonsense_is_refused(registry: ContainerRegistry, source_of: SourceOf, lie: bytes) -> None:
    registry.lies = {TAG_PATH: lie}
    with pytest.raises(InvalidImageError):
        source_of(registry).manifest()


def test_credentials_stay_with_their_registry(registry: ContainerRegistry, source_of: SourceOf) -> None:
    registry.authentication = "bearer"
    with run_registry() as elsewhere:
        elsewhere.blobs = registry.blobs
        registry.redirect_to = f"http://{elsewhere.host}"
        assert pull(source_of(registry)) == (IMAGE, CONFIG, LAYER[1])
        assert {authorization for _, _, authorization in elsewhere.requests} == {""}


def test_token_server_without_encryption_gets_no_credentials(registry: ContainerRegistry, source_of: SourceOf) -> None:
    registry.authentication = "bearer"
    source = source_of(registry)
    source._client._access = RegistryAccess(host=registry.host, username="user", password="pass word")
    with pytest.raises(UnavailableError, match="not an https: address"):
        source.manifest()
    assert "/token" not in registry.paths()
