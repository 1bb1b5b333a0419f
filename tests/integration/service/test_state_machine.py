"""Random interleavings of calls, workers and late reports on the real service, held against a model after every step.

The service is real: two replicas of different deployments on one Postgres, called over gRPC; workers are real claims.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
from grpc import aio
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.models import BuildReport, ImageStatus, JobKind, JobStatus, Outcome, PipLibrary, TerminationReason
from image_registry.registry.builds import Builds, Claim
from image_registry.storage.database import Database
from tests.fixtures import registry_model as model
from tests.fixtures.budget import LONG, examples
from tests.fixtures.invariants import BROKEN
from tests.fixtures.refusals import read_refusal
from tests.fixtures.service import BASES, Service, make_settings, running_service

T = TypeVar("T")

STEPS = 50  # of one example
LEAST_STEPS = 500  # of all examples together
DEPLOYMENTS = ("v1", "v2")
NAMES = ("a", "b", "c")
SYSTEM_NAMES = tuple(model.system_name(python) for python in BASES)
IMAGES = """select i.name, i.status, i.status_before_rebuild, i.platform_tag, i.next_definition is not null,
    b.name, coalesce(json_object_agg(l.library, l.version) filter (where l.library is not null), '{}')
    from images i left join images b on b.id = i.base_image_id left join image_libraries l on l.image_name = i.name
    group by i.id, b.name order by i.name"""
JOBS = """select kind, image_name, status, termination_reason, priority, attempt, faults, cancel_requested,
    run_after <= now() from jobs order by id"""


class World:
    """The real thing: replicas, workers' side, and SQL to look at it from outside. `run` gives it the event loop."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.steps = 0

    def __enter__(self) -> "World":
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self.replicas: dict[str, Service] = {
            tag: await enter(running_service(make_settings(platform_tag=tag), self._dsn)) for tag in DEPLOYMENTS
        }
        database = Database(self._dsn, size=2, wait=5, statement_timeout=10)
        await database.open()
        self._stack.push_async_callback(database.close)
        self.builds = Builds(database)
        self._sql = await enter(await psycopg.AsyncConnection.connect(self._dsn, autocommit=True))

    async def clear(self) -> None:
        await self.sql("truncate images, image_libraries, jobs restart identity cascade")
        await self.sql("update registry set platform_tag = ''")

    async def sql(self, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
        cursor = await self._sql.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


@dataclass
class Holding:
    """A worker's claim; it may have been lost since, which the worker doesn't know."""

    claim: Claim
    job: model.Job
    attempt: int


class Interleavings(RuleBasedStateMachine):
    world: World

    @initialize()
    def begin(self) -> None:
        self.model = model.Registry(tuple(BASES))
        self.holdings: list[Holding] = []
        self.world.run(self.world.clear())

    def both(self, expected: Any, real: Coroutine[Any, Any, T]) -> T | None:
        """Do a step on both sides: the same refusal, or none. The real answer, if there is one."""
        self.world.steps += 1
        try:
            expected()
        except model.Refused as refusal:
            reason = str(refusal)
        else:
            reason = ""
        try:
            answer = self.world.run(real)
        except aio.AioRpcError as error:
            found, answer = read_refusal(error).reason, None
        else:
            found = ""
        assert found == reason
        return answer

    # --- callers -----------------------------------------------------------------------------------------------

    @rule(tag=st.sampled_from(DEPLOYMENTS), name=st.sampled_from(NAMES), python=st.sampled_from(tuple(BASES)))
    def create(self, tag: str, name: str, python: str) -> None:
        call = self.world.replicas[tag].create(name, python_version=python)
        answer = self.both(lambda: self.model.create(tag, name, python), call)
        if answer is not None:
            assert answer.image.status == pb.ManagedImage.STATUS_BUILDING_FIRST_TIME
            assert answer.image.rime_tag == tag

    @rule(tag=st.sampled_from(DEPLOYMENTS), name=st.sampled_from((*NAMES, *SYSTEM_NAMES)))
    def delete(self, tag: str, name: str) -> None:
        call = self.world.replicas[tag].images.DeleteImage(pb.DeleteImageRequest(name=name))
        self.both(lambda: self.model.delete(name), awaited(call))

    @rule(tag=st.sampled_from(DEPLOYMENTS), name=st.sampled_from((*NAMES, *SYSTEM_NAMES)), force=st.booleans())
    def sync(self, tag: str, name: str, force: bool) -> None:
        call = self.world.replicas[tag].images.SyncImageTag(pb.SyncImageTagRequest(name=name, force=force))
        launched: list[model.Job | None] = []
        answer = self.both(lambda: launched.append(self.model.sync(tag, name, force=force)), awaited(call))
        if answer is not None:
            assert answer.HasField("job") == (launched[0] is not None)
            assert answer.image.status == self.model.images[name].status

    @rule(tag=st.sampled_from(DEPLOYMENTS))
    def ensure(self, tag: str) -> None:
        call = self.world.replicas[tag].images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
        self.both(lambda: self.model.ensure(tag), awaited(call))

    @rule(name=st.sampled_from((*NAMES, *SYSTEM_NAMES)), ok=st.booleans(), version=st.sampled_from("12"))
    def report(self, name: str, ok: bool, version: str) -> None:
        call = self.world.replicas["v1"].report(name, f"numpy=={version}", f"only-{version}==1", ok=ok)
        libraries = {"numpy": version, f"only-{version}": "1"}
        self.both(lambda: self.model.report(name, ok=ok, libraries=libraries), call)

    @precondition(lambda self: any(job.kind is JobKind.BUILD for job in self.model.jobs))
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        builds = [(number, job) for number, job in enumerate(self.model.jobs) if job.kind is JobKind.BUILD]
        number, job = builds[-1 - pick % len(builds)]
        [[uuid]] = self.world.run(self.world.sql("select uuid from jobs order by id offset %s limit 1", number))
        request = jobs_pb2.CancelJobRequest(job_id=str(uuid))
        self.both(lambda: self.model.cancel(job), awaited(self.world.replicas["v2"].jobs.CancelJob(request)))

    # --- workers -----------------------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        self.world.steps += 1
        job = self.model.claim()
        claim = self.world.run(self.world.builds.claim(agent_id=uuid4(), lease=3600))
        assert (claim is None) == (job is None)
        if claim is None or job is None:
            return
        assert (claim.job.image_name, claim.job.kind, claim.job.attempt) == (job.name, job.kind, job.attempt)
        if claim.definition is not None:
            assert claim.definition.platform_tag == job.tag
        if claim.base is not None:
            assert claim.base.status not in model.BUILDING
        self.holdings.append(Holding(claim, job, job.attempt))

    def held(self, pick: int) -> Holding:
        return self.holdings[-1 - pick % len(self.holdings)]

    @precondition(lambda self: self.holdings)
    @rule(pick=st.integers(0, 5))
    def start(self, pick: int) -> None:
        self.world.steps += 1
        holding = self.held(pick)
        expected = self.model.start(holding.job, holding.attempt)
        assert self.world.run(self.world.builds.start(holding.claim.job)) == expected

    @precondition(lambda self: self.holdings)
    @rule(pick=st.integers(0, 5))
    def renew(self, pick: int) -> None:
        self.world.steps += 1
        holding = self.held(pick)
        expected = self.model.renew(holding.job, holding.attempt)
        assert self.world.run(self.world.builds.renew(holding.claim.job, 3600)) == expected

    @precondition(lambda self: self.holdings)
    @rule(pick=st.integers(0, 5), outcome=st.sampled_from(Outcome), version=st.sampled_from("34"))
    def finish(self, pick: int, outcome: Outcome, version: str) -> None:
        """Also a zombie's: its holding was lost long ago."""
        self.world.steps += 1
        holding, builds = self.held(pick), self.world.builds
        expected = self.model.finish(holding.job, holding.attempt, outcome, {"numpy": version})
        if holding.claim.job.kind is JobKind.BUILD:
            reason = TerminationReason.OOMKILLED if outcome is Outcome.FAILED else TerminationReason.COMPLETED
            report = BuildReport(outcome, reason, "done", (PipLibrary("NumPy", f"{version}.0"),))
            assert self.world.run(builds.finish(holding.claim.job, report)) == expected
        else:
            assert self.world.run(builds.finish_cleanup(holding.claim.job)) == expected

    @precondition(lambda self: self.holdings)
    @rule(pick=st.integers(0, 5), later=st.booleans(), fault=st.booleans())
    def put_back(self, pick: int, later: bool, fault: bool) -> None:
        self.world.steps += 1
        holding = self.held(pick)
        self.model.put_back(holding.job, holding.attempt, later=later, fault=fault)
        delay = 3600 if later else 0
        self.world.run(self.world.builds.put_back(holding.claim.job, delay=delay, fault=fault, progress="again"))

    @precondition(lambda self: any(job.status in model.ACTIVE for job in self.model.jobs))
    @rule(pick=st.integers(0, 5), faults=st.sampled_from([0, 0, 4]))
    def a_worker_falls_silent(self, pick: int, faults: int) -> None:
        self.world.steps += 1
        active = [(number, job) for number, job in enumerate(self.model.jobs) if job.status in model.ACTIVE]
        number, job = active[pick % len(active)]
        job.expired, job.faults = True, max(job.faults, faults)
        self.world.run(
            self.world.sql(
                """update jobs set lease_expires_at = now() - interval '1 s', faults = greatest(faults, %s)
                where id = (select id from jobs order by id offset %s limit 1)""",
                faults,
                number,
            )
        )

    @rule()
    def reconcile(self) -> None:
        self.world.steps += 1
        assert self.world.run(self.world.builds.reconcile()) == self.model.reconcile()

    # --- what takes several steps, and would be rare if left to chance -----------------------------------------

    @rule(version=st.sampled_from("34"))
    def everything_is_built(self, version: str) -> None:
        while self.model.claimable():
            self.claim()
            self.start(0)
            self.finish(0, Outcome.SUCCEEDED, version)

    @precondition(lambda self: self.model.images)
    @rule(tag=st.sampled_from(DEPLOYMENTS), pick=st.integers(0, 5), claimed=st.booleans())
    def a_rebuild_is_called_off(self, tag: str, pick: int, claimed: bool) -> None:
        image = list(self.model.images.values())[pick % len(self.model.images)]
        self.sync(tag, image.name, True)
        job = self.model.unfinished(image.life)
        if claimed and job is self.model.claimable():
            self.claim()
        builds = [one for one in self.model.jobs if one.kind is JobKind.BUILD]
        self.cancel(len(builds) - 1 - next(n for n, one in enumerate(builds) if one is job))
        if claimed and self.holdings and self.holdings[-1].job is job:
            self.renew(0)
            self.finish(0, Outcome.CANCELLED, "3")

    @precondition(lambda self: len(self.model.images) > 2)
    @rule(tag=st.sampled_from(DEPLOYMENTS), python=st.sampled_from(tuple(BASES)))
    def users_come_while_the_platform_rebuilds(self, tag: str, python: str) -> None:
        for image in list(self.model.images.values()):
            self.sync(tag, image.name, False)
        self.create(tag, NAMES[0], python)
        self.claim()

    @precondition(lambda self: any(job.status in model.ACTIVE for job in self.model.jobs))
    @rule(pick=st.integers(0, 5))
    def a_worker_is_lost_and_another_takes_over(self, pick: int) -> None:
        self.a_worker_falls_silent(pick, 0)
        self.reconcile()
        self.claim()

    @precondition(lambda self: self.zombies())
    @rule(pick=st.integers(0, 5), how=st.sampled_from(["finish", "put back", "start", "renew"]))
    def a_zombie_comes_late(self, pick: int, how: str) -> None:
        zombies = self.zombies()
        self.holdings.append(zombies[pick % len(zombies)])
        match how:
            case "finish":
                self.finish(0, Outcome.SUCCEEDED, "3")
            case "put back":
                self.put_back(0, later=False, fault=True)
            case "start":
                self.start(0)
            case _:
                self.renew(0)

    def zombies(self) -> list[Holding]:
        """Those who lost a job that somebody else has now."""
        return [one for one in self.holdings if one.job.status in model.ACTIVE and one.job.attempt != one.attempt]

    @precondition(lambda self: any(not job.due for job in self.model.jobs))
    @rule()
    def time_passes(self) -> None:
        for job in self.model.jobs:
            job.due = True
        self.world.run(self.world.sql("update jobs set run_after = now()"))

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_what_the_model_says(self) -> None:
        registry = self.model
        lives = {image.life: image.name for image in registry.images.values()}
        expected_images = [
            (
                *(image.name, image.status, image.before, image.tag, image.next_tag is not None),
                *(None if image.base is None else lives[image.base], image.libraries),
            )
            for _, image in sorted(registry.images.items())
        ]
        assert self.world.run(self.world.sql(IMAGES)) == expected_images
        expected_jobs = [
            (
                *(job.kind, job.name, job.status, job.reason, job.priority),
                *(job.attempt, job.faults, job.cancel_requested, job.due),
            )
            for job in registry.jobs
        ]
        assert self.world.run(self.world.sql(JOBS)) == expected_jobs

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.world.run(self.world.sql(BROKEN)) == []

    @rule(tag=st.sampled_from(DEPLOYMENTS), name=st.sampled_from((*NAMES, *SYSTEM_NAMES)))
    def callers_see_it(self, tag: str, name: str) -> None:
        """One image, its children, its jobs, and those that have its first library, as a caller sees them."""
        self.world.steps += 1
        self.world.run(self._look(self.world.replicas[tag], name))

    async def _look(self, service: Service, name: str) -> None:
        image = self.model.images.get(name)
        query = jobs_pb2.ListJobsRequest(first_page_query=jobs_pb2.ListJobsRequest.Query(object_id=name))
        jobs = (await service.jobs.ListJobs(query)).jobs
        expected = [job for job in self.model.jobs if job.name == name and job.kind is JobKind.BUILD]
        assert [job.status for job in jobs] == [job.status for job in reversed(expected)]
        if image is None:
            return
        seen = await service.get(name)
        assert (seen.status, {x.name.lower(): x.version.removesuffix(".0") for x in seen.pip_libraries}) == (
            image.status,
            image.libraries,
        )
        children = sorted(child.name for child in self.model.images.values() if child.base == image.life)
        assert [child.name for child in seen.child_images] == children
        if image.status is not ImageStatus.BUILDING_FIRST_TIME:
            assert seen.rime_tag == image.tag
        for library, version in list(image.libraries.items())[:1]:
            wanted = pb.ListImagesRequest(pip_libraries=[{"name": library, "version": version}])
            found = [one.name for one in (await service.images.ListImages(wanted)).images]
            assert found == sorted(
                one.name for one in self.model.images.values() if one.libraries.get(library) == version
            )


async def awaited(call: Any) -> Any:
    return await call


def test_no_interleaving_leaves_the_allowed_states(dsn: str) -> None:
    with World(dsn) as world:
        Interleavings.world = world
        phases = tuple(Phase) if LONG else (Phase.generate,)  # finding the shortest failure takes minutes
        run_state_machine_as_test(Interleavings, settings=examples(24, stateful_step_count=STEPS, phases=phases))
        assert world.steps >= LEAST_STEPS
        print(f"{world.steps} steps")


def test_the_model_refuses_to_be_trivial() -> None:
    """A walk by hand through the model itself, so that it can't agree with a service that does nothing."""
    registry = model.Registry(("3.12",))
    registry.create("v1", "a", "3.12")
    base = registry.claim()
    assert base is not None
    assert base.name == "system-python-3-12"
    assert registry.claim() is None
    assert registry.start(base, 1) is False
    assert registry.finish(base, 1, Outcome.SUCCEEDED, {})
    child = registry.claim()
    assert child is not None
    assert registry.finish(child, 1, Outcome.SUCCEEDED, {"numpy": "1"})
    assert not registry.finish(child, 1, Outcome.FAILED, {})
    assert registry.images["a"].status is ImageStatus.READY
    registry.ensure("v2")
    image = registry.images["a"]
    assert image.status is ImageStatus.OUTDATED
    registry.delete("a")
    assert registry.jobs[-1].kind is JobKind.DELETE_REPOSITORY
    assert [job.status for job in registry.jobs[:2]] == [JobStatus.SUCCEEDED] * 2
