"""Waiting for a build: when it is over, and what is said meanwhile."""

from typing import Any

import pytest

from image_registry.client import (
    BuildCancelledError,
    BuildFailedError,
    CreateImageResult,
    DeadlineExceededError,
    ImageReference,
    ImageStatus,
    JobMetadata,
    JobStatus,
    ManagedImage,
    NotFoundError,
    ReferenceType,
    SyncImageTagResult,
    TerminationReason,
    UnavailableError,
    WaitProgress,
    WaitTimeoutError,
    waiting,
)
from image_registry.client.calls import Page
from image_registry.client.flow import Send
from tests.unit.client.test_flow import HANGS, World

BASE = ImageReference("system-python-3-11", ReferenceType.MANAGED)


def image(status: ImageStatus, name: str = "vision") -> ManagedImage:
    return ManagedImage(name=name, status=status, base_image=BASE if name == "vision" else None)


def job(status: JobStatus, progress: str = "", reason: TerminationReason = TerminationReason.COMPLETED) -> JobMetadata:
    return JobMetadata(job_id="1", status=status, job_progress_str=progress, termination_reason=reason)


CREATED = CreateImageResult(image(ImageStatus.BUILDING_FIRST_TIME), job(JobStatus.REQUESTED))


def wait(world: World, what: waiting.Waitable, timeout: float | None = None) -> tuple[ManagedImage, list[WaitProgress]]:
    seen: list[WaitProgress] = []
    plan = waiting.plan(what, timeout=timeout, interval=1.0, on_progress=seen.append)
    return world.run(waiting.wait(plan, world.limits)), seen


def test_a_build_is_followed_from_running_to_ready() -> None:
    world = World(
        job(JobStatus.RUNNING, "resolve …"), image(ImageStatus.BUILDING_FIRST_TIME),
        job(JobStatus.SUCCEEDED, "all done"), image(ImageStatus.READY),
    )  # fmt: skip
    found, seen = wait(world, CREATED)
    assert found.status is ImageStatus.READY
    assert [one.job.job_progress_str for one in seen if one.job] == ["resolve …", "all done"]
    assert seen[1].elapsed > seen[0].elapsed


def test_pauses_grow_up_to_the_interval() -> None:
    outcomes: list[Any] = []
    for _ in range(12):
        outcomes += [job(JobStatus.RUNNING), image(ImageStatus.BUILDING_FIRST_TIME)]
    world = World(*outcomes, job(JobStatus.SUCCEEDED), image(ImageStatus.READY))
    wait(world, CREATED)
    assert world.pauses[0] == pytest.approx(0.1)
    assert world.pauses == sorted(world.pauses)
    assert world.pauses[-1] == 1.0


def test_while_the_base_is_being_built_its_own_progress_is_shown() -> None:
    world = World(
        job(JobStatus.REQUESTED), image(ImageStatus.BUILDING_FIRST_TIME),
        image(ImageStatus.BUILDING_FIRST_TIME, BASE.name), Page((job(JobStatus.RUNNING, "fetch …"),), ""),
        job(JobStatus.SUCCEEDED), image(ImageStatus.READY),
    )  # fmt: skip
    _, seen = wait(world, CREATED)
    assert seen[0].base is not None
    assert seen[0].base.name == BASE.name
    assert seen[0].base_job is not None
    assert seen[0].base_job.job_progress_str == "fetch …"
    assert seen[1].base is None


def test_a_failed_build_raises_with_its_cause() -> None:
    cause = "failed in resolve: no version of nump"
    world = World(job(JobStatus.FAILED, cause, TerminationReason.GENERIC_ERROR), image(ImageStatus.FAILED))
    with pytest.raises(BuildFailedError) as caught:
        wait(world, CREATED)
    assert caught.value.cause == cause
    assert caught.value.is_users_fault
    assert caught.value.image.status is ImageStatus.FAILED


def test_a_cancelled_build_raises_its_own_error() -> None:
    world = World(job(JobStatus.CANCELLED), image(ImageStatus.FAILED))
    with pytest.raises(BuildCancelledError):
        wait(world, CREATED)


def test_a_cancelled_rebuild_raises_although_the_image_is_ready_again() -> None:
    world = World(job(JobStatus.CANCELLED), image(ImageStatus.READY))
    with pytest.raises(BuildCancelledError):
        wait(world, SyncImageTagResult(image(ImageStatus.REBUILDING), job(JobStatus.REQUESTED)))


