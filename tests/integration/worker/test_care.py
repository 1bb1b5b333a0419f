"""What a worker does beside building: bitmaps of popular libraries, and what rows of older releases lack."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Connection, Database
from image_registry.worker import main as worker_main
from image_registry.worker.main import work
from tests.fixtures.service import make_settings

INSERT = """insert into images (name, role, status, python_version, platform_tag, definition)
    select 'image-' || number, 1, 3, '3.12', 'v1', 'old' from generate_series(1, 2500) as number"""


async def work_until(done: Callable[[Connection], Awaitable[bool]], database: Database, folder: Path) -> None:
    settings = make_settings(repository=f"oci:{folder}/images", data_dir=folder)
    stop, ready = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(work(settings, database, stop=stop, ready=lambda _: ready.set()))
    async with asyncio.timeout(30):
        await ready.wait()
        while not await database.read(done):  # noqa: ASYNC110 (the worker tells nobody)
            await asyncio.sleep(0.05)
        stop.set()
        await worker


async def test_a_worker_looks_at_all_libraries_when_it_starts(database: Database, tmp_path: Path) -> None:
    await work_until(looked_at_all, database, tmp_path)


async def looked_at_all(conn: Connection) -> bool:
    row = await (await conn.execute("select rounds from library_survey")).fetchone()
    return row is not None and row["rounds"] > 0


async def test_definitions_from_before_there_were_keys_get_theirs(database: Database, dsn: str, tmp_path: Path) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("alter table images disable trigger definition_written")
        await conn.execute(INSERT)
        await conn.execute("alter table images enable always trigger definition_written")
    assert not await database.read(all_have_keys)
    await work_until(all_have_keys, database, tmp_path)


async def test_care_is_taken_again_after_an_unforeseen_error(
    database: Database, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_main, "CARE_INTERVAL", 0.1)
    expire, mishaps = JobLogs.expire, [psycopg.InternalError("unforeseen")]

    async def stumbling(self: JobLogs) -> int:
        if mishaps:
            raise mishaps.pop()
        return await expire(self)

    monkeypatch.setattr(JobLogs, "expire", stumbling)
    await test_definitions_from_before_there_were_keys_get_theirs(database, dsn, tmp_path)


async def all_have_keys(conn: Connection) -> bool:
    cursor = await conn.execute("select from images where definition_key is null limit 1")
    return await cursor.fetchone() is None
