"""The pool: deadlines bound statements, exhaustion is an answer, lost connections cost as little as they can."""

import asyncio
import contextlib
import contextvars
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from image_registry import deadline
from image_registry.errors import Reason, RegistryError
from image_registry.storage import database
from image_registry.storage.database import WAITING_PER_CONNECTION, Connection, Database, describe_dsn


@asynccontextmanager
async def pool(dsn: str, **changes: Any) -> AsyncIterator[Database]:
    db = Database(dsn, **({"size": 2, "wait": 5.0, "statement_timeout": 10.0} | changes))
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Looks at the database, and does things to it, from outside of the pool."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


async def value(conn: psycopg.AsyncConnection[Any], query: Any, *parameters: Any) -> Any:
    row = await (await conn.execute(query, parameters)).fetchone()
    return next(iter(row.values())) if isinstance(row, dict) else row[0] if row else None


def sleep(seconds: float) -> Any:
    return lambda conn: conn.execute("select pg_sleep(%s)", [seconds])


async def answer(conn: Connection) -> int:
    return int(await value(conn, "select 42"))


async def pid(conn: Connection) -> int:
    return int(await value(conn, "select pg_backend_pid()"))


ACTIVE = """select count(*) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
        and query ~ 'pg_sleep'"""


async def sleepers(admin: psycopg.AsyncConnection) -> int:
    return int(await value(admin, ACTIVE))


async def until(admin: psycopg.AsyncConnection, count: str) -> None:
    while not await value(admin, count):  # noqa: ASYNC110 (what happens in the database sets no event here)
        await asyncio.sleep(0.01)


async def kill_others(admin: psycopg.AsyncConnection) -> None:
    await admin.execute(
        """select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()"""
    )


async def refusal(call: Any) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await call
    return caught.value


