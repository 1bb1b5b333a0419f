"""AWS ECR: moto's server for its API, Debian's docker-registry for the bytes behind the registry's host name.

At AWS the two are one thing; here what the API removes stays in docker-registry, and moto takes any identity.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.ecr import responses
from moto.server import ThreadedMotoServer
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.credentials import Keyring
from image_registry.builds.faults import UnavailableError
from image_registry.builds.repositories.ecr import ecr_login
from image_registry.builds.repositories.home import Home, HomeFaultError
from image_registry.builds.repositories.opening import CLOUDS, open_home
from image_registry.models import ReferenceType
from image_registry.registry.platform import reference_type
from tests.fixtures.docker_registry import DockerRegistry, docker_registry
from tests.system.registries.conftest import Deploy, until_removed

__all__ = ["docker_registry"]
HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ROOT = f"{HOST}/team/managed"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of an empty ECR; the product finds it, and an identity, as AWS's library does: in the environment."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL_ECR": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret of aws",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    client = boto3.session.Session().client("ecr", region_name="eu-west-1")
    for found in client.describe_repositories()["repositories"]:  # moto's state is the process's
        client.delete_repository(repositoryName=found["repositoryName"], force=True)
    yield client
    client.close()
    server.stop()


@pytest.fixture
def keyring(docker_registry: DockerRegistry) -> Keyring:
    return Keyring(endpoints={HOST: f"http://{docker_registry.host}"}, clouds=CLOUDS, least_life=600.0)


@pytest.fixture
def home(aws: Any, keyring: Keyring) -> Home:
    return open_home(ROOT, keyring)


def names(aws: Any) -> list[str]:
    return sorted(found["repositoryName"] for found in aws.describe_repositories()["repositories"])


async def test_images_live_and_die_in_ecr(
    aws: Any, deploy: Deploy, keyring: Keyring, home: Home, docker_registry: DockerRegistry, dsn: str
) -> None:
    async with deploy(f"{HOST}/team") as deployment, deployment.worker(ROOT, keyring):
        job = await deployment.built("vision")
        assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
        image = await deployment.service.get("vision")
        assert image.repo_uri == f"{ROOT}/vision"
        system = f"team/managed/{image.base_image.name}"
        assert names(aws) == ["team/managed/image-registry.deleted", system, "team/managed/vision"]
        assert docker_registry.tags("team/managed/vision") == ["_owner", "latest", "v1"]
        policy = json.loads(aws.get_lifecycle_policy(repositoryName="team/managed/vision")["lifecyclePolicyText"])
        assert policy["rules"][0]["selection"]["tagStatus"] == "untagged"
        assert {found.repository for found in home.repositories()} == {f"{HOST}/{system}", f"{ROOT}/vision"}

        await deployment.deleted("vision")
        await until_removed(dsn)
        assert names(aws) == ["team/managed/image-registry.deleted", system]
    assert reference_type(f"{ROOT}/vision:latest") is ReferenceType.EXTERNAL_ECR


def test_a_repository_is_made_once_and_an_operators_policy_stays(aws: Any, home: Home) -> None:
    home.prepare(f"{ROOT}/vision")
    made = aws.get_lifecycle_policy(repositoryName="team/managed/vision")["lifecyclePolicyText"]
    own = made.replace("14", "99")
    aws.put_lifecycle_policy(repositoryName="team/managed/vision", lifecyclePolicyText=own)
    home.prepare(f"{ROOT}/vision")
    assert aws.get_lifecycle_policy(repositoryName="team/managed/vision")["lifecyclePolicyText"] == own
    aws.create_repository(repositoryName="team/managed/half")  # whoever made it was killed before the policy
    home.prepare(f"{ROOT}/half")
    assert "untagged" in aws.get_lifecycle_policy(repositoryName="team/managed/half")["lifecyclePolicyText"]


def test_a_repository_without_an_image_is_removed_too(aws: Any, home: Home) -> None:
    home.prepare(f"{ROOT}/vision")
    assert home.delete(f"{ROOT}/vision", "a life") is True
    assert home.delete(f"{ROOT}/vision", "a life") is False
    assert names(aws) == ["team/managed/image-registry.deleted"]


@pytest.mark.parametrize(
    "repository",
    [
        f"{HOST}/team/other/vision",
        f"{HOST}/team/managed",
        f"{HOST}/team/managed2/vision",
        f"{HOST}/team/managed/../other/vision",
        "999999999999.dkr.ecr.eu-west-1.amazonaws.com/team/managed/vision",
        f"{ROOT}/vision:latest",
        "oci:/team/managed/vision",
    ],
)
def test_nothing_outside_the_prefix_is_made_or_removed(aws: Any, home: Home, repository: str) -> None:
    aws.create_repository(repositoryName="team/other/vision")
    with pytest.raises(ValueError, match=r"."):
        home.prepare(repository)
    with pytest.raises(ValueError, match=r"."):
        home.delete(repository, "a life")
    assert names(aws) == ["team/other/vision"]
    assert list(home.repositories()) == []


def test_a_token_is_renewed_before_it_ends(aws: Any, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto's tokens ended in 2015, so the time that it writes into them is replaced."""
    asked: list[datetime] = []

    def life(**span: float) -> None:
        class Clock(datetime):
            def __new__(cls, *_: Any, **__: Any) -> Any:
                asked.append(datetime.now(UTC) + timedelta(**span))
                return asked[-1]

        monkeypatch.setattr(responses, "datetime", Clock)

    life(hours=12)
    first = keyring.access(HOST)
    assert keyring.access(HOST) == first
    assert len(asked) == 1
    assert first.username == "AWS"
    assert first.expires == pytest.approx(asked[0].timestamp())
    assert "password" not in repr(first)

    life(minutes=9)  # less than the 10 that a build may take
    short = Keyring(clouds=(ecr_login,), least_life=600.0)
    short.access(HOST)
    short.access(HOST)
    assert len(asked) == 3


