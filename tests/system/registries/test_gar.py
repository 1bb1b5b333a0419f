"""Google Artifact Registry: Google's own client and identity library against a stand-in of ours.

tests/fixtures/artifact_registry.py says what that proves. The bytes go to Debian's docker-registry, which takes the
token of the stand-in as the password of the user `oauth2accesstoken`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.credentials import Keyring
from image_registry.builds.repositories.gar import gar_login
from image_registry.builds.repositories.home import Home, HomeFaultError
from image_registry.builds.repositories.opening import CLOUDS, open_home
from image_registry.worker.main import keyring_of, places_of
from tests.fixtures.artifact_registry import ArtifactRegistry, run_artifact_registry, write_identity
from tests.fixtures.docker_registry import run_docker_registry
from tests.fixtures.service import make_settings
from tests.system.registries.conftest import Deploy, until_removed

HOST = "europe-docker.pkg.dev"
ROOT = f"{HOST}/my-project/images/team/managed"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactRegistry]:
    """The stand-in, and an identity of this machine, found as Google's library finds it: in the environment."""
    with run_docker_registry(tmp_path / "registry", auth="basic") as behind, run_artifact_registry(behind) as registry:
        write_identity(tmp_path / "identity.json", registry.host)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "identity.json"))
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
        yield registry


@pytest.fixture
def keyring(google: ArtifactRegistry) -> Keyring:
    endpoints = {
        HOST: f"http://{google.behind.host}",
        "artifactregistry.googleapis.com": f"http://{google.host}",
    }
    return Keyring(endpoints=endpoints, clouds=CLOUDS, least_life=1800.0)


@pytest.fixture
def home(keyring: Keyring) -> Home:
    return open_home(ROOT, keyring)


async def test_images_live_and_die_in_artifact_registry(
    google: ArtifactRegistry, deploy: Deploy, keyring: Keyring, home: Home, dsn: str
) -> None:
    async with deploy(f"{HOST}/my-project/images/team") as deployment, deployment.worker(ROOT, keyring):
        job = await deployment.built("vision")
        assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
        image = await deployment.service.get("vision")
        system = image.base_image.name
        assert image.repo_uri == f"{ROOT}/vision"
        assert google.packages == [f"team/managed/{system}", "team/managed/vision"]
        assert {found.repository for found in home.repositories()} == {f"{ROOT}/{system}", f"{ROOT}/vision"}
        await deployment.deleted("vision")
        await until_removed(dsn)
        assert google.packages == ["team/managed/image-registry.deleted", f"team/managed/{system}"]
    parent = "/v1/projects/my-project/locations/europe/repositories/images"
    assert "GET /v1/projects/my-project/locations/europe/operations/7" in google.requests
    assert f"DELETE {parent}/packages/team%252Fmanaged%252Fvision" in google.requests


def test_what_never_was_is_removed_without_a_word(home: Home) -> None:
    assert home.delete(f"{ROOT}/vision", "a life") is False


@pytest.mark.parametrize(
    "repository",
    [
        f"{HOST}/my-project/images/team/other",
        f"{HOST}/my-project/other/team/managed/vision",
        f"{HOST}/other/images/team/managed/vision",
        "us-docker.pkg.dev/my-project/images/team/managed/vision",
        f"{ROOT}/../other/vision",
        f"{ROOT}%2Fvision",
    ],
)
def test_nothing_outside_the_prefix_is_removed(google: ArtifactRegistry, home: Home, repository: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        home.delete(repository, "a life")
    assert google.requests == []


def test_a_token_is_renewed_before_it_ends(google: ArtifactRegistry, keyring: Keyring) -> None:
    first = keyring.access(HOST)
    assert keyring.access(HOST) == first
    assert (first.username, google.requests.count("POST /token")) == ("oauth2accesstoken", 1)
    google.life = 1700
    short = Keyring(clouds=(gar_login,), least_life=1800.0)
    short.access(HOST)
    short.access(HOST)
    assert google.requests.count("POST /token") == 3


def test_a_worker_gets_one_token_for_its_home_and_its_builds(google: ArtifactRegistry) -> None:
    settings = make_settings(
        repository=f"{HOST}/my-project/images/team",
        registry_endpoints={HOST: f"http://{google.behind.host}"},
        build_timeout=1800,
    )
    keyring = keyring_of(settings)
    places_of(settings, keyring).home.check()
    keyring.access(HOST)
    assert google.requests.count("POST /token") == 1


def test_a_healthy_home(home: Home) -> None:
    assert home.check() == f"{ROOT} takes uploads (credentials of 'oauth2accesstoken' from the cloud identity)"


def test_no_identity(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(HomeFaultError, match="this machine has no Google identity") as caught:
        home.check()
    assert "give the worker a Google identity" in caught.value.remedy


def test_other_hosts_are_not_googles() -> None:
    assert gar_login("registry.example") is None
