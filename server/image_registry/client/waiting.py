"""Waiting for a build: what is looked at, when it is over, what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from image_registry.client import calls
from image_registry.client.errors import (
    BuildCancelledError,
    BuildFailedError,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
    WaitTimeoutError,
)
from image_registry.client.flow import Flow, Limits, Pause, perform
from image_registry.client.models import (
    CreateImageResult,
    FoundImage,
    ImageStatus,
    JobMetadata,
    JobStatus,
    ManagedImage,
    ReferenceType,
    SyncImageTagResult,
    WaitProgress,
)

OUTAGE_PATIENCE = 60.0  # seconds that the service may be away while somebody waits
_FIRST_PAUSE = 0.1
_PASSING = (UnavailableError, ResourceExhaustedError, DeadlineExceededError)

Waitable = str | ManagedImage | CreateImageResult | FoundImage | SyncImageTagResult


@dataclass(frozen=True, slots=True)
class Wait:
    """What to wait for and how: at most `timeout` seconds (None: for ever), looking at least every `interval`."""

    name: str
    job_id: str | None
    timeout: float | None
    interval: float
    on_progress: Callable[[WaitProgress], object]


def plan(
    what: Waitable, *, timeout: float | None, interval: float, on_progress: Callable[[WaitProgress], object] | None
) -> Wait:
    """The plan for waiting for an image, or for the very build that a create or sync launched."""
    name, job_id = _subject(what)
    return Wait(name, job_id, timeout, interval, on_progress or (lambda _: None))


def wait(plan: Wait, limits: Limits) -> Flow[ManagedImage]:
    """Follow the build to its end. Raises BuildFailedError, BuildCancelledError, WaitTimeoutError, CallError."""
    clock = limits.clock
    started = last_seen = clock()
    seen: WaitProgress | None = None
    pause = min(_FIRST_PAUSE, plan.interval)
    while True:
        try:
            seen = yield from _look(plan, limits)
            last_seen = clock()
        except _PASSING as error:
            if seen is None or clock() - last_seen > OUTAGE_PATIENCE:
                raise
            seen = replace(seen, outage=error.cause)
        seen = replace(seen, elapsed=clock() - started)
        plan.on_progress(seen)
        if not seen.outage and _is_over(plan, seen):
            return _result(plan, seen)
        if plan.timeout is not None and seen.elapsed + pause > plan.timeout:
            raise WaitTimeoutError(seen)
        yield Pause(pause)
        pause = min(pause * 1.5, plan.interval)


def _look(plan: Wait, limits: Limits) -> Flow[WaitProgress]:
    """The job first: when it is over, the image that is read afterwards shows its result."""
    job: JobMetadata | None
    if plan.job_id is not None:
        job = yield from perform(calls.get_job(plan.job_id), limits)
    else:
        job = yield from _newest_job(plan.name, limits)
    image = yield from perform(calls.get_image(plan.name), limits)
    progress = WaitProgress(image=image, job=job, elapsed=0.0)
    reference = image.base_image
    if job is None or job.status is not JobStatus.REQUESTED or reference is None:
        return progress
    if reference.reference_type is not ReferenceType.MANAGED:
        return progress
    base = yield from perform(calls.get_image(reference.name), limits)
    if not base.is_building:
        return progress
    return replace(progress, base=base, base_job=(yield from _newest_job(base.name, limits)))


def _newest_job(name: str, limits: Limits) -> Flow[JobMetadata | None]:
    page = yield from perform(calls.list_jobs((), name, 1, "", full=True), limits)
    return page.items[0] if page.items else None


def _is_over(plan: Wait, seen: WaitProgress) -> bool:
    if seen.job is not None and not seen.job.is_finished:
        return False
    return plan.job_id is not None or not seen.image.is_building


def _result(plan: Wait, seen: WaitProgress) -> ManagedImage:
    failed = seen.image.status is ImageStatus.FAILED
    status = seen.job.status if seen.job is not None and (failed or plan.job_id is not None) else None
    if status is JobStatus.CANCELLED:
        raise BuildCancelledError(seen.image, seen.job)
    if status is JobStatus.FAILED or (failed and status is not JobStatus.SUCCEEDED):
        raise BuildFailedError(seen.image, seen.job)
    return seen.image


def _subject(what: Waitable) -> tuple[str, str | None]:
    match what:
        case CreateImageResult(image, job):
            return image.name, job.job_id
        case SyncImageTagResult(image, job):
            return image.name, job.job_id if job else None
        case FoundImage(image):
            return image.name, None
        case ManagedImage():
            return what.name, None
        case _:
            return what, None