async def test_a_statement_has_a_longest_time(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async with pool(dsn, statement_timeout=0.2) as db:
        for call in (db.read, db.write, db.write_once):
            assert (await refusal(call(sleep(30)))).reason is Reason.DEADLINE_EXCEEDED
        assert await sleepers(admin) == 0
        assert await db.read(answer) == 42


async def test_a_deadline_ends_the_statement_at_the_database(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async def with_deadline(db: Database) -> float:
        deadline.set_remaining(0.3)
        began = time.monotonic()
        assert (await refusal(db.write(sleep(30)))).reason is Reason.DEADLINE_EXCEEDED
        return time.monotonic() - began

    async with pool(dsn) as db:
        assert await asyncio.create_task(with_deadline(db)) < 5
        assert await sleepers(admin) == 0
        assert await value_of_timeout(db) == "10s"


async def value_of_timeout(db: Database) -> str:
    return str(await db.read(lambda conn: value(conn, "show statement_timeout")))


async def test_a_deadline_that_has_passed_asks_nothing(dsn: str) -> None:
    async def late(db: Database) -> RegistryError:
        deadline.set_remaining(-1)
        return await refusal(db.read(answer))

    async with pool(dsn) as db:
        assert (await asyncio.create_task(late(db))).reason is Reason.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("left", "bound"),
    [(None, "10s"), (60, "10s"), (10, "10s"), (5.1, "10s"), (4.9, "5s"), (1, "1250ms"), (0.06, "78ms"), (0.01, "78ms")],
)
async def test_timeouts_are_few(dsn: str, left: float | None, bound: str) -> None:
    async def bounded(db: Database) -> str:
        deadline.set_remaining(left)
        return await value_of_timeout(db)

    async with pool(dsn) as db:
        await db.read(answer)
        assert await asyncio.create_task(bounded(db)) == bound


async def test_an_exhausted_pool_answers_in_time(dsn: str) -> None:
    async with pool(dsn, size=1, wait=0.2) as db:
        holder = asyncio.create_task(db.read(sleep(30)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        error = await refusal(db.read(answer))
        assert error.reason is Reason.OVERLOADED
        assert error.retry_after
        assert time.monotonic() - began < 15
        holder.cancel()


async def test_calls_that_no_connection_can_serve_in_time_are_turned_away_at_once(dsn: str) -> None:
    async with pool(dsn, size=1, wait=20) as db:
        holder = asyncio.create_task(db.read(sleep(30)))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(db.read(answer)) for _ in range(WAITING_PER_CONNECTION)]
        await asyncio.sleep(0.1)
        error = await asyncio.wait_for(refusal(db.read(answer)), 10)
        assert error.reason is Reason.OVERLOADED
        assert error.retry_after
        for task in (holder, *waiting):
            task.cancel()
        await asyncio.wait([holder, *waiting])


async def test_a_deadline_bounds_the_wait_for_a_connection(dsn: str) -> None:
    async def impatient(db: Database) -> RegistryError:
        deadline.set_remaining(0.2)
        return await refusal(db.read(answer))

    async with pool(dsn, size=1, wait=20) as db:
        holder = asyncio.create_task(db.read(sleep(30)))
        await asyncio.sleep(0.1)
        error = await asyncio.wait_for(asyncio.create_task(impatient(db)), 15)
        assert error.reason is Reason.DEADLINE_EXCEEDED
        holder.cancel()


async def test_lost_connections_cost_no_read_and_no_transaction(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async with pool(dsn, size=4) as db:
        for call in (db.read, db.write):
            await asyncio.gather(*(call(sleep(0.05)) for _ in range(4)))  # all connections are there
            await kill_others(admin)
            assert await asyncio.gather(*(call(answer) for _ in range(20))) == [42] * 20


async def test_after_one_loss_no_connection_of_before_is_used(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async with pool(dsn, size=4) as db:
        before = set(await asyncio.gather(*(db.read(slow_pid) for _ in range(4))))
        await kill_others(admin)
        await db.read(answer)
        assert await asyncio.gather(*(db.write_once(answer) for _ in range(20))) == [42] * 20
        assert not before & set(await asyncio.gather(*(db.read(slow_pid) for _ in range(4))))


async def slow_pid(conn: Connection) -> int:
    await conn.execute("select pg_sleep(0.05)")
    return await pid(conn)


async def test_a_transaction_that_lost_its_connection_before_the_commit_is_repeated(dsn: str) -> None:
    async with pool(dsn) as db:
        await db.write(lambda conn: conn.execute("create table marks (try int)"))
        tries = 0

        async def work(conn: Connection) -> str:
            nonlocal tries
            tries += 1
            await conn.execute("insert into marks values (%s)", [tries])
            if tries == 1:
                await conn.execute("select pg_terminate_backend(pg_backend_pid())")
            return "done"

        assert await db.write(work) == "done"
        assert await db.read(lambda conn: value(conn, "select array_agg(try) from marks")) == [2]


async def test_a_commit_of_unknown_outcome_is_not_repeated(dsn: str, admin: psycopg.AsyncConnection) -> None:
    await admin.execute(
        """create table slow (i int); create function wait() returns trigger language plpgsql as
        $$ begin perform pg_sleep(30); return null; end $$;
        create constraint trigger wait after insert on slow deferrable initially deferred
        for each row execute function wait()"""
    )
    tries = 0

    async def work(conn: Connection) -> None:
        nonlocal tries
        tries += 1
        await conn.execute("insert into slow values (1)")

    async with pool(dsn) as db:
        task = asyncio.create_task(db.write(work))
        await until(admin, "select count(*) from pg_stat_activity where query = 'COMMIT' and state = 'active'")
        await kill_others(admin)
        error = await refusal(task)
        assert error.reason is Reason.DATABASE_UNAVAILABLE
        assert error.retry_after
        assert tries == 1


async def test_a_single_statement_that_lost_its_connection_is_not_repeated(
    dsn: str, admin: psycopg.AsyncConnection
) -> None:
    async with pool(dsn) as db:
        task = asyncio.create_task(db.write_once(sleep(30)))
        await until(admin, ACTIVE)
        await kill_others(admin)
        assert (await refusal(task)).reason is Reason.DATABASE_UNAVAILABLE


async def test_a_deadlock_costs_time_only(dsn: str) -> None:
    async with pool(dsn) as db:
        await db.write(lambda conn: conn.execute("create table pair (i int primary key, n int default 0)"))
        await db.write(lambda conn: conn.execute("insert into pair values (1), (2)"))

        def crossing(first: int, second: int) -> Any:
            async def work(conn: Connection) -> None:
                await conn.execute("update pair set n = n + 1 where i = %s", [first])
                await asyncio.sleep(0.2)
                await conn.execute("update pair set n = n + 1 where i = %s", [second])

            return work

        await asyncio.gather(db.write(crossing(1, 2)), db.write(crossing(2, 1)))
        assert await db.read(lambda conn: value(conn, "select array_agg(n) from pair")) == [2, 2]


async def test_a_conflict_that_never_ends_is_told_at_last(dsn: str) -> None:
    tries = 0

    async def work(conn: Connection) -> None:
        nonlocal tries
        tries += 1
        await conn.execute("do $$ begin raise exception 'again' using errcode = 'deadlock_detected'; end $$")

    async with pool(dsn) as db:
        assert (await refusal(db.write(work))).reason is Reason.DATABASE_UNAVAILABLE
        assert tries == 4


async def test_a_read_whose_connections_keep_breaking_is_told_at_last(dsn: str) -> None:
    async with pool(dsn) as db:
        call = db.read(lambda conn: conn.execute("select pg_terminate_backend(pg_backend_pid())"))
        assert (await refusal(call)).reason is Reason.DATABASE_UNAVAILABLE


async def test_an_error_that_nobody_foresaw_stays_what_it_is(dsn: str) -> None:
    async with pool(dsn) as db:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await db.read(lambda conn: conn.execute("select 1 / 0"))
        assert await db.read(answer) == 42


async def test_a_primary_that_became_a_standby_is_left(dsn: str, admin: psycopg.AsyncConnection) -> None:
    name = await value(admin, "select current_database()")
    async with pool(dsn) as db:
        await admin.execute(f"alter database {name} set default_transaction_read_only = on")
        await kill_others(admin)
        error = await refusal(db.write(lambda conn: conn.execute("create table t ()")))
        assert error.reason is Reason.DATABASE_UNAVAILABLE
        await admin.execute("set default_transaction_read_only = off")
        await admin.execute(f"alter database {name} set default_transaction_read_only = off")
        written = False
        async with asyncio.timeout(10):
            while not written:  # each connection of the standby's time is left at its first refusal
                with contextlib.suppress(RegistryError):
                    await db.write(lambda conn: conn.execute("create table t ()"))
                    written = True


async def test_a_busy_pool_is_no_lost_database(dsn: str) -> None:
    async with pool(dsn, size=1, wait=0.2) as db:
        holder = asyncio.create_task(db.read(sleep(30)))
        await asyncio.sleep(0.1)
        await db.ping()
        await db.ping()
        holder.cancel()


async def test_an_absent_database_is_noticed(unused_tcp_port: int) -> None:
    async with pool(f"postgresql://x@127.0.0.1:{unused_tcp_port}/x", wait=0.2) as db:
        assert (await refusal(db.ping())).reason is Reason.DATABASE_UNAVAILABLE
        error = await refusal(db.read(answer))
        assert error.reason is Reason.DATABASE_UNAVAILABLE
        assert error.retry_after


async def test_a_database_that_says_nothing_is_noticed_in_time(
    dsn: str, admin: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PING_SECONDS", 0.5)
    async with pool(dsn) as db:
        for _ in range(2):  # the second one is a statement
            await db.ping()
        monitor = await value(admin, "select pid from pg_stat_activity where query = 'select 1'")
        os.kill(monitor, signal.SIGSTOP)
        try:
            async with asyncio.timeout(3):
                assert (await refusal(db.ping())).reason is Reason.DATABASE_UNAVAILABLE
                await db.ping()  # on a connection that isn't stopped
        finally:
            os.kill(monitor, signal.SIGCONT)


async def test_a_database_that_was_away_is_used_as_soon_as_it_is_back(dsn: str, admin: psycopg.AsyncConnection) -> None:
    name = await value(admin, "select current_database()")
    server = dsn.rpartition("/")[0] + "/postgres"
    async with pool(dsn) as db, await psycopg.AsyncConnection.connect(server, autocommit=True) as outside:
        await db.ping()
        await outside.execute(f"alter database {name} with allow_connections false")
        await kill_others(admin)
        assert (await refusal(db.ping())).reason is Reason.DATABASE_UNAVAILABLE
        waiting = asyncio.create_task(db.read(answer))
        await asyncio.sleep(0.1)
        await outside.execute(f"alter database {name} with allow_connections true")
        await db.ping()
        assert await waiting == 42


async def test_a_restart_between_two_pings_is_no_absence(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async with pool(dsn) as db:
        await db.ping()
        await kill_others(admin)
        await db.ping()
        assert await db.write_once(answer) == 42


async def test_announcements_reach_listeners_gathered(dsn: str) -> None:
    async with pool(dsn) as db, db.listen("news") as notices:
        for _ in range(1000):
            db.announce("news")
        first = await asyncio.wait_for(anext(notices), 30)
        assert first == ""
        db.announce("news")
        await asyncio.wait_for(anext(notices), 30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(notices), 0.3)


async def test_an_announcement_outlives_the_deadline_of_its_call(dsn: str) -> None:
    async with pool(dsn) as db, db.listen("news") as notices:

        def late() -> None:
            deadline.set_remaining(-1)
            db.announce("news")

        contextvars.copy_context().run(late)
        await asyncio.wait_for(anext(notices), 30)


def test_addresses_are_shown_without_password() -> None:
    assert describe_dsn("postgresql://me:secret@db.example:5433/images") == "db.example:5433/images"
    assert describe_dsn("dbname=images") == "localhost:5432/images"
    assert "secret" not in describe_dsn("postgresql://me:secret@[broken")
