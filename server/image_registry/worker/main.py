"""Puts a worker together from the settings and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from image_registry.builds.plan import Limits, PackageIndex
from image_registry.errors import RegistryError
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.settings import Settings
from image_registry.storage import images
from image_registry.storage.database import Database
from image_registry.worker.execution import BuilderConfig, Executor
from image_registry.worker.loop import Worker, WorkerConfig

EXPIRY_INTERVAL = 600.0  # seconds between two looks for logs that are over their time


async def work(settings: Settings, db: Database, *, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Run a worker until `stop` is set; `ready` is called once, with the worker's id."""
    identity = await db.read(images.identity)
    config = BuilderConfig(
        registry_id=identity.id,
        repository_root=settings.repository_root,
        cache_dir=_made(settings.data_dir.absolute() / "cache"),
        work_dir=_made(settings.data_dir.absolute() / "work"),
        index=_index(settings),
        limits=Limits(seconds=settings.build_timeout, memory_bytes=settings.build_memory),
    )
    logs = JobLogs(db, settings.log_retention)
    executor = Executor(config, Builds(db), logs)
    worker = Worker(
        db,
        executor,
        WorkerConfig(
            concurrency=settings.worker_concurrency,
            lease=settings.lease,
            poll=settings.poll,
            drain=settings.drain_timeout,
        ),
    )
    ready(str(worker.agent_id))
    expiry = asyncio.create_task(_expire_logs(logs))
    try:
        await worker.run(stop)
    finally:
        expiry.cancel()


async def _expire_logs(logs: JobLogs) -> None:
    while True:
        with suppress(RegistryError):
            while await logs.expire():
                pass
        await asyncio.sleep(EXPIRY_INTERVAL)


def _index(settings: Settings) -> PackageIndex:
    if settings.index_url is None:
        return PackageIndex(ca_bundle=settings.index_ca_bundle)
    return PackageIndex(url=settings.index_url.get_secret_value(), ca_bundle=settings.index_ca_bundle)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
