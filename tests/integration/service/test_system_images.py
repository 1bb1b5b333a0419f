"""The platform's images: ensured at each deployment, rebuilt at new tags, what is built on them; several replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as statuses
from ri.api.imageregistry import jobs_pb2

from image_registry.codec import decode_definition
from image_registry.errors import Reason, RegistryError
from image_registry.models import BuildReport, Outcome, TerminationReason
from image_registry.registry.builds import Builds, Claim
from image_registry.storage import images
from image_registry.storage.database import Database
from tests.fixtures.service import Service, make_settings, running_service

Image = pb.ManagedImage
BUILT = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built")
FAILED = BuildReport(Outcome.FAILED, TerminationReason.GENERIC_ERROR, "no such version")
PYTHONS = ("system-python-3-11", "system-python-3-12")


@pytest.fixture
async def v1(service: Service) -> Service:
    """A replica of the deployment with tag v1."""
    return service


@pytest.fixture
async def v2(dsn: str) -> AsyncIterator[Service]:
    """A replica of the next deployment, on the same database."""
    settings = make_settings(platform_tag="v2", platform_requirements="platform-sdk==2.0")
    async with running_service(settings, dsn) as running:
        yield running


@pytest.fixture
def builds(database: Database) -> Builds:
    return Builds(database)


async def ensure(service: Service) -> None:
    await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())


async def sync(service: Service, name: str, **fields: Any) -> pb.SyncImageTagResponse:
    answer: pb.SyncImageTagResponse = await service.images.SyncImageTag(pb.SyncImageTagRequest(name=name, **fields))
    return answer


async def state(service: Service) -> dict[str, tuple[str, str]]:
    """Status and tag of all images."""
    found = (await service.images.ListImages(pb.ListImagesRequest())).images
    return {one.name: (Image.Status.Name(one.status).removeprefix("STATUS_"), one.rime_tag) for one in found}


async def unfinished(service: Service) -> list[jobs_pb2.JobMetadata]:
    query = jobs_pb2.ListJobsRequest.Query(selected_statuses=[1, 2, 5, 7])
    return list((await service.jobs.ListJobs(jobs_pb2.ListJobsRequest(first_page_query=query))).jobs)


async def claim(builds: Builds) -> Claim | None:
    taken = await builds.claim(agent_id=uuid4(), lease=30)
    if taken is not None:
        assert await builds.start(taken.job) is not None
    return taken


async def build(builds: Builds, report: BuildReport = BUILT) -> str:
    """Take the next job and end it; returns its image's name, '' if there was none."""
    taken = await claim(builds)
    if taken is None:
        return ""
    assert await builds.finish(taken.job, report)
    return taken.job.image_name


async def build_all(builds: Builds) -> list[str]:
    built = []
    while name := await build(builds):
        built.append(name)
    return built


async def test_ensure_makes_what_is_missing_once(v1: Service, builds: Builds) -> None:
    for _ in range(2):
        await ensure(v1)
    assert await state(v1) == dict.fromkeys(PYTHONS, ("BUILDING_FIRST_TIME", "v1"))
    assert len(await unfinished(v1)) == 2
    assert sorted(await build_all(builds)) == sorted(PYTHONS)
    await ensure(v1)
    assert await state(v1) == dict.fromkeys(PYTHONS, ("READY", "v1"))
    image = await v1.get(PYTHONS[0])
    assert image.role_type == Image.ROLE_TYPE_SYSTEM
    assert image.base_image == pb.ImageReference(name="oci:/bases/python3.11:latest")
    assert image.python_version == "3.11"


async def test_ensure_builds_again_what_failed(v1: Service, builds: Builds) -> None:
    await ensure(v1)
    await build(builds, FAILED)
    await build(builds)
    assert {status for status, _ in (await state(v1)).values()} == {"FAILED", "READY"}
    await ensure(v1)
    assert {status for status, _ in (await state(v1)).values()} == {"REBUILDING", "READY"}


