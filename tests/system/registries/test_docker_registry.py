"""The client against Debian's docker-registry 2.8.2: tokens, mounts, retries, digests, lists, what it can't do."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from image_registry.builds.cache import Cache
from image_registry.builds.credentials import Keyring, Login
from image_registry.builds.faults import UnavailableError
from image_registry.builds.oci.manifest import Descriptor
from image_registry.builds.oci.push import RegistryRepository, tags
from image_registry.builds.oci.reference import RegistryReference
from image_registry.builds.oci.registry import Ask, RegistryClient, RegistrySource
from image_registry.builds.oci.upload import Uploads
from image_registry.builds.plan import RegistryAccess
from image_registry.builds.repositories.home import HomeFaultError
from image_registry.builds.repositories.opening import open_home
from tests.fixtures.docker_registry import PASSWORD, USER, DockerRegistry, docker_registry, run_docker_registry
from tests.fixtures.moody_line import MoodyLine, moody_line
from tests.fixtures.token_server import TokenServer, run_token_server
from tests.unit.builds.images import image_of, layer_of

__all__ = ["docker_registry"]
LAYER, DATA, _ = layer_of({"etc/hello": "hello" * 1000})
IMAGE, CONFIG = image_of((LAYER, DATA, _))


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Descriptor, Path]:
    """The layer's blob as a file."""
    path = tmp_path / "layer"
    path.write_bytes(DATA)
    return LAYER, path


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with run_token_server(tmp_path / "tokens") as server:
        yield server


