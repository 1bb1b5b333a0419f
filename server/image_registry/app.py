"""Puts the gRPC server together and runs it: pool, services, health, reflection, graceful stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server
from ri.api.imageregistry import (
    image_finder_pb2,
    image_lock_pb2,
    image_registry_pb2,
    image_watch_pb2,
    job_logs_pb2,
    jobs_pb2,
)
from ri.api.imageregistry.image_finder_pb2_grpc import add_ImageFinderServicer_to_server
from ri.api.imageregistry.image_lock_pb2_grpc import add_ImageLocksServicer_to_server
from ri.api.imageregistry.image_registry_pb2_grpc import add_ImageRegistryServicer_to_server
from ri.api.imageregistry.image_watch_pb2_grpc import add_ImageWatchServicer_to_server
from ri.api.imageregistry.job_logs_pb2_grpc import add_JobLogsServicer_to_server
from ri.api.imageregistry.jobs_pb2_grpc import add_JobReaderServicer_to_server

from image_registry import limits
from image_registry.api import guarding
from image_registry.api.access import Access
from image_registry.api.health import Health
from image_registry.api.image_finder import ImageFinderService
from image_registry.api.image_locks import ImageLocks
from image_registry.api.image_watch import ImageWatch
from image_registry.api.images import ImageRegistry
from image_registry.api.job_logs import JobLogsService, LogLinks
from image_registry.api.jobs import JobReader
from image_registry.api.methods import Handler, Methods
from image_registry.api.observation import Observation
from image_registry.api.tls import ServerCertificates, TlsError, TlsFiles
from image_registry.api.tokens import PageTokens
from image_registry.api.validation import Accepts
from image_registry.api.wakefulness import Wakefulness
from image_registry.host import StartError, with_variable
from image_registry.models import PipRequirement, Role
from image_registry.registry.audit import AuditTrail
from image_registry.registry.builds import Builds
from image_registry.registry.image_finder import ImageFinder
from image_registry.registry.image_watch import CHANNEL, ImageWatches
from image_registry.registry.images import Images
from image_registry.registry.job_logs import JobLogs
from image_registry.registry.jobs import Jobs
from image_registry.registry.keys import KeyRing
from image_registry.registry.library_bitmaps import bitmap_readings
from image_registry.registry.platform import Platform, PlatformConfig
from image_registry.registry.queue_readings import queue_readings
from image_registry.registry.quotas import Quotas
from image_registry.registry.rates import Rates
from image_registry.settings import Settings, split_requirement
from image_registry.storage import image_reads, migrations
from image_registry.storage.database import Connection, Database, describe_dsn
from image_registry.storage.image_reads import ImageReads
from image_registry.storage.kept_images import KeptImages
from image_registry.storage.notices import Notices
from image_registry.storage.point_reads import PointReads
from image_registry.storage.readings import pool_readings
from image_registry.storage.traced import TracedConnection
from image_registry.telemetry import catalogue, metrics, tracing

log = logging.getLogger(__name__)

# The gateway passes a path (with its page token) on as a header of up to 60 KiB. Silent peers and half of a hello are
# dropped; one connection can't hold more calls than a server process could work on. Callers ping during silent calls,
# clients after 60 s, and the gateway every 30 s, without calls too: core by itself takes more than one in five minutes
# for abuse, and without calls more than one in two hours. For an answer it waits a minute unless both options say less.
HARDENING = (
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.max_concurrent_streams", 200),
    ("grpc.server.max_pending_requests", 4_000),  # calls not begun yet, of all connections: some, and beyond the latter
    ("grpc.server.max_pending_requests_hard_limit", 8_000),  # all, are refused; core by itself refuses from 1,000 on
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
HEALTH_INTERVAL = 1.0  # seconds between two looks at the database
SERVICES = tuple(
    descriptor.full_name
    for module in (image_registry_pb2, jobs_pb2, job_logs_pb2, image_watch_pb2, image_lock_pb2, image_finder_pb2)
    for descriptor in module.DESCRIPTOR.services_by_name.values()
)


@dataclass(frozen=True, slots=True)
class Server:
    """A started gRPC server with its database."""

    grpc: aio.Server
    database: Database
    health: Health
    watches: ImageWatches
    address: str
    audit: AuditTrail
    certificates: ServerCertificates | None


def database(settings: Settings, dsn: str) -> Database:
    """The pool that the settings describe."""
    return Database(
        dsn,
        size=settings.pool_size,
        wait=settings.pool_wait,
        statement_timeout=settings.statement_timeout,
        connection_class=TracedConnection if tracing.active() else Connection,
    )


def platform_config(settings: Settings) -> PlatformConfig:
    """The deployment that the settings describe."""
    return PlatformConfig(
        tag=settings.platform_tag,
        base_images=dict(settings.base_images),
        requirements=tuple(PipRequirement(*split_requirement(text)) for text in settings.platform_requirements),
        repository_root=settings.repository_root,
    )


async def check_schema(dsn: str) -> None:
    """Raises StartError, in one sentence, if the database can't be reached or hasn't the schema of this version."""
    try:
        missing = await migrations.check(dsn)
    except migrations.MigrationError as error:
        raise StartError(str(error)) from None
    except psycopg.Error as error:
        raise StartError(unreachable(dsn, error)) from None
    if missing:
        raise StartError(
            f"the database {describe_dsn(dsn)} lacks {len(missing)} migrations (first: {missing[0]}): "
            "run `image-registry migrate` with the same database URL"
        )


def unreachable(dsn: str, error: psycopg.Error) -> str:
    """One sentence about a database that doesn't answer, without its password."""
    text = str(error).strip() or type(error).__name__
    cause = error.diag.message_primary or re.sub("^connection (?:failed|is bad): ", "", text.splitlines()[0])
    return f"the database {describe_dsn(dsn)} can't be used: {cause}"


