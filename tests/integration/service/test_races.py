"""Real concurrency: many callers, several replicas, workers and zombies at once, on one Postgres."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.models import BuildReport, JobKind, Outcome, PipLibrary, TerminationReason
from image_registry.registry.builds import Builds, Claim
from image_registry.storage.database import Database
from tests.fixtures.budget import LONG
from tests.fixtures.invariants import check_invariants, rows
from tests.fixtures.service import Service, make_settings, running_service

Code = grpc.StatusCode
# What callers may be told in a race. Nothing else: no INTERNAL, and no deadlock as UNAVAILABLE.
EXPECTED = {Code.OK, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED}


@pytest.fixture
async def replicas(dsn: str) -> AsyncIterator[list[Service]]:
    """Two deployments, the first with two replicas."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_service(make_settings(platform_tag=tag, pool_size=6), dsn))
            for tag in ("v1", "v1", "v2")
        ]


async def code_of(call: Awaitable[Any]) -> Code:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code()
    return Code.OK


@pytest.mark.parametrize("base_is_there", [False, True])
async def test_of_a_hundred_creates_of_one_name_one_wins(
    replicas: list[Service], dsn: str, base_is_there: bool
) -> None:
    if base_is_there:
        await replicas[0].create("other")
    codes = await asyncio.gather(*(code_of(replicas[n % 2].create("one", f"x{n}")) for n in range(100)))
    assert Counter(codes) == {Code.OK: 1, Code.ALREADY_EXISTS: 99}
    await check_invariants(dsn)
    query = jobs_pb2.ListJobsRequest(first_page_query=jobs_pb2.ListJobsRequest.Query(object_id="one"))
    assert len((await replicas[0].jobs.ListJobs(query)).jobs) == 1


async def test_of_many_deletes_of_one_name_one_wins(replicas: list[Service], dsn: str) -> None:
    await replicas[0].create("one")
    request = pb.DeleteImageRequest(name="one")
    codes = await asyncio.gather(*(code_of(replicas[n % 3].images.DeleteImage(request)) for n in range(30)))
    assert Counter(codes) == {Code.OK: 1, Code.NOT_FOUND: 29}
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await rows(conn, "select count(*) from jobs where kind = 2") == [(1,)]


async def test_two_lives_of_a_name_never_mix(replicas: list[Service], dsn: str, database: Database) -> None:
    """Each life asks for a library of its own; no image may ever show another life's, however late builds end."""
    lives, over = 40, asyncio.Event()
    builds = Builds(database)

    async def live() -> None:
        for life in range(lives):
            created = await replicas[life % 2].create("one", f"life-{life}")
            assert [one.name for one in created.image.pip_requirements] == [f"life-{life}"]
            await asyncio.sleep(random.uniform(0, 0.02))
            image = await replicas[0].get("one")
            assert image.pip_requirements[0].name == f"life-{life}"
            assert {x.name for x in image.pip_libraries} <= {f"life-{life}"}
            await replicas[(life + 1) % 2].images.DeleteImage(pb.DeleteImageRequest(name="one"))
        over.set()

    async def work() -> None:
        while not over.is_set():
            claim = await builds.claim(agent_id=uuid4(), lease=60)
            if claim is None:
                await asyncio.sleep(0.002)
                continue
            await builds.start(claim.job)
            await asyncio.sleep(random.uniform(0, 0.03))
            await end(builds, claim, Outcome.SUCCEEDED)

    await asyncio.gather(live(), *(work() for _ in range(3)))
    await check_invariants(dsn)
    while (claim := await builds.claim(agent_id=uuid4(), lease=60)) is not None:
        await builds.start(claim.job)
        await end(builds, claim, Outcome.SUCCEEDED)
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await rows(conn, "select count(*) from jobs where status in (1, 2, 5, 7)") == [(0,)]
        assert await rows(conn, "select count(*) from image_libraries") == [(0,)]
        assert await rows(conn, "select count(*) from jobs where kind = 2 and status = 4") == [(lives,)]


async def end(builds: Builds, claim: Claim, outcome: Outcome) -> None:
    """End a job; a build's libraries are those that were asked for."""
    if claim.job.kind is JobKind.DELETE_REPOSITORY:
        await builds.finish_cleanup(claim.job)
        return
    assert claim.definition is not None
    libraries = tuple(PipLibrary(one.name, "1") for one in claim.definition.pip_requirements)
    reason = TerminationReason.GENERIC_ERROR if outcome is Outcome.FAILED else TerminationReason.COMPLETED
    await builds.finish(claim.job, BuildReport(outcome, reason, "done", libraries))


