"""A worker brings rows of older releases up to date."""

import asyncio
from pathlib import Path

import psycopg

from image_registry.storage.database import Connection, Database
from image_registry.worker.main import work
from tests.fixtures.service import make_settings

INSERT = """insert into images (name, role, status, python_version, platform_tag, definition)
    select 'image-' || number, 1, 3, '3.12', 'v1', 'old' from generate_series(1, 2500) as number"""


async def test_definitions_from_before_there_were_keys_get_theirs(database: Database, dsn: str, tmp_path: Path) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("alter table images disable trigger definition_written")
        await conn.execute(INSERT)
        await conn.execute("alter table images enable always trigger definition_written")
    assert not await database.read(all_have_keys)
    settings = make_settings(repository=f"oci:{tmp_path}/images", data_dir=tmp_path)
    stop, ready = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(work(settings, database, stop=stop, ready=lambda _: ready.set()))
    async with asyncio.timeout(30):
        await ready.wait()
        while not await database.read(all_have_keys):  # noqa: ASYNC110 (the worker tells nobody)
            await asyncio.sleep(0.05)
        stop.set()
        await worker


async def all_have_keys(conn: Connection) -> bool:
    cursor = await conn.execute("select from images where definition_key is null limit 1")
    return await cursor.fetchone() is None
