"""Gathered reads by key: right answers under load, cancellation, errors, and a connection that goes away."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from image_registry.storage import point_reads
from image_registry.storage.point_reads import LARGEST_BATCH, PointReads, Unavailable
from tests.faults.hosts import Host, relay

STATEMENT = "select name, value, pg_backend_pid() from things where name = any ($1)"


@pytest.fixture
async def things(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection to a database with a table of a thousand things."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("create table things (name text primary key, value int4)")
        await conn.execute("insert into things select 'thing-' || n, n from generate_series(1, 1000) n")
        yield conn


@pytest.fixture
async def reads(dsn: str, things: psycopg.AsyncConnection[Any]) -> AsyncIterator[PointReads]:
    async with PointReads(dsn, STATEMENT) as opened:
        await until_answered(opened)
        yield opened


async def until_answered(reads: PointReads) -> Any:
    async with asyncio.timeout(10):
        while True:
            try:
                return await reads.fetch("thing-1")
            except Unavailable:
                await asyncio.sleep(0.01)


def value(row: Any) -> int:
    return int.from_bytes(row[0], "big")


async def test_each_caller_gets_its_own_row(reads: PointReads) -> None:
    numbers = [*range(1, 1001)] * 2  # more than a batch holds, every key asked twice at once
    assert len(numbers) > 3 * LARGEST_BATCH
    rows = await asyncio.gather(*(reads.fetch(f"thing-{n}") for n in numbers))
    assert [value(row) for row in rows] == numbers


async def test_absent_keys_are_none(reads: PointReads) -> None:
    assert await asyncio.gather(*map(reads.fetch, ("nothing", "", "thing-1'"))) == [None] * 3
    assert value(await reads.fetch("thing-7")) == 7


async def test_a_write_that_was_acknowledged_is_seen(reads: PointReads, things: psycopg.AsyncConnection[Any]) -> None:
    async def write_and_read(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(things.info.dsn, password=things.info.password) as conn:
            for step in range(1, 30):
                await conn.execute("update things set value = %s where name = %s", [step, f"thing-{number}"])
                await conn.commit()
                assert value(await reads.fetch(f"thing-{number}")) == step

    await asyncio.gather(*(write_and_read(number) for number in range(1, 9)))


async def test_a_cancelled_caller_takes_nobody_along(reads: PointReads) -> None:
    callers = [asyncio.ensure_future(reads.fetch(f"thing-{n}")) for n in range(1, 51)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    done = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in done[::2])
    assert [value(row) for row in done[1::2]] == [*range(2, 51, 2)]
    assert value(await reads.fetch("thing-3")) == 3


async def test_a_slow_statement_ends_and_the_connection_stays(
    monkeypatch: pytest.MonkeyPatch, dsn: str, things: psycopg.AsyncConnection[Any]
) -> None:
    monkeypatch.setattr(point_reads, "STATEMENT_SECONDS", 0.1)
    async with PointReads(dsn, STATEMENT) as reads:
        before = await until_answered(reads)
        async with things.transaction():
            await things.execute("lock table things in access exclusive mode")
            with pytest.raises(Unavailable):
                await reads.fetch("thing-1")
        after = await reads.fetch("thing-1")
    assert after is not None
    assert before[1] == after[1]  # the same backend


async def test_a_terminated_backend_is_replaced(reads: PointReads, things: psycopg.AsyncConnection[Any]) -> None:
    backend = int.from_bytes((await reads.fetch("thing-1"))[1], "big")  # type: ignore[index]
    await things.execute("select pg_terminate_backend(%s)", [backend])
    row = await until_new_backend(reads, backend)
    assert value(row) == 1


async def until_new_backend(reads: PointReads, old: int) -> Any:
    async with asyncio.timeout(10):
        while True:
            row = await until_answered(reads)
            if int.from_bytes(row[1], "big") != old:
                return row


async def test_a_silent_connection_is_given_up(
    monkeypatch: pytest.MonkeyPatch, dsn: str, things: psycopg.AsyncConnection[Any]
) -> None:
    monkeypatch.setattr(point_reads, "ANSWER_SECONDS", 0.1)
    async with PointReads(dsn, STATEMENT) as reads:
        await until_answered(reads)
        async with things.transaction():
            await things.execute("lock table things in access exclusive mode")
            with pytest.raises(Unavailable):
                await reads.fetch("thing-1")
            with pytest.raises(Unavailable):  # at once, while there is no connection
                await asyncio.wait_for(reads.fetch("thing-1"), 0.05)
        assert value(await until_answered(reads)) == 1


async def test_whoever_has_the_number_of_a_broken_connections_socket_is_left_alone(
    dsn: str, things: psycopg.AsyncConnection[Any]
) -> None:
    loop, host, heard = asyncio.get_running_loop(), Host("here"), set[socket.socket]()
    host.mend()
    async with AsyncExitStack() as pairs, AsyncExitStack() as line:
        port = await line.enter_async_context(relay(host, things.info.port))
        reads = await pairs.enter_async_context(PointReads(make_conninfo(dsn, host="127.0.0.1", port=port), STATEMENT))
        await until_answered(reads)
        await things.execute("begin; lock table things in access exclusive mode")
        caller = asyncio.ensure_future(reads.fetch("thing-1"))
        cut = asyncio.create_task(line.aclose())
        while not caller.done():  # noqa: ASYNC110 (the turn of the event loop right after it is what matters)
            await asyncio.sleep(0)
        ends = [pairs.enter_context(end) for _ in range(8) for end in socket.socketpair()]
        for end in ends:
            loop.add_reader(end, heard.add, end)
            pairs.callback(loop.remove_reader, end)
        with pytest.raises(Unavailable):
            await caller
        await cut
        for end in ends:
            end.send(b"x")  # to its neighbour
        async with asyncio.timeout(5):
            while heard != set(ends):  # noqa: ASYNC110 (nothing sets an event)
                await asyncio.sleep(0.01)


async def test_closing_turns_callers_away(dsn: str, things: psycopg.AsyncConnection[Any]) -> None:
    async with PointReads(dsn, STATEMENT) as reads:
        await until_answered(reads)
        async with things.transaction():
            await things.execute("lock table things in access exclusive mode")
            caller = asyncio.ensure_future(reads.fetch("thing-1"))
            await asyncio.sleep(0.01)
            await reads.__aexit__()
            with pytest.raises(Unavailable):
                await caller
    with pytest.raises(Unavailable):
        await reads.fetch("thing-1")


async def test_few_after_many_wait_until_as_many_come(
    monkeypatch: pytest.MonkeyPatch, dsn: str, things: psycopg.AsyncConnection[Any]
) -> None:
    monkeypatch.setattr(point_reads, "EACH", 3600)  # whoever has to wait does so until others come
    monkeypatch.setattr(point_reads, "LONGEST", 3600)

    async with PointReads(dsn, STATEMENT) as reads:

        async def fetch(numbers: range) -> list[int]:
            return [value(row) for row in await asyncio.gather(*(reads.fetch(f"thing-{n}") for n in numbers))]

        await until_answered(reads)
        for number in range(1, 6):  # one after the other: nobody waits
            assert await fetch(range(number, number + 1)) == [number]
        for _ in range(3):
            assert await fetch(range(1, 31)) == [*range(1, 31)]
        few = asyncio.ensure_future(fetch(range(31, 36)))
        assert await asyncio.wait({few}, timeout=0.2) == (set(), {few})
        assert await fetch(range(36, 61)) == [*range(36, 61)]
        assert await few == [*range(31, 36)]


async def test_few_after_many_wait_no_longer_than_the_pace(reads: PointReads) -> None:
    await asyncio.gather(*(reads.fetch(f"thing-{n}") for n in range(1, 51)))
    async with asyncio.timeout(5):
        for number in range(1, 40):
            assert value(await reads.fetch(f"thing-{number}")) == number


async def test_who_comes_behind_many_that_gave_up_is_answered(reads: PointReads) -> None:
    callers = [asyncio.ensure_future(reads.fetch(f"thing-{n}")) for n in range(1, 2 * LARGEST_BATCH)]
    for caller in callers[:-1]:
        caller.cancel()
    async with asyncio.timeout(5):
        assert value(await callers[-1]) == 2 * LARGEST_BATCH - 1