def test_an_image_that_is_ready_is_returned_at_once_whatever_its_last_job_came_to() -> None:
    for what in ("vision", image(ImageStatus.READY), SyncImageTagResult(image(ImageStatus.READY), None)):
        world = World(Page((job(JobStatus.CANCELLED),), ""), image(ImageStatus.READY))
        assert wait(world, what)[0].status is ImageStatus.READY


def test_an_outdated_image_is_a_result_too() -> None:
    world = World(job(JobStatus.SUCCEEDED), image(ImageStatus.OUTDATED))
    assert wait(world, CREATED)[0].status is ImageStatus.OUTDATED


def test_an_image_without_any_job_is_followed_by_its_status() -> None:
    world = World(Page((), ""), image(ImageStatus.REBUILDING), Page((), ""), image(ImageStatus.FAILED))
    with pytest.raises(BuildFailedError) as caught:
        wait(world, "vision")
    assert caught.value.cause == "the service gives no cause"


def test_a_build_that_began_between_two_looks_is_followed_too() -> None:
    world = World(
        Page((job(JobStatus.FAILED),), ""), image(ImageStatus.REBUILDING),
        Page((job(JobStatus.SUCCEEDED),), ""), image(ImageStatus.READY),
    )  # fmt: skip
    assert wait(world, "vision")[0].status is ImageStatus.READY


def test_time_is_up() -> None:
    outcomes: list[Any] = []
    for _ in range(20):
        outcomes += [job(JobStatus.RUNNING, "fetch …"), image(ImageStatus.BUILDING_FIRST_TIME)]
    world = World(*outcomes)
    with pytest.raises(WaitTimeoutError) as caught:
        wait(world, CREATED, timeout=3.0)
    assert world.now <= 3.0
    assert caught.value.progress.image.name == "vision"
    assert isinstance(caught.value, TimeoutError)
    assert "still BUILDING_FIRST_TIME" in str(caught.value)


def test_a_service_that_hangs_doesnt_lengthen_the_wait() -> None:
    seen = (job(JobStatus.RUNNING), image(ImageStatus.BUILDING_FIRST_TIME))
    for outcomes in ((*seen, HANGS), (*seen, seen[0], HANGS)):  # in a look's first call, and in a later one
        world = World(*outcomes)
        with pytest.raises(WaitTimeoutError) as caught:
            wait(world, CREATED, timeout=5.0)
        assert world.now == pytest.approx(5.0)
        assert caught.value.progress.outage == "no answer"
    world = World(HANGS)
    with pytest.raises(DeadlineExceededError):
        wait(world, CREATED, timeout=5.0)
    assert world.now == pytest.approx(5.0)


def test_a_wait_of_no_time_is_one_look() -> None:
    world = World(job(JobStatus.SUCCEEDED), image(ImageStatus.READY))
    assert wait(world, CREATED, timeout=0)[0].status is ImageStatus.READY
    assert all(isinstance(step, Send) and step.timeout >= 0.5 for step in world.steps)


def test_a_short_outage_is_shown_and_outlasted() -> None:
    grpcs = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: refused"
    away = [UnavailableError(grpcs)] * 3
    world = World(
        job(JobStatus.RUNNING), image(ImageStatus.BUILDING_FIRST_TIME), *away, job(JobStatus.SUCCEEDED),
        image(ImageStatus.READY),
    )  # fmt: skip
    _, seen = wait(world, CREATED)
    assert [one.outage for one in seen] == ["", "refused", ""]


def test_a_long_outage_ends_the_waiting() -> None:
    away = [UnavailableError("refused")] * 500
    world = World(job(JobStatus.RUNNING), image(ImageStatus.BUILDING_FIRST_TIME), *away)
    with pytest.raises(UnavailableError):
        wait(world, CREATED)
    assert 60 < world.now < 65


def test_a_service_that_was_never_there_and_a_missing_image_are_errors_at_once() -> None:
    with pytest.raises(UnavailableError):
        wait(World(*[UnavailableError("refused")] * 3), CREATED)
    with pytest.raises(NotFoundError):
        wait(World(Page((), ""), NotFoundError("none")), "vision")