async def test_a_new_tag_outdates_users_images_and_rebuilds_the_platforms(
    v1: Service, v2: Service, builds: Builds
) -> None:
    await v1.create("one")
    await ensure(v1)
    await build_all(builds)
    await ensure(v2)
    assert await state(v2) == {
        "one": ("OUTDATED", "v1"),
        PYTHONS[0]: ("REBUILDING", "v1"),
        PYTHONS[1]: ("REBUILDING", "v1"),
    }
    synced = await sync(v2, "one")
    assert synced.image.status == Image.STATUS_REBUILDING
    assert await build_all(builds) == [*PYTHONS, "one"], "the bases go first"
    assert set((await state(v2)).values()) == {("READY", "v2")}
    assert (await v2.get(PYTHONS[0])).pip_requirements[0].name == "platform-sdk"


async def test_an_image_waits_for_its_base(v1: Service, builds: Builds) -> None:
    created = await v1.create("one")
    base = await claim(builds)
    assert base is not None
    assert base.job.image_name == PYTHONS[1]
    assert await claim(builds) is None
    assert (await v1.job(created.job.job_id)).status == statuses.JOB_STATUS_REQUESTED
    await builds.finish(base.job, BUILT)
    child = await claim(builds)
    assert child is not None
    assert child.base is not None
    assert (child.base.name, child.base.platform_tag) == (PYTHONS[1], "v1")


async def test_a_base_that_cannot_be_built_is_no_base(v1: Service, builds: Builds) -> None:
    """The worker sees it in the claim, and says so in the job (tests of the worker)."""
    await v1.create("one")
    assert await build(builds, FAILED) == PYTHONS[1]
    child = await claim(builds)
    assert child is not None
    assert child.base is not None
    assert child.base.status.name == "FAILED"


async def test_a_create_on_a_failed_base_builds_that_again(v1: Service, builds: Builds) -> None:
    await v1.create("one")
    await build(builds, FAILED)
    await build(builds, FAILED)
    await v1.create("two")
    assert await build_all(builds) == [PYTHONS[1], "two"]
    assert await state(v1) == {"one": ("FAILED", "v1"), "two": ("READY", "v1"), PYTHONS[1]: ("READY", "v1")}


async def test_a_build_of_the_old_tag_that_ends_late_is_outdated(v1: Service, v2: Service, builds: Builds) -> None:
    await ensure(v1)
    await build_all(builds)
    await v1.create("one")
    old = await claim(builds)
    assert old is not None
    await ensure(v2)
    await builds.finish(old.job, BUILT)
    assert (await state(v2))["one"] == ("OUTDATED", "v1")


async def test_a_cancelled_rebuild_of_the_old_tag_is_outdated(v1: Service, v2: Service, builds: Builds) -> None:
    await v1.create("one")
    await build_all(builds)
    answer = await sync(v1, "one", force=True)
    await ensure(v2)
    await v1.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=answer.job.job_id))
    assert (await state(v2))["one"] == ("OUTDATED", "v1"), "READY before, but the platform moved on meanwhile"


async def test_a_system_image_under_way_at_the_old_tag_is_built_again_at_once(
    v1: Service, v2: Service, builds: Builds
) -> None:
    await v1.create("one")
    old = await claim(builds)
    assert old is not None
    for _ in range(2):
        await ensure(v2)
    assert (await state(v2))[PYTHONS[1]] == ("BUILDING_FIRST_TIME", "v1")
    await builds.finish(old.job, BUILT)
    assert (await state(v2))[PYTHONS[1]] == ("REBUILDING", "v1")
    assert sorted(await build_all(builds)) == sorted(["one", *PYTHONS])
    assert await state(v2) == dict.fromkeys(["one", *PYTHONS], ("READY", "v2"))


@pytest.mark.parametrize("report", [FAILED, BuildReport(Outcome.CANCELLED, TerminationReason.COMPLETED)])
async def test_it_is_built_again_however_the_old_build_ends(
    v1: Service, v2: Service, builds: Builds, report: BuildReport
) -> None:
    await v1.create("one")
    old = await claim(builds)
    assert old is not None
    await ensure(v2)
    await builds.finish(old.job, report)
    assert (await state(v2))[PYTHONS[1]][0] == "REBUILDING"
    assert len(await unfinished(v2)) == 3