@pytest.fixture
def with_tokens(tokens: TokenServer, tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry that takes the token server's tokens alone."""
    with run_docker_registry(tmp_path / "registry", auth=tokens.config) as registry:
        yield registry


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept before it tried again."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def line(docker_registry: DockerRegistry) -> Iterator[MoodyLine]:
    with moody_line(docker_registry.host) as moody:
        yield moody


def access(host: str, password: str = "") -> RegistryAccess:
    username = USER if password else ""
    return RegistryAccess(host=host, username=username, password=password, endpoint=f"http://{host}")


def push(client: RegistryClient, name: str, blob: tuple[Descriptor, Path], known: Path | None = None) -> None:
    repository = RegistryRepository(client, name, name.rpartition("/")[0], known)
    repository.push("a life", IMAGE, [blob], CONFIG, ["v1", "latest"])


def test_bearer_tokens(tokens: TokenServer, with_tokens: DockerRegistry, blob: tuple[Descriptor, Path]) -> None:
    """Each kind of request is allowed by a token of its own scope; a token serves for as many requests as it allows."""
    keyring = Keyring(
        logins={with_tokens.host: Login(USER, PASSWORD)},
        endpoints={with_tokens.host: f"http://{with_tokens.host}"},
    )
    home = open_home(f"{with_tokens.host}/team", keyring)
    assert "takes uploads" in home.check()
    tokens.asked.clear()
    with RegistryClient(keyring.access(with_tokens.host)) as client:
        push(client, "team/image", blob)
    assert {user for user, _ in tokens.asked} == {USER}
    assert sorted(scope for _, scopes in tokens.asked for scope in scopes) == [
        "repository:team/image-registry.deleted:pull",
        "repository:team/image:pull",
        "repository:team/image:pull,push",
    ]
    [found] = home.repositories()
    assert (found.repository, found.owner) == (f"{with_tokens.host}/team/image", "a life")
    assert home.delete(found.repository, "a life") is True
    assert list(home.repositories()) == []
    asked = {scope for _, scopes in tokens.asked for scope in scopes}
    assert {"registry:catalog:*", "repository:team/image:delete"} <= asked


def test_a_mount_asks_for_both_repositories(
    tokens: TokenServer, with_tokens: DockerRegistry, blob: tuple[Descriptor, Path], tmp_path: Path
) -> None:
    with RegistryClient(access(with_tokens.host, PASSWORD)) as client:
        push(client, "team/first", blob, tmp_path / "known")
        before = with_tokens.count("PATCH", "/blobs/uploads/")
        push(client, "team/second", blob, tmp_path / "known")
    assert with_tokens.count("PATCH", "/blobs/uploads/") == before
    assert any(
        {"repository:team/second:pull,push", "repository:team/first:pull"} <= set(scopes) for _, scopes in tokens.asked
    )


def test_wrong_and_missing_credentials(tokens: TokenServer, with_tokens: DockerRegistry) -> None:
    for password in ("", "wrong"):
        with (
            RegistryClient(access(with_tokens.host, password)) as client,
            pytest.raises(UnavailableError) as caught,
        ):
            Uploads(client, "team/image").try_out()
        assert caught.value.status == httpx.codes.UNAUTHORIZED
        assert "wrong" not in str(caught.value)


def test_a_token_that_ends_during_a_push_is_replaced(
    tokens: TokenServer, with_tokens: DockerRegistry, blob: tuple[Descriptor, Path]
) -> None:
    with moody_line(with_tokens.host) as line, RegistryClient(access(line.host, PASSWORD)) as client:
        scope = "repository:team/image:pull,push"
        challenge = f'Bearer realm="{tokens.realm}",service="test registry",scope="{scope}",error="invalid_token"'
        line.refuse("PATCH", "/blobs/uploads/", 401, WWW_Authenticate=challenge)
        push(client, "team/image", blob)
        assert line.waiting == []
        assert sorted(tags(client, "team/image")) == ["_owner", "latest", "v1"]
    assert sum(scopes == (scope,) for _, scopes in tokens.asked) == 2


def test_docker_hub_gives_bases_to_anybody(
    tokens: TokenServer, with_tokens: DockerRegistry, blob: tuple[Descriptor, Path], tmp_path: Path
) -> None:
    """Docker Hub's flow: anonymous tokens for pulls; docker-registry and our token server stand in for it."""
    with RegistryClient(access(with_tokens.host, PASSWORD)) as client:
        push(client, "library/base", blob)
    tokens.asked.clear()
    hub = Keyring(endpoints={"docker.io": f"http://{with_tokens.host}"}).access("docker.io")
    (tmp_path / "own").mkdir()
    with RegistryClient(hub) as client:
        reference = RegistryReference("docker.io", "library/base", "v1")
        source = RegistrySource(client, reference, "amd64", Cache(tmp_path / "cache", tmp_path / "own", print))
        assert source.manifest() == IMAGE
        assert source.layer_file(LAYER).read_bytes() == DATA
        with pytest.raises(UnavailableError) as caught:
            Uploads(client, "library/base").try_out()
    assert caught.value.status == httpx.codes.UNAUTHORIZED
    assert tokens.asked[0] == ("", ("repository:library/base:pull",))
    assert {user for user, _ in tokens.asked} == {""}


@pytest.mark.parametrize(
    ("retry_after", "waited"),
    [
        (lambda: "7", 7.0),
        (lambda: "0", 0.5),
        (lambda: "3600", 30.0),
        (lambda: "soon", 0.5),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 30.0),
        (lambda: "Wed, 21 Oct 2015 07:28:00 GMT", 0.5),
    ],
)
def test_too_many_requests(
    line: MoodyLine,
    blob: tuple[Descriptor, Path],
    waits: list[float],
    retry_after: Callable[[], str],
    waited: float,
) -> None:
    """A 429 is waited out for as long as the registry says: while a blob is sent, and while a manifest is."""
    line.refuse("PATCH", "/blobs/uploads/", 429, Retry_After=retry_after())
    line.refuse("PUT", "/manifests/latest", 429, Retry_After=retry_after())
    with RegistryClient(access(line.host)) as client:
        push(client, "team/image", blob)
        assert sorted(tags(client, "team/image")) == ["_owner", "latest", "v1"]
    assert waits == [waited, waited]