@asynccontextmanager
async def running_server(settings: Settings, dsn: str, address: str) -> AsyncIterator[Server]:
    """A gRPC server that answers on `address` until the block ends, then drains.

    Raises StartError, in one sentence, for an unusable database or address.
    """
    await check_schema(dsn)
    db = database(settings, dsn)
    await db.open()
    try:
        async with (
            AuditTrail(db) as audit,
            KeyRing(db) as keys,
            PointReads(dsn, image_reads.STATEMENT) as points,
            Notices(db, CHANNEL) as notices,
        ):
            observation = Observation(
                lines=settings.access_log, timed=bool(settings.admin_address or settings.otlp_endpoint)
            )
            access = Access(
                keys=keys if settings.auth == "keys" else None,
                certificates={name: Role(role) for name, role in settings.certificate_roles.items()},
                rates=Rates(settings.key_requests),
                audit=audit,
                shown=observation.around,
            )
            reads = ImageReads(db, points)
            watches = ImageWatches(reads, notices)
            server = await _assemble(settings, db, reads, watches, address, observation, access, audit)
            await server.grpc.start()
            monitor = asyncio.create_task(_watch_database(server))
            try:
                with metrics.sampled(_readings(server, observation)):
                    yield server
            finally:
                monitor.cancel()
                server.health.leave()
                server.health.close()
                server.watches.leave()
                await server.grpc.stop(settings.drain_timeout)
    finally:
        await db.close()


async def serve(
    settings: Settings, dsn: str, address: str, *, stop: asyncio.Event, ready: Callable[[str], None]
) -> None:
    """Run the server until `stop` is set; `ready` is called once, with the address."""
    _leave_no_core()
    async with running_server(settings, dsn, address) as server:
        gc.collect()
        gc.freeze()  # what the start made lives until the end: no collection, which holds every call up, looks at it
        ready(server.address)
        await stop.wait()
        if settings.shutdown_delay:  # whoever asks for health sends new calls elsewhere before the port is closed
            log.info("not serving: the port closes in %.1f s", settings.shutdown_delay)
            server.health.leave()
            await asyncio.sleep(settings.shutdown_delay)
        log.info("draining: calls under way have %.0f s", settings.drain_timeout)


def _readings(server: Server, observation: Observation) -> Iterator[metrics.Source]:
    db, certificates = server.database, server.certificates
    yield from pool_readings(db)
    yield from queue_readings(db)
    yield from bitmap_readings(db)
    yield catalogue.DATABASE_UP, metrics.one(lambda: db.answers)
    yield catalogue.RPCS_IN_FLIGHT, observation.under_way
    if certificates is not None:
        yield catalogue.CERTIFICATE_EXPIRY, lambda: {(of,): end.timestamp() for of, end in certificates.ends().items()}


