"""Connections beside the pool keep to a server that can be written to, and leave it with the pool."""

import asyncio
import logging
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from image_registry.errors import Reason, RegistryError
from image_registry.storage.database import Connection, Database
from image_registry.storage.image_reads import ImageReads
from image_registry.storage.point_reads import PointReads, Unavailable

STATEMENT = "select name, pg_backend_pid() from unnest($1) as name"


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    pool = Database(dsn, size=2, wait=5, statement_timeout=5)
    await pool.open()
    yield pool
    await pool.close()


async def be_read_only(admin: psycopg.AsyncConnection, value: str) -> None:
    """For who connects from now on."""
    command = sql.SQL("alter database {} set default_transaction_read_only = {}")
    await admin.execute("set default_transaction_read_only = off")
    await admin.execute(command.format(sql.Identifier(admin.info.dbname), sql.SQL(value)))


async def meet_a_refusal(db: Database) -> None:
    """The pool learns that its server is no primary any more."""

    async def work(conn: Connection) -> None:
        await conn.execute("set transaction read only")
        await conn.execute("create table t ()")

    with pytest.raises(RegistryError) as caught:
        await db.write(work)
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE


async def backend(reads: PointReads) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                [pid] = await reads.fetch("any") or ()
                return int.from_bytes(pid, "big")
            except Unavailable:
                await asyncio.sleep(0.01)


async def test_gathered_reads_refuse_a_server_that_cannot_be_written_to(
    dsn: str, admin: psycopg.AsyncConnection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "image_registry.storage.point_reads")
    await be_read_only(admin, "on")
    async with PointReads(dsn, STATEMENT) as reads:
        async with asyncio.timeout(10):
            while "read-only" not in caplog.text:
                with pytest.raises(Unavailable):
                    await reads.fetch("any")
                await asyncio.sleep(0.01)
        await be_read_only(admin, "off")
        assert await backend(reads)


async def test_gathered_reads_leave_a_server_with_the_pool(dsn: str, db: Database) -> None:
    async with PointReads(dsn, STATEMENT) as reads:
        ImageReads(db, reads)
        before = await backend(reads)
        await meet_a_refusal(db)
        assert await backend(reads) != before


async def test_listeners_refuse_a_server_that_cannot_be_written_to(
    admin: psycopg.AsyncConnection, db: Database
) -> None:
    await be_read_only(admin, "on")
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        async with db.listen("news"):
            pass


async def test_listeners_leave_a_server_with_the_pool(db: Database) -> None:
    async with db.listen("news") as notices:
        hearing = asyncio.ensure_future(anext(notices))
        await meet_a_refusal(db)
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(hearing, 10)
