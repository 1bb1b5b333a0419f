"""Creates that share statements, while the database is away, overloaded, or makes one of them wait."""

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from image_registry.errors import Reason, RegistryError
from image_registry.storage import image_creates
from image_registry.storage.database import Database
from image_registry.storage.image_creates import ImageCreates, NoCurrentBaseError
from image_registry.storage.images import NewImageRow

WAIT = 0.5
AWAY = {Reason.DATABASE_UNAVAILABLE, Reason.OVERLOADED}


def row(name: str) -> NewImageRow:
    return NewImageRow(name, "3.11", "v1", b"", "no-base", "oci:/images/x", "")


async def refusal(creates: ImageCreates, name: str) -> Reason:
    with pytest.raises(RegistryError) as caught:
        await creates.create(row(name))
    return caught.value.reason


@pytest.fixture
async def away() -> AsyncIterator[Database]:
    """A database that isn't there."""
    pool = Database("postgresql://x@127.0.0.1:1/x", size=4, wait=WAIT, statement_timeout=10)
    await pool.open()
    yield pool
    await pool.close()


async def test_without_a_database_all_are_refused_when_the_first_are(away: Database) -> None:
    creates = ImageCreates(away)
    assert set(await asyncio.gather(*(refusal(creates, f"image-{n}") for n in range(400)))) <= AWAY
    assert away.pool_stats()["requests_errors"] <= 2, "the statements that were under way"


async def test_who_comes_later_has_the_whole_wait(away: Database) -> None:
    creates = ImageCreates(away)
    first = [asyncio.ensure_future(refusal(creates, f"first-{n}")) for n in range(100)]
    await asyncio.sleep(WAIT / 2)
    began = time.monotonic()
    assert await refusal(creates, "later") in AWAY
    assert time.monotonic() - began >= WAIT
    assert all(one.done() for one in first)


async def test_as_many_wait_as_may(monkeypatch: pytest.MonkeyPatch, away: Database) -> None:
    """Who has given up doesn't count."""
    most, under_way = 40, 1 + image_creates.LARGEST_BATCH
    monkeypatch.setattr(image_creates, "MOST_WAITING", most)
    creates = ImageCreates(away)
    waiting = [asyncio.ensure_future(refusal(creates, f"image-{n}")) for n in range(under_way + most)]
    await asyncio.sleep(0)
    assert await refusal(creates, "one-too-many") is Reason.OVERLOADED
    assert not any(one.done() for one in waiting), "at once"
    waiting.pop().cancel()
    await asyncio.sleep(0)
    another = asyncio.ensure_future(refusal(creates, "another"))
    await asyncio.sleep(0)
    assert not another.done()
    assert set(await asyncio.gather(*waiting, another)) <= AWAY


async def test_a_statement_that_loses_its_connection_spoils_no_other(dsn: str, database: Database) -> None:
    creates = ImageCreates(database)
    async with await psycopg.AsyncConnection.connect(dsn) as holder:
        await holder.execute("lock table images in access exclusive mode")
        calls = [asyncio.ensure_future(creates.create(row(f"image-{n}"))) for n in range(80)]
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as sql:
            await _until_two_wait(sql)
            await sql.execute(
                """select pg_terminate_backend(pid) from pg_stat_activity
                where wait_event_type = 'Lock' and datname = current_database() limit 1"""
            )
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await holder.rollback()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    lost = [end for end in ends if isinstance(end, RegistryError)]
    assert {end.reason for end in lost} == {Reason.DATABASE_UNAVAILABLE}
    assert len(lost) <= image_creates.LARGEST_BATCH
    assert len([end for end in ends if isinstance(end, NoCurrentBaseError)]) == 80 - len(lost)


async def _until_two_wait(sql: psycopg.AsyncConnection) -> None:
    async with asyncio.timeout(10):
        while True:
            cursor = await sql.execute(
                """select count(*) from pg_stat_activity
                where wait_event_type = 'Lock' and datname = current_database()"""
            )
            if await cursor.fetchone() == (2,):
                return
            await asyncio.sleep(0.01)
