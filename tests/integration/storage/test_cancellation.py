"""A call that is cancelled ends soon, whenever that happens, with its statement; its connection stays usable."""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from image_registry.storage.database import Connection
from tests.integration.storage.test_database import ACTIVE, admin, answer, pid, pool, sleep, sleepers, until

__all__ = ["admin"]

PATIENCE = 4.0  # seconds; psycopg gives a connection up whose statement goes on for five


async def test_a_cancelled_call_cancels_its_statement(dsn: str, admin: psycopg.AsyncConnection) -> None:
    async with pool(dsn) as db:
        task = asyncio.create_task(db.write(sleep(30)))
        await until(admin, ACTIVE)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()
        assert await sleepers(admin) == 0
        assert await db.read(answer) == 42


@pytest.mark.parametrize("way", ["read", "write", "write_once"])
async def test_a_call_can_be_cancelled_at_any_moment(dsn: str, admin: psycopg.AsyncConnection, way: str) -> None:
    async with pool(dsn) as db:
        await db.read(answer)
        for turns in range(60):
            task = asyncio.create_task(getattr(db, way)(sleep(30)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.cancelled(), turns
        assert await sleepers(admin) == 0
        assert await asyncio.gather(*(db.read(answer) for _ in range(8))) == [42] * 8


async def test_a_cancellation_that_overtakes_its_statement_is_repeated(
    dsn: str, admin: psycopg.AsyncConnection
) -> None:
    """A backend that hasn't read the statement takes no notice: this one is stopped until the request is there."""
    used: list[Connection] = []

    async def work(conn: Connection) -> None:
        used.append(conn)
        await conn.execute("select pg_sleep(30)")

    async with pool(dsn, size=1) as db:
        backend = await db.read(pid)
        os.kill(backend, signal.SIGSTOP)
        try:
            task = asyncio.create_task(db.write_once(work))
            await came_true(lambda: used and used[0].info.transaction_status is TransactionStatus.ACTIVE)
            task.cancel()
            await came_true(lambda: has_pending(backend, signal.SIGINT))
        finally:
            os.kill(backend, signal.SIGCONT)
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()
        assert await sleepers(admin) == 0
        assert await db.read(pid) == backend


async def came_true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (nothing sets an event)
            await asyncio.sleep(0.01)


def has_pending(process: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process to go on."""
    status = Path(f"/proc/{process}/status").read_text()
    masks = re.findall(r"^S\w+Pnd:\s*(\w+)", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
