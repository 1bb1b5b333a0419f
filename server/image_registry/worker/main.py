"""Puts a worker together from the settings and runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from image_registry import limits
from image_registry.builds.cache import size as cache_size
from image_registry.builds.credentials import Keyring, Login
from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.packages.wanted import Confinement
from image_registry.builds.plan import Limits, PackageIndex
from image_registry.builds.repositories.home import Home, HomeFaultError
from image_registry.builds.repositories.opening import CLOUDS, open_home
from image_registry.builds.runner import remove_leftovers
from image_registry.errors import RegistryError
from image_registry.host import StartError
from image_registry.registry import library_bitmaps
from image_registry.registry.builds import Builds
from image_registry.registry.garbage import Places
from image_registry.registry.job_logs import JobLogs
from image_registry.settings import Settings
from image_registry.storage import create_requests, images
from image_registry.storage.database import Database
from image_registry.storage.readings import pool_readings
from image_registry.telemetry import catalogue, metrics
from image_registry.telemetry.sampling import Sampler
from image_registry.worker.execution import BuilderConfig, Executor
from image_registry.worker.loop import Worker, WorkerConfig

log = logging.getLogger(__name__)

CACHE_INTERVAL = 60.0  # seconds between two looks at the cache's size, for the metrics
BITMAPS_INTERVAL = 10.0  # seconds between two looks for libraries of finished builds that have no bits yet
CARE_INTERVAL = 600.0  # seconds between two looks for logs that are over their time, and for leftovers


async def work(settings: Settings, db: Database, *, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Run a worker until `stop` is set; `ready` is called once, with the worker's id."""
    identity = await db.read(images.identity)
    keyring = keyring_of(settings)
    places = places_of(settings, keyring)
    await _check(places.home)
    config = BuilderConfig(
        registry_id=identity.id,
        home=places.home,
        keyring=keyring,
        cache_dir=_made(places.cache_dir),
        work_dir=_made(places.work_dir),
        index=_index(settings),
        limits=Limits(seconds=settings.build_timeout, memory_bytes=settings.build_memory),
        confinement=confinement(settings),
        obstacle=_obstacle(settings, _made(places.work_dir)),
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
            packages=not config.obstacle,
            patience=settings.package_patience,
        ),
    )
    ready(str(worker.agent_id))
    cache = Sampler(lambda: asyncio.to_thread(cache_size, config.cache_dir), CACHE_INTERVAL)
    readings: list[metrics.Source] = [
        *pool_readings(db),
        (catalogue.WORKER_SLOTS, metrics.one(lambda: settings.worker_concurrency)),
        (catalogue.WORKER_JOBS, metrics.one(lambda: worker.jobs_under_way)),
        (catalogue.CACHE_BYTES, metrics.one(cache.latest)),
    ]
    helpers = [asyncio.create_task(_take_care(db, logs, config.work_dir)), asyncio.create_task(_tend_bitmaps(db))]
    try:
        with metrics.sampled(readings):
            await worker.run(stop)
    finally:
        for helper in helpers:
            helper.cancel()


async def _take_care(db: Database, logs: JobLogs, work_dir: Path) -> None:
    """Remove logs and request ids that are over their time, and folders of builds whose worker was killed; bring rows
    of older releases up to date."""
    while True:
        try:
            if removed := await asyncio.to_thread(remove_leftovers, work_dir):
                log.info("%d folders of builds that were killed are removed", removed)
        except OSError as error:
            log.warning("folders of builds that were killed are removed later: %s", error)
        try:
            while await logs.expire():
                pass
            while await db.write(lambda conn: create_requests.expire(conn, limits.REQUEST_ID_SECONDS)):
                pass
            while await db.write(images.set_definition_keys):
                pass
        except RegistryError as error:
            log.warning("what is over its time is removed later: %s", error)
        except Exception:
            log.exception("what is over its time is removed later")
        await asyncio.sleep(CARE_INTERVAL)


async def _tend_bitmaps(db: Database) -> None:
    """Keep the bitmaps of popular libraries up to date."""
    while True:
        try:
            while await library_bitmaps.tend(db):
                pass
        except RegistryError as error:
            log.warning("the bitmaps of popular libraries are brought up to date later: %s", error)
        except Exception:
            log.exception("the bitmaps of popular libraries are brought up to date later")
        await asyncio.sleep(BITMAPS_INTERVAL)


async def _check(home: Home) -> None:
    """Say what builds would run into. Raises StartError for what will not mend itself."""
    try:
        log.info("repositories: %s", await asyncio.to_thread(home.check))
    except HomeFaultError as fault:
        if not fault.is_passing:
            raise StartError(f"{fault}: {fault.remedy}") from None
        log.warning("repositories: %s: %s; builds will be tried again until it answers", fault, fault.remedy)


def places_of(settings: Settings, keyring: Keyring) -> Places:
    """Where a worker with these settings keeps things."""
    folder = settings.data_dir.absolute()
    home = open_home(settings.repository_root, keyring)
    return Places(home, cache_dir=folder / "cache", work_dir=folder / "work")


def keyring_of(settings: Settings) -> Keyring:
    """How to get at container registries."""
    host = settings.repository.partition("/")[0]
    password = settings.repository_password
    login = {host: Login(settings.repository_username, password.get_secret_value())} if password else {}
    return Keyring(
        logins=login,
        docker_config=settings.docker_config_file,
        endpoints=settings.registry_endpoints,
        ca_bundle=settings.registry_ca_bundle,
        clouds=CLOUDS,
        least_life=settings.build_timeout,
    )


def confinement(settings: Settings) -> Confinement:
    """What installing system packages may use and reach."""
    return Confinement(
        required=settings.system_packages == "confined",
        seconds=settings.package_timeout,
        memory_bytes=settings.package_memory,
        cpus=settings.package_cpus,
        processes=settings.package_processes,
        disk_bytes=settings.package_disk,
        egress_allowed=settings.package_egress_allowed,
        egress_denied=settings.package_egress_denied,
    )


def _obstacle(settings: Settings, work_dir: Path) -> str:
    if settings.system_packages == "off":
        return "it is switched off (IMAGE_REGISTRY_SYSTEM_PACKAGES)"
    check = look_at_machine(confinement(settings), work_dir)
    if check.obstacle:
        log.warning("no system packages here: %s", check.obstacle)
    for gap in check.gaps:
        log.warning("system packages are installed here, but %s", gap)
    return check.obstacle


def _index(settings: Settings) -> PackageIndex:
    if settings.index_url is None:
        return PackageIndex(ca_bundle=settings.index_ca_bundle)
    return PackageIndex(url=settings.index_url.get_secret_value(), ca_bundle=settings.index_ca_bundle)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