def test_an_end_that_lies_behind_us_is_no_end(aws: Any, keyring: Keyring) -> None:
    access = keyring.access(HOST)
    assert (access.username, access.expires) == ("AWS", 0.0)


def test_no_identity(aws: Any, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(HomeFaultError, match="Unable to locate credentials") as caught:
        home.check()
    assert "give the worker an AWS identity" in caught.value.remedy
    assert not caught.value.is_passing


def test_an_api_that_is_away_is_waited_for(aws: Any, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnavailableError) as caught:
        home.prepare(f"{ROOT}/vision")
    assert caught.value.is_transient
    with pytest.raises(HomeFaultError) as fault:
        home.check()
    assert fault.value.is_passing


def test_a_healthy_home(home: Home) -> None:
    assert home.check() == f"{ROOT} takes uploads (credentials of 'AWS' from the cloud identity)"


def test_what_is_removed_is_the_owners(aws: Any, home: Home, keyring: Keyring) -> None:
    """An image of another life, put there as a build does it."""
    from image_registry.builds.oci.push import RegistryRepository  # noqa: PLC0415
    from image_registry.builds.oci.registry import RegistryClient  # noqa: PLC0415
    from tests.unit.builds.images import image_of  # noqa: PLC0415

    image, config = image_of()
    home.prepare(f"{ROOT}/vision")
    with RegistryClient(keyring.access(HOST)) as client:
        repository = RegistryRepository(client, "team/managed/vision", "team/managed")
        repository.push("the newer life", image, [], config, ["latest"])
    assert home.delete(f"{ROOT}/vision", "an older life") is False
    assert "team/managed/vision" in names(aws)
    assert home.delete(f"{ROOT}/vision", "the newer life") is True
    assert "team/managed/vision" not in names(aws)