class Storm:
    """Callers and workers who do what they please, for a number of rounds each."""

    def __init__(self, seed: int, replicas: list[Service], builds: Builds, sql: psycopg.AsyncConnection[Any]) -> None:
        self.dice = random.Random(seed)
        self.replicas = replicas
        self.builds = builds
        self.sql = sql
        self.codes: Counter[Code] = Counter()
        self.jobs: list[str] = []

    async def call(self, rounds: int) -> None:
        for _ in range(rounds):
            self.codes[await code_of(self.one_call())] += 1

    async def one_call(self) -> None:
        dice, service = self.dice, self.dice.choice(self.replicas)
        name = dice.choice(["a", "b", "c", "d", "system-python-3-11", "system-python-3-12"])
        match dice.randrange(10):
            case 0 | 1 | 2:
                created = await service.create(dice.choice("abcd"), python_version=dice.choice(["3.11", "3.12"]))
                self.jobs.append(created.job.job_id)
            case 3:
                await service.images.DeleteImage(pb.DeleteImageRequest(name=name))
            case 4 | 5:
                request = pb.SyncImageTagRequest(name=name, force=dice.random() < 0.5)
                self.jobs.append((await service.images.SyncImageTag(request)).job.job_id or self.jobs[-1])
            case 6:
                await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
            case 7:
                await service.report(name, "numpy==1", ok=dice.random() < 0.7)
            case 8:
                if self.jobs:
                    await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=dice.choice(self.jobs)))
            case _:
                await service.images.ListImages(pb.ListImagesRequest(page_size=2))

    async def work(self, over: asyncio.Event) -> None:
        """A worker that now and then loses its job, is cancelled, or comes late."""
        dice, builds = self.dice, self.builds
        while not over.is_set():
            claim = await builds.claim(agent_id=uuid4(), lease=60)
            if claim is None:
                await asyncio.sleep(0.002)
                continue
            await builds.start(claim.job)
            if dice.random() < 0.2:
                lose = "update jobs set lease_expires_at = now() - interval '1 s' where id = %s and status in (1, 2)"
                await self.sql.execute(lose, [claim.job.id])
                await builds.reconcile()
            if await builds.renew(claim.job, 60):
                await end(builds, claim, Outcome.CANCELLED)
            elif dice.random() < 0.2:
                await builds.put_back(claim.job, delay=0, fault=dice.random() < 0.5, progress="again")
            else:
                await end(builds, claim, dice.choice([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED]))


@pytest.mark.parametrize("seed", range(20 if LONG else 2))
async def test_a_storm_of_callers_and_workers_breaks_nothing(replicas: list[Service], dsn: str, seed: int) -> None:
    over = asyncio.Event()
    database = Database(dsn, size=4, wait=5, statement_timeout=10)
    await database.open()
    builds = Builds(database)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as sql:
        storm = Storm(seed, replicas, builds, sql)
        workers = [asyncio.create_task(storm.work(over)) for _ in range(3)]
        await asyncio.gather(*(storm.call(40) for _ in range(12)))
        over.set()
        await asyncio.gather(*workers)
        assert set(storm.codes) <= EXPECTED, storm.codes
        assert storm.codes[Code.OK] > 100
        await check_invariants(dsn)
        await sql.execute("update jobs set lease_expires_at = now() - interval '1 s' where status in (1, 2)")
        await builds.reconcile()
        while (claim := await builds.claim(agent_id=uuid4(), lease=60)) is not None:
            await builds.start(claim.job)
            with suppress(AssertionError):
                await end(builds, claim, Outcome.SUCCEEDED)
        await builds.reconcile()
        assert await rows(sql, "select count(*) from jobs where status in (1, 2, 5, 7)") == [(0,)], "nothing is stuck"
        await check_invariants(dsn)
        behind = """select i.name from images i join registry r on true where i.status = 3 and (
            i.platform_tag <> r.platform_tag and r.platform_tag <> '' or exists (select from images b
            where b.id = i.base_image_id and b.status = 3 and b.platform_tag <> i.platform_tag))"""
        assert await rows(sql, behind) == [], "READY at an older tag"
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert await rows(sql, deadlocks) == [(0,)], "locks are taken in one order"
    await database.close()