async def test_a_deployment_that_was_taken_back_builds_nothing_more(v1: Service, v2: Service, builds: Builds) -> None:
    await ensure(v1)
    await ensure(v2)
    await ensure(v1)
    assert sorted(await build_all(builds)) == sorted(PYTHONS)
    assert await state(v1) == dict.fromkeys(PYTHONS, ("READY", "v1"))


async def test_a_rebuilt_base_outdates_what_stands_on_it(v1: Service, v2: Service, builds: Builds) -> None:
    """SyncImageTag alone, without EnsureImageExistence."""
    await v1.create("one")
    await v1.create("other", python_version="3.11")
    await build_all(builds)
    await sync(v2, PYTHONS[1])
    assert (await state(v2))["one"] == ("READY", "v1")
    await build_all(builds)
    assert await state(v2) == {
        "one": ("OUTDATED", "v1"),
        "other": ("READY", "v1"),
        PYTHONS[0]: ("READY", "v1"),
        PYTHONS[1]: ("READY", "v2"),
    }


async def test_a_cascade_that_died_halfway_is_ended_by_any_worker(
    v1: Service, v2: Service, builds: Builds, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await v1.create("one")
    await build_all(builds)
    await sync(v2, PYTHONS[1])

    async def died(_: object) -> bool:
        return False

    with monkeypatch.context() as patch:
        patch.setattr(images, "outdate_children", died)
        await build_all(builds)
    assert (await state(v2))["one"] == ("READY", "v1")
    await builds.reconcile()
    assert (await state(v2))["one"] == ("OUTDATED", "v1")


async def test_a_build_counts_though_its_cascade_fails(
    v1: Service, v2: Service, builds: Builds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await v1.create("one")
    await build_all(builds)
    await sync(v2, PYTHONS[1])

    async def fails(_: object) -> bool:
        raise RegistryError(Reason.DATABASE_UNAVAILABLE, "away")

    with monkeypatch.context() as patch:
        patch.setattr(images, "outdate_children", fails)
        assert await build(builds) == PYTHONS[1]
    assert "marked OUTDATED later: away" in caplog.text
    assert (await state(v2))[PYTHONS[1]] == ("READY", "v2")


async def test_two_workers_that_reach_for_one_repository_get_one_job(v1: Service, builds: Builds, dsn: str) -> None:
    """The older job of a repository is claimed while, unseen, another transaction takes the younger one."""
    await v1.create("one")
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute(
            """insert into jobs (kind, image_id, image_name, repository, status, lease_expires_at)
            select 2, image_id, image_name, repository, 1, now() + interval '1 min' from jobs
            where image_name like 'system-%'"""
        )
        claiming = asyncio.create_task(builds.claim(agent_id=uuid4(), lease=30))
        await asyncio.sleep(0.2)
        assert not claiming.done(), "it waits to see whether the other one commits"
        await other.commit()
        assert await claiming is None


async def test_cascades_go_in_steps(v1: Service, v2: Service, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CHANGED_AT_ONCE", 2)
    names = [f"image-{number}" for number in range(5)]
    for name in names:
        await v1.create(name)
    await build_all(builds)
    await sync(v2, PYTHONS[1])
    await build_all(builds)
    assert {(await state(v2))[name] for name in names} == {("OUTDATED", "v1")}
    for name in names:
        await sync(v2, name)
    await build_all(builds)
    await ensure(v1)
    assert {(await state(v2))[name] for name in names} == {("OUTDATED", "v2")}


async def test_the_recorded_tag_is_the_one_of_the_base_that_was_built_on(
    v1: Service, v2: Service, builds: Builds
) -> None:
    """A cancelled rebuild leaves the base at v1: what was to be v2 is v1 all the same, and says so."""
    await v1.create("one")
    await build_all(builds)
    await ensure(v2)
    await sync(v2, "one")
    [base] = [job for job in await unfinished(v2) if (await image_of(builds, job)) == PYTHONS[1]]
    await v2.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=base.job_id))
    await build_all(builds)
    found = await state(v2)
    assert found[PYTHONS[1]] == ("OUTDATED", "v1")
    assert found["one"] == ("OUTDATED", "v1")


async def image_of(builds: Builds, job: jobs_pb2.JobMetadata) -> str:
    async def read(conn: Any) -> str:
        row = await (await conn.execute("select image_name from jobs where uuid = %s", [job.job_id])).fetchone()
        return str(row["image_name"])

    return await builds._db.read(read)


async def test_a_replica_of_the_older_deployment_leaves_newer_bases_alone(
    v1: Service, v2: Service, builds: Builds
) -> None:
    await ensure(v2)
    await build_all(builds)
    await v1.create("one")
    assert await build_all(builds) == ["one"]
    assert await state(v1) == dict.fromkeys(["one", *PYTHONS], ("READY", "v2"))


async def test_a_replica_of_the_older_deployment_makes_what_is_missing(
    v1: Service, v2: Service, builds: Builds, dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("update registry set platform_tag = 'v2'")
    await v1.create("one")
    await build_all(builds)
    assert await state(v2) == {"one": ("OUTDATED", "v1"), PYTHONS[1]: ("OUTDATED", "v1")}
    await v2.create("two")
    await build_all(builds)
    assert (await state(v2))["two"] == ("READY", "v2")


async def test_a_python_that_is_no_longer_supported_keeps_its_system_image(
    v1: Service, builds: Builds, dsn: str
) -> None:
    await v1.create("one", python_version="3.11")
    await build_all(builds)
    settings = make_settings(platform_tag="v2", base_images={"3.12": "oci:/bases/python3.12:latest"})
    async with running_service(settings, dsn) as later:
        await ensure(later)
        assert (await state(later))[PYTHONS[0]] == ("OUTDATED", "v1")
        await sync(later, PYTHONS[0])
        await sync(later, "one")
        await build_all(builds)
        assert (await state(later))[PYTHONS[0]] == ("READY", "v2")
        assert (await state(later))["one"] == ("READY", "v2")
        image = await later.get(PYTHONS[0])
        assert image.role_type == Image.ROLE_TYPE_SYSTEM
        assert image.base_image.name == "oci:/bases/python3.11:latest"


async def test_a_moved_repository_is_where_the_next_build_goes(v1: Service, builds: Builds, dsn: str) -> None:
    await v1.create("one")
    await build_all(builds)
    async with running_service(make_settings(repository="oci:/elsewhere"), dsn) as moved:
        await sync(moved, "one", force=True)
        taken = await claim(builds)
        assert taken is not None
        assert taken.job.repository == "oci:/elsewhere/managed/one"
        assert decode_definition(taken.job.definition).repo_uri == "oci:/elsewhere/managed/one"
        await builds.finish(taken.job, BUILT)
        assert (await moved.get("one")).repo_uri == "oci:/elsewhere/managed/one"


async def test_many_replicas_ensure_at_once(dsn: str, builds: Builds) -> None:
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(running_service(make_settings(), dsn)) for _ in range(3)]
        await asyncio.gather(*(ensure(replica) for replica in replicas for _ in range(5)))
        assert await state(replicas[0]) == dict.fromkeys(PYTHONS, ("BUILDING_FIRST_TIME", "v1"))
        assert len(await unfinished(replicas[0])) == 2
        await build_all(builds)
        later = await stack.enter_async_context(running_service(make_settings(platform_tag="v2"), dsn))
        await asyncio.gather(*(ensure(later) for _ in range(5)), *(later.create(f"image-{n}") for n in range(5)))
        assert {tag for _, tag in (await state(later)).values()} == {"v1", "v2"}
        assert len(await unfinished(later)) == 7
        await build_all(builds)
        assert set((await state(later)).values()) == {("READY", "v2")}


async def test_creates_on_a_missing_base_make_it_once(dsn: str) -> None:
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(running_service(make_settings(), dsn)) for _ in range(3)]
        await asyncio.gather(*(replicas[n % 3].create(f"image-{n}") for n in range(30)))
        system = await replicas[0].get(PYTHONS[1])
        assert [child.name for child in system.child_images] == sorted(f"image-{n}" for n in range(30))
        assert len(await unfinished(replicas[0])) == 31
