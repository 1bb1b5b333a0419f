"""Waiting for a build: what is looked at, when it is over, what is said meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from image_registry.client import calls
from image_registry.client.calls import Call
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
_FIRST_LOOK = 1.0  # seconds that the first look may take at least, so that a wait of no time is one look
_PASSING = (UnavailableError, ResourceExhaustedError, DeadlineExceededError)

T = TypeVar("T")
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
    """Follow the build to its end. Raises BuildFailedError, BuildCancelledError, WaitTimeoutError, CallError.

    No look takes longer than what is left of the plan's time; the first one may take a second.
    """
    clock = limits.clock
    started = last_seen = clock()
    longest = math.inf if plan.timeout is None else plan.timeout
    seen: WaitProgress | None = None
    pause = min(_FIRST_PAUSE, plan.interval)
    while True:
        try:
            end = started + (max(longest, _FIRST_LOOK) if seen is None else longest)
            seen = yield from _look(plan, limits, end)
            last_seen = clock()
        except _PASSING as error:
            if seen is None or clock() - last_seen > OUTAGE_PATIENCE:
                raise
            seen = replace(seen, outage=error.cause)
        seen = replace(seen, elapsed=clock() - started)
        plan.on_progress(seen)
        if not seen.outage and _is_over(plan, seen):
            return _result(plan, seen)
        if seen.elapsed + pause > longest:
            raise WaitTimeoutError(seen)
        yield Pause(pause)
        pause = min(pause * 1.5, plan.interval)


def _look(plan: Wait, limits: Limits, end: float) -> Flow[WaitProgress]:
    """The job first: when it is over, the image that is read afterwards shows its result. Over by `end`."""
    job: JobMetadata | None
    if plan.job_id is not None:
        job = yield from _by(end, calls.get_job(plan.job_id), limits)
    else:
        job = yield from _newest_job(plan.name, limits, end)
    image = yield from _by(end, calls.get_image(plan.name), limits)
    progress = WaitProgress(image=image, job=job, elapsed=0.0)
    reference = image.base_image
    if job is None or job.status is not JobStatus.REQUESTED or reference is None:
        return progress
    if reference.reference_type is not ReferenceType.MANAGED:
        return progress
    base = yield from _by(end, calls.get_image(reference.name), limits)
    if not base.is_building:
        return progress
    return replace(progress, base=base, base_job=(yield from _newest_job(base.name, limits, end)))


def _newest_job(name: str, limits: Limits, end: float) -> Flow[JobMetadata | None]:
    page = yield from _by(end, calls.list_jobs((), name, 1, "", full=True), limits)
    return page.items[0] if page.items else None


def _by(end: float, call: Call[T], limits: Limits) -> Flow[T]:
    """Carry out a call, all its attempts, by `end`."""
    return perform(call, replace(limits, timeout=min(limits.timeout, max(0.0, end - limits.clock()))))


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
