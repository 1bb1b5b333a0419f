"""Deletions that were stopped, or are late: the next life of a name keeps its image."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from image_registry.builds.credentials import Keyring
from image_registry.builds.lease import Lease, StopSign, clock
from image_registry.builds.oci.push import RegistryRepository
from image_registry.builds.oci.reference import RegistryReference, parse_reference
from image_registry.builds.oci.registry import RegistryClient
from image_registry.builds.plan import Limits, PackageIndex
from image_registry.builds.repositories.registries import RegistryHome
from image_registry.models import JobKind, JobStatus, StoredJob, TerminationReason
from image_registry.registry.builds import Builds, Claim
from image_registry.registry.job_logs import JobLogs
from image_registry.worker.execution import BuilderConfig, Executor
from image_registry.worker.loop import PassingFaultError
from tests.fixtures.docker_registry import DockerRegistry, docker_registry
from tests.fixtures.moody_line import MoodyLine, moody_line
from tests.unit.builds.images import image_of

__all__ = ["docker_registry"]
REGISTRY = UUID(int=1)
OURS = ["_owner", "latest", "v1"]


class Watched(RegistryHome):
    """A home that tells whether a deletion of it is still under way."""

    at_work = 0

    def delete(self, repository: str, owner: str, stop: StopSign | None = None) -> bool:
        self.at_work += 1
        try:
            return super().delete(repository, owner, stop)
        finally:
            self.at_work -= 1


@pytest.fixture
def line(docker_registry: DockerRegistry) -> Iterator[MoodyLine]:
    with moody_line(docker_registry.host) as moody:
        yield moody


def home_at(host: str) -> Watched:
    return Watched(
        cast("RegistryReference", parse_reference(f"{host}/team")), Keyring(endpoints={host: f"http://{host}"})
    )


def push(home: Watched, life: int, content: str) -> None:
    host = home.root.partition("/")[0]
    image, config = image_of(content=content)
    with RegistryClient(Keyring(endpoints={host: f"http://{host}"}).access(host)) as client:
        repository = RegistryRepository(client, "team/image", "team")
        repository.push(f"{REGISTRY}/{life}", image, [], config, ["latest", "v1"])


def reborn(direct: Watched, content: str) -> Callable[[], None]:
    """What another worker does meanwhile: it ends the deletion, and builds the next life of the name."""

    def act() -> None:
        assert direct.delete(f"{direct.root}/image", f"{REGISTRY}/1")
        push(direct, 2, content)

    return act


@pytest.mark.parametrize("content", ["another image", "the same image"])
def test_a_late_deletion_looks_again_before_it_removes_something(
    line: MoodyLine, docker_registry: DockerRegistry, content: str
) -> None:
    direct = home_at(docker_registry.host)
    push(direct, 1, "the same image")
    line.before("GET", "/image/manifests/latest", lambda: None)
    line.refuse("DELETE", "/image/manifests/", 429, Retry_After="1")
    line.before("GET", "/image/manifests/latest", reborn(direct, content))
    assert home_at(line.host).delete(f"{line.host}/team/image", f"{REGISTRY}/1") is False
    assert line.waiting == []
    assert docker_registry.tags("team/image") == OURS


async def test_a_deletion_that_is_stopped_is_over_when_its_attempt_is(
    line: MoodyLine, docker_registry: DockerRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(home_at(docker_registry.host), 1, "an image")
    caplog.set_level("WARNING")
    home, refused = home_at(line.host), asyncio.Event()
    loop = asyncio.get_running_loop()
    line.refuse("GET", "/image/manifests/latest", 429, Retry_After="30")
    line.waiting[0].action = lambda: loop.call_soon_threadsafe(refused.set)
    with Lease(clock() + 100) as lease:
        attempt = asyncio.create_task(executor(home, tmp_path)(claim(line.host), lease))
        await refused.wait()
        attempt.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([attempt])
        assert attempt.cancelled()
        assert home.at_work == 0
    del attempt
    gc.collect()
    assert caplog.messages == [], "no exception that nobody has looked at"
    assert docker_registry.tags("team/image") == OURS


async def test_a_deletion_ends_with_its_lease(line: MoodyLine, docker_registry: DockerRegistry, tmp_path: Path) -> None:
    push(home_at(docker_registry.host), 1, "an image")
    home, lease = home_at(line.host), Lease(clock() + 100)
    line.refuse("GET", "/image/manifests/latest", 429, Retry_After="30")
    line.waiting[0].action = lambda: lease.extend(clock() + 0.3)
    with lease:
        async with asyncio.timeout(10):
            with pytest.raises(PassingFaultError, match="not removed yet: its lease is over"):
                await executor(home, tmp_path)(claim(line.host), lease)
    assert home.at_work == 0
    assert docker_registry.tags("team/image") == OURS


def test_waits_last_for_as_long_as_the_lease_is_extended() -> None:
    with Lease(clock() + 0.2) as lease:
        timer = threading.Timer(0.1, lambda: lease.extend(clock() + 100))
        timer.start()
        StopSign(lease).sleep(0.4)
        timer.join()


def executor(home: RegistryHome, folder: Path) -> Executor:
    """One that needs no database for deletions."""
    config = BuilderConfig(
        registry_id=REGISTRY,
        home=home,
        keyring=Keyring(),
        cache_dir=folder,
        work_dir=folder,
        index=PackageIndex(),
        limits=Limits(),
    )
    return Executor(config, cast("Builds", None), cast("JobLogs", None))


def claim(host: str) -> Claim:
    """The deletion of the image's first life."""
    job = StoredJob(
        id=1,
        uuid=UUID(int=2),
        kind=JobKind.DELETE_REPOSITORY,
        image_id=1,
        image_name="image",
        repository=f"{host}/team/image",
        definition=b"",
        status=JobStatus.RUNNING,
        termination_reason=TerminationReason.NOT_TERMINATED,
        attempt=1,
        faults=0,
        cancel_requested=False,
        progress="",
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
        agent_id=None,
        running_seconds=0.0,
        has_log=False,
    )
    return Claim(job)
