"""The worker: claims jobs, keeps their leases, cancels, drains.

A job belongs to one attempt of one worker. The lease is renewed three times a lease; a worker that can't renew stops
the job itself before the lease is over, so that a job that was taken over runs nowhere else. No clock is compared with
another machine's: the database counts the lease from the renewal's arrival, the worker from before its departure.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg

from image_registry.builds.lease import Lease, clock
from image_registry.builds.plan import Stage
from image_registry.errors import RegistryError
from image_registry.models import BuildReport, JobKind, Outcome, StoredJob, TerminationReason
from image_registry.registry.builds import Builds, Claim
from image_registry.storage.database import Database
from image_registry.storage.jobs import CHANNEL
from image_registry.telemetry import fields, tracing
from image_registry.telemetry.catalogue import BUILD_SECONDS, LEASES_LOST, LEASES_TAKEN_OVER, RETRIES, STAGE_SECONDS

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_DELAY = 300.0  # seconds between two attempts after passing faults
LONGEST_PAUSE = 30.0  # seconds for which a worker takes no jobs when one after another fails on it
LEASE_MARGIN = 0.7  # part of a lease after which a worker that couldn't renew stops the job; the rest is to end it in
RENEWAL_PAUSE = 0.2  # seconds between two tries to renew, when one failed


class PassingFaultError(Exception):
    """The attempt failed for a reason that may be gone later; the text says why."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Durations in seconds. `drain` is what jobs under way get at shutdown before they are handed back.

    `packages`: this worker can install system packages. A build that no worker can do waits for `patience`.
    """

    concurrency: int
    lease: float
    poll: float
    drain: float
    packages: bool = False
    patience: float = 600.0


Execute = Callable[[Claim, Lease], Awaitable[BuildReport]]


class _Stop(Enum):
    """Why a job under way was stopped from outside."""

    CANCELLED = "cancelled"
    LOST = "lease lost"
    DRAINED = "handed back by a worker that shuts down"


class Worker:
    """Runs jobs until told to stop.

    `execute` does the work of one claim and says how it ended; it raises PassingFaultError for another attempt, and
    must leave nothing running when it is cancelled, nor when the lease that it is given is over.
    """

    def __init__(self, db: Database, execute: Execute, config: WorkerConfig) -> None:
        self.agent_id: UUID = uuid4()
        self._db = db
        self._builds = Builds(db)
        self._execute = execute
        self._config = config
        self._wake = asyncio.Event()
        self._running: dict[int, _Attempt] = {}
        self._faults_in_a_row = 0
        self._rests_until = 0.0  # of clock()

    @property
    def jobs_under_way(self) -> int:
        """How many jobs it has at the moment."""
        return len(self._running)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain: finish what is under way or hand it back."""
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._listen()),
                group.create_task(self._watch(stop)),
                group.create_task(self._reconcile()),
            ]
            while not stop.is_set():
                self._wake.clear()
                await self._fill(group, stop)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), await self._patience())
            await self._drain()
            for helper in helpers:
                helper.cancel()

    async def _fill(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Claim as much as there is room for."""
        while len(self._running) < self._config.concurrency and not stop.is_set() and clock() >= self._rests_until:
            sure_until = clock() + self._config.lease * LEASE_MARGIN
            try:
                claim = await self._builds.claim(
                    agent_id=self.agent_id,
                    lease=self._config.lease,
                    packages=self._config.packages,
                    held=self._running.keys(),
                )
            except RegistryError as error:
                log.warning("no look at the queue: %s", error)
                return
            except Exception:  # a job that can't even be read must not end every worker, one after the other
                log.exception("no look at the queue")
                return
            if claim is None:
                return
            attempt = _Attempt(claim, sure_until)
            self._running[claim.job.id] = attempt
            attempt.task = group.create_task(self._attempt(attempt))

    async def _patience(self) -> float:
        """How long to sleep: until a job that was put off is due, at most the polling interval."""
        try:
            due = await self._builds.next_due(packages=self._config.packages)
        except RegistryError:
            due = None
        except Exception:
            log.exception("no look at when the next job is due")
            due = None
        rest = self._rests_until - clock()
        return max(0.01, min(self._config.poll, rest if rest > 0 else self._config.poll if due is None else due))

    async def _attempt(self, attempt: _Attempt) -> None:
        """One attempt at one job, whatever happens."""
        job = attempt.claim.job
        fields.bind(job=str(job.uuid), image=job.image_name, attempt=job.attempt)
        span = _begin_span(job)
        with attempt.lease:
            keeper = asyncio.create_task(self._keep(attempt))
            try:
                await self._carry_out(attempt)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("job %s: attempt %d broke off", job.uuid, job.attempt)
            finally:
                keeper.cancel()
                await asyncio.wait([keeper])
                span.end(attempt.outcome)
                self._running.pop(job.id, None)
                self._wake.set()

    async def _carry_out(self, attempt: _Attempt) -> None:
        claim, job = attempt.claim, attempt.claim.job
        cancel = await self._builds.start(job)
        if cancel is None:
            return
        if cancel:  # since the claim, when nobody listened yet for this job
            attempt.stop(_Stop.CANCELLED)
        if attempt.stopped:
            await self._end_stopped(attempt)
            return
        started = time.monotonic()
        log.info("job %s: %s %s, attempt %d", job.uuid, job.kind.name.lower(), job.image_name, job.attempt)
        attempt.work = asyncio.ensure_future(self._execute(claim, attempt.lease))
        try:
            report = await attempt.work
        except PassingFaultError as fault:
            attempt.outcome = "passing fault"
            self._rest()
            await self._put_back(job, delay=_delay(job.faults), fault=True, progress=str(fault))
        except asyncio.CancelledError:
            await self._end_stopped(attempt)
        except Exception as error:
            attempt.outcome = type(error).__name__
            log.exception("job %s failed unforeseen", job.uuid)
            self._rest()
            text = f"unforeseen: {type(error).__name__}"
            await self._put_back(job, delay=_delay(job.faults), fault=True, progress=text)
        else:
            self._faults_in_a_row = 0
            seconds = time.monotonic() - started
            log.info("job %s: %s after %.1f s", job.uuid, report.outcome.value, seconds)
            await self._finish(job, report)
            if report.outcome is Outcome.FAILED:
                attempt.outcome = report.reason.name
            if job.kind is JobKind.BUILD:
                BUILD_SECONDS.observe(seconds, report.outcome.value)

    def _rest(self) -> None:
        """Take no jobs for a while when one after the other fails here: a worker with a full disk must not eat all."""
        self._faults_in_a_row += 1
        if self._faults_in_a_row > self._config.concurrency:
            pause = _growing(1.0, 2.0, self._faults_in_a_row - self._config.concurrency, LONGEST_PAUSE)
            self._rests_until = clock() + pause
            log.warning("%d jobs in a row failed here: no new ones for %.0f s", self._faults_in_a_row, pause)

    async def _end_stopped(self, attempt: _Attempt) -> None:
        job = attempt.claim.job
        attempt.outcome = (attempt.stopped or _Stop.DRAINED).value
        log.info("job %s: stopped, %s", job.uuid, attempt.outcome)
        if attempt.stopped is _Stop.CANCELLED:
            await self._finish(job, BuildReport(Outcome.CANCELLED, TerminationReason.COMPLETED, "cancelled"))
        elif attempt.stopped is not _Stop.LOST:
            await self._put_back(job, delay=0, fault=False, progress=_Stop.DRAINED.value)

    async def _finish(self, job: StoredJob, report: BuildReport) -> None:
        if job.kind is JobKind.BUILD:
            began = time.monotonic()
            with tracing.span(f"build.{Stage.RECORD.value}"):
                written = await self._insist(lambda: self._builds.finish(job, report))
            STAGE_SECONDS.observe(time.monotonic() - began, Stage.RECORD.value)
        else:
            written = await self._insist(lambda: self._builds.finish_cleanup(job))
        if not written:
            log.warning("job %s: attempt %d no longer owned it, its result was dropped", job.uuid, job.attempt)

    async def _put_back(self, job: StoredJob, *, delay: float, fault: bool, progress: str) -> None:
        if fault:
            RETRIES.add()
            log.warning("job %s: attempt %d failed, again in %.0f s: %s", job.uuid, job.attempt, delay, progress)
        await self._insist(lambda: self._builds.put_back(job, delay=delay, fault=fault, progress=progress))

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """A write that must not be lost to a short absence of the database; fencing makes repeating it safe."""
        last_try = time.monotonic() + max(self._config.lease, 10.0)
        while True:
            try:
                return await write()
            except RegistryError:
                if time.monotonic() > last_try:
                    raise
                await asyncio.sleep(random.uniform(0.2, 0.6))  # noqa: S311

    async def _keep(self, attempt: _Attempt) -> None:
        """Renew the lease while the attempt is under way; stop the attempt when it is cancelled or lost."""
        pause = self._config.lease / 3
        while True:
            await asyncio.sleep(min(pause, attempt.lease.left))
            asked_at = clock()
            renewal = asyncio.ensure_future(self._builds.renew(attempt.claim.job, self._config.lease))
            # Not `timeout`: a statement on a connection that was cut off can't be cancelled for many seconds.
            await asyncio.wait([renewal], timeout=attempt.lease.left)
            cancel = _answer(renewal)
            if cancel is _NO_ANSWER and attempt.lease.left > 0:
                pause = RENEWAL_PAUSE
            elif cancel is _NO_ANSWER or cancel is None:
                LEASES_LOST.add()
                attempt.stop(_Stop.LOST)
                return
            else:
                pause = self._config.lease / 3
                attempt.lease.extend(asked_at + self._config.lease * LEASE_MARGIN)
                if cancel:
                    attempt.stop(_Stop.CANCELLED)

    async def _listen(self) -> None:
        """Wake up at once when something may be claimable or is to be cancelled; polling is the net below."""
        while True:
            try:
                async with self._db.listen(CHANNEL) as notices:
                    self._wake.set()
                    async for notice in notices:
                        self._on_notice(notice)
            except (psycopg.Error, OSError) as error:
                log.warning("no notifications for now, polling: %s", str(error).strip().partition("\n")[0])
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311

    def _on_notice(self, notice: str) -> None:
        kind, _, job_id = notice.partition(":")
        if kind == "cancel" and job_id.isdecimal() and (attempt := self._running.get(int(job_id))):
            attempt.stop(_Stop.CANCELLED)
        self._wake.set()

    async def _reconcile(self) -> None:
        """Say that this worker is there, free the jobs of workers that fell silent, end what nobody can do."""
        config = self._config
        while True:
            try:
                await self._builds.report_worker(self.agent_id, packages=config.packages)
                if ended := await self._builds.judge_waiting(silence=config.lease, patience=config.patience):
                    log.warning("%d builds ended: no worker could install their system packages", ended)
                if lost := await self._builds.reconcile():
                    LEASES_TAKEN_OVER.add(amount=lost)
                    log.warning("%d jobs of silent workers are free again", lost)
                    self._wake.set()
            except RegistryError as error:
                log.warning("no look at the leases: %s", error)
            except Exception:
                log.exception("no look at the leases")
            await asyncio.sleep(self._config.lease / 10)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _drain(self) -> None:
        tasks = [attempt.task for attempt in self._running.values() if attempt.task]
        if not tasks:
            return
        log.info("draining: %d jobs have %.0f s", len(tasks), self._config.drain)
        _, pending = await asyncio.wait(tasks, timeout=self._config.drain)
        for attempt in list(self._running.values()):
            attempt.stop(_Stop.DRAINED)
        if pending:
            await asyncio.wait(pending)


class _Attempt:
    """One attempt under way on this worker."""

    def __init__(self, claim: Claim, sure_until: float) -> None:
        self.claim = claim
        self.lease = Lease(sure_until)  # the time until which nobody else can have the job
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Future[BuildReport] | None = None
        self.stopped: _Stop | None = None
        self.outcome = ""  # why it made no image, in a word

    def stop(self, why: _Stop) -> None:
        """Stop the work; the first reason counts."""
        if self.stopped is None:
            self.stopped = why
            if self.work is not None:
                self.work.cancel()


def _begin_span(job: StoredJob) -> tracing.Span:
    """The attempt as a part of the trace of whoever launched the job."""
    return tracing.begin(
        f"job.{job.kind.name.lower()}",
        kind=tracing.Kind.CONSUMER,
        parent={"traceparent": job.traceparent},
        attributes={
            "image_registry.job": str(job.uuid),
            "image_registry.image": job.image_name,
            "image_registry.attempt": job.attempt,
        },
    )


_NO_ANSWER = object()


def _answer(renewal: asyncio.Future[bool | None]) -> bool | object | None:
    """What a renewal said; one that isn't over is given up."""
    if not renewal.done():
        renewal.add_done_callback(lambda late: late.cancelled() or late.exception())
        renewal.cancel()
        return _NO_ANSWER
    error = renewal.exception()
    if error is None:
        return renewal.result()
    if not isinstance(error, RegistryError):
        log.error("a lease could not be renewed", exc_info=error)
    return _NO_ANSWER


def _delay(faults: int) -> float:
    """Growing waits with some spread: about 2, 8, 32, 128 seconds."""
    return _growing(2.0, 4.0, faults, LONGEST_DELAY) * random.uniform(0.8, 1.2)  # noqa: S311


def _growing(first: float, factor: float, times: int, longest: float) -> float:
    """`first` multiplied so many times, `longest` at most, however often that is."""
    return min(first * factor ** min(times, 50), longest)
