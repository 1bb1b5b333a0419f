"""A worker keeps the bitmaps of popular libraries."""

import asyncio
from pathlib import Path

from image_registry.storage.database import Connection, Database
from image_registry.worker.main import work
from tests.fixtures.service import make_settings


async def test_a_worker_looks_at_all_libraries_when_it_starts(database: Database, tmp_path: Path) -> None:
    settings = make_settings(repository=f"oci:{tmp_path}/images", data_dir=tmp_path)
    stop, ready = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(work(settings, database, stop=stop, ready=lambda _: ready.set()))
    async with asyncio.timeout(30):
        await ready.wait()
        while not await database.read(looked_at_all):  # noqa: ASYNC110 (the worker tells nobody)
            await asyncio.sleep(0.05)
        stop.set()
        await worker


async def looked_at_all(conn: Connection) -> bool:
    row = await (await conn.execute("select rounds from library_survey")).fetchone()
    return row is not None and row["rounds"] > 0