@pytest.mark.parametrize(("method", "part"), [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/manifests/v1")])
def test_faults_that_pass(
    line: MoodyLine, blob: tuple[Descriptor, Path], waits: list[float], method: str, part: str
) -> None:
    for status in (500, 502, 503):
        line.refuse(method, part, status)
    with RegistryClient(access(line.host)) as client:
        push(client, "team/image", blob)
        assert sorted(tags(client, "team/image")) == ["_owner", "latest", "v1"]
    assert waits == [0.5, 1.5, 4.0]


def test_faults_that_stay_end_the_push(line: MoodyLine, blob: tuple[Descriptor, Path], waits: list[float]) -> None:
    for _n in range(6):
        line.refuse("PATCH", "/blobs/uploads/", 503)
    with RegistryClient(access(line.host)) as client, pytest.raises(UnavailableError, match="503") as caught:
        push(client, "team/image", blob)
    assert caught.value.is_transient
    assert line.waiting == []
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_the_registry_checks_digests_and_we_check_the_registry(
    docker_registry: DockerRegistry, blob: tuple[Descriptor, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(os.urandom(LAYER.size))
    (tmp_path / "own").mkdir()
    with RegistryClient(access(docker_registry.host)) as client:
        with pytest.raises(UnavailableError, match="400"):
            push(client, "team/image", (LAYER, other))
        push(client, "team/image", blob)
        storage = docker_registry.repositories.parent / "blobs" / "sha256"
        [kept] = (path for path in storage.rglob("data") if path.read_bytes() == DATA)
        kept.write_bytes(DATA[::-1])
        source = RegistrySource(
            client,
            RegistryReference(docker_registry.host, "team/image", "v1"),
            "amd64",
            Cache(tmp_path / "cache", tmp_path / "own", print),
        )
        with pytest.raises(UnavailableError, match="the registry gave something else"):
            source.layer_file(LAYER)


def test_a_registry_that_keeps_everything_says_so(tmp_path: Path, blob: tuple[Descriptor, Path]) -> None:
    """docker-registry deletes only if it is configured to: a deletion job then says 405 until it is."""
    with run_docker_registry(tmp_path / "registry", deletes=False) as registry:
        with RegistryClient(access(registry.host)) as client:
            push(client, "team/image", blob)
        home = open_home(f"{registry.host}/team", Keyring(endpoints={registry.host: f"http://{registry.host}"}))
        with pytest.raises(UnavailableError, match="405"):
            home.delete(f"{registry.host}/team/image", "a life")
        assert [found.owner for found in home.repositories()] == ["a life"]


def test_referrers_are_not_listed_by_this_version(
    docker_registry: DockerRegistry, blob: tuple[Descriptor, Path]
) -> None:
    """The referrers API came with distribution 3. Nothing needs it: an owner stands under a tag, as an artifact."""
    with RegistryClient(access(docker_registry.host)) as client:
        push(client, "team/image", blob)
        data, media_type = client.manifest("team/image", "_owner")
    assert media_type == "application/vnd.oci.image.manifest.v1+json"
    assert b'"artifactType":"application/vnd.ri.imageregistry.owner"' in data
    answer = httpx.get(f"http://{docker_registry.host}/v2/team/image/referrers/{IMAGE.digest}", timeout=30)
    assert answer.status_code == httpx.codes.NOT_FOUND


def test_long_lists_are_read_to_their_end(docker_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"team/image-{number}" for number in range(5)]
    with RegistryClient(access(docker_registry.host)) as client:
        for name in names:
            Uploads(client, name).put_note("_owner", "application/x", {"ri.imageregistry.owner": name})
        exchange = client.exchange

        def two_a_page(ask: Ask, what: str) -> object:
            return exchange(dataclasses.replace(ask, path=ask.path.replace("n=1000", "n=2")), what)

        monkeypatch.setattr(RegistryClient, "exchange", lambda _, ask, what: two_a_page(ask, what))
        home = open_home(
            f"{docker_registry.host}/team",
            Keyring(endpoints={docker_registry.host: f"http://{docker_registry.host}"}),
        )
        assert [found.owner for found in home.repositories()] == names
    assert docker_registry.count("GET", "/v2/_catalog") == 3


def test_a_registry_that_is_away_is_waited_for() -> None:
    home = open_home("127.0.0.1:9/team", Keyring(endpoints={"127.0.0.1:9": "http://127.0.0.1:9"}))
    with pytest.raises(HomeFaultError, match="can't be reached") as caught:
        home.check()
    assert caught.value.is_passing
    assert "IMAGE_REGISTRY_REGISTRY_ENDPOINTS=127.0.0.1:9=http://127.0.0.1:9" in caught.value.remedy


def test_credentials_that_ended_meanwhile_are_worth_another_attempt(tmp_path: Path) -> None:
    with run_docker_registry(tmp_path / "registry", auth="basic") as registry:
        over = dataclasses.replace(access(registry.host, PASSWORD), expires=time.time() - 1)
        with RegistryClient(over) as client, pytest.raises(UnavailableError, match="expired meanwhile") as caught:
            client.manifest("team/image", "v1")
    assert caught.value.is_transient