def _leave_no_core() -> None:
    """The memory holds callers' keys. A limit of one byte also stops dumps that go to a program (core(5))."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard == resource.RLIM_INFINITY else min(1, hard), hard))


async def _assemble(
    settings: Settings,
    db: Database,
    reads: ImageReads,
    watches: ImageWatches,
    address: str,
    observation: Observation,
    access: Access,
    audit: AuditTrail,
) -> Server:
    config = platform_config(settings)
    quotas = Quotas(db, queued_builds=settings.key_queued_builds, images=settings.key_images)
    kept = KeptImages(settings.page_memory) if settings.page_memory else None
    images, jobs, builds = Images(db, reads, config, quotas, kept), Jobs(db), Builds(db)
    secret = (await images.identity()).token_secret
    server = aio.server(
        interceptors=access.interceptors(),
        options=[
            ("grpc.so_reuseport", int(settings.processes > 1)),
            ("grpc.max_receive_message_length", limits.REQUEST_BYTES),
            ("grpc.max_send_message_length", limits.RESPONSE_BYTES),
            *HARDENING,
        ],
    )
    methods = _methods(observation, access)
    server.add_generic_rpc_handlers((methods,))
    accepts = Accepts(
        python_versions=settings.python_versions,
        default_python=settings.chosen_python,
        package_type=settings.base_packages,
        repository_prefix=settings.repository_path,
    )
    registry = ImageRegistry(
        images,
        Platform(db, config),
        builds,
        accepts=accepts,
        tokens=PageTokens(secret, "images"),
        echo_last_token=settings.legacy_page_echo,
    )
    add_ImageRegistryServicer_to_server(registry, methods)
    public_url = settings.public_url or f"http://{settings.http_address}"
    links = LogLinks(secret, public_url=public_url, retention=settings.log_retention)
    add_JobReaderServicer_to_server(JobReader(jobs, tokens=PageTokens(secret, "jobs"), links=links), methods)
    add_JobLogsServicer_to_server(JobLogsService(JobLogs(db, settings.log_retention), links), methods)
    add_ImageWatchServicer_to_server(ImageWatch(watches), methods)
    add_ImageLocksServicer_to_server(ImageLocks(images), methods)
    add_ImageFinderServicer_to_server(ImageFinderService(ImageFinder(db), accepts), methods)
    health_servicer = Health(SERVICES)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, methods)
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
        reflection.aio.ReflectionServicer(names), methods
    )
    certificates = _certificates(settings)
    port = _listen(server, address, certificates)
    health_servicer.set_serving(True)
    where = f"{address.rpartition(':')[0]}:{port}"
    return Server(server, db, health_servicer, watches, where, audit, certificates)


def _methods(observation: Observation, access: Access) -> Any:  # it has what generated code asks of a server
    """Each method is watched from outside, then guarded, and behind that its caller is checked."""

    def around(handler: Handler, method: str) -> Handler:
        return observation.around(guarding.guarded(access.around(handler, method), method), method)

    unknown = observation.around(guarding.unknown_method(), "")
    return Methods(around, unknown=unknown, wakefulness=Wakefulness())


def _certificates(settings: Settings) -> ServerCertificates | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    try:
        return ServerCertificates(TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca))
    except TlsError as error:
        raise StartError(str(error)) from None


def _listen(server: aio.Server, address: str, certificates: ServerCertificates | None) -> int:
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError:
        raise StartError(
            f"{address} can't be listened on: it is taken or not an address of this machine; "
            f"choose another with {with_variable('--grpc-address')}"
        ) from None


async def _watch_database(server: Server) -> None:
    """NOT_SERVING while Postgres is away. Looks at once: only what was there before can be seen to go away."""
    serving = True
    while True:
        try:
            await server.database.ping()
            answers = True
        except Exception as error:  # noqa: BLE001 (it must go on: an unforeseen one is no answer either)
            answers = False
            if serving:
                log.warning("not serving: %s", error)
        if answers != serving:
            serving = answers
            server.health.set_serving(serving)
            if serving:
                log.info("serving again")
        await asyncio.sleep(HEALTH_INTERVAL)
