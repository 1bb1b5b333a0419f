"""A whole deployment out of processes: Postgres, server, gateway, three workers on hosts of their own."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from psycopg.conninfo import conninfo_to_dict

from image_registry.host.addresses import free_port
from image_registry.storage import migrations
from tests.faults.hosts import Host, made_hosts, relay
from tests.faults.parts import Database, Part, processes_of
from tests.faults.repositories import Registry, Repositories
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex
from tests.fixtures.product import clean_environment

LEASE = 4.0
WORKERS = 3
DISK = 96 << 20  # bytes of the last worker's own small disk


@dataclass
class Worker:
    """A worker, its host and its folder; `disk` is the folder of its own small file system, None: it has none."""

    part: Part
    host: Host
    folder: Path
    disk: Path | None

    @property
    def work_dir(self) -> Path:
        """Where its builds have their folders."""
        return self.folder / "work"


@dataclass
class Cluster:
    """The running deployment."""

    folder: Path
    database: Database
    server: Part
    gateway: Part
    workers: list[Worker]
    base: TestBase
    http_address: str
    repositories: Repositories

    @property
    def parts(self) -> list[Part]:
        """Every process but the database."""
        return [self.server, self.gateway, *(worker.part for worker in self.workers)]

    async def serving(self) -> None:
        """Wait until a caller gets an answer from the database."""
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=f"http://{self.http_address}") as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/v1/images")).status_code == 200:
                        return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running_cluster(
    folder: Path, base: TestBase, index: PackageIndex, repositories: Repositories
) -> AsyncIterator[Cluster]:
    """Start everything, and leave nothing behind."""
    async with AsyncExitStack() as stack:
        hosts = await stack.enter_async_context(made_hosts(WORKERS))
        (folder / "logs").mkdir(parents=True)
        database = Database(folder / "database")
        await database.start()
        stack.push_async_callback(database.kill)
        await migrations.migrate(database.dsn, lambda _: None)
        grpc, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        common = {
            "REPOSITORY": repositories.setting,
            "BASE_IMAGES": f"{base.python_version}={base.reference}",
            "PLATFORM_TAG": "v1",
            "LEASE": str(LEASE),
            "POLL": "1",
            "LOG_FORMAT": "json",
            "DRAIN_TIMEOUT": "4",
        }

        def part(name: str, argv: list[str], host: Host | None = None, **settings: str) -> Part:
            own = folder / name
            (own / "tmp").mkdir(parents=True, exist_ok=True)
            environment = clean_environment(**common, DATA_DIR=str(own), **settings) | {"TMPDIR": str(own / "tmp")}
            return Part(name, argv, environment, folder / "logs" / f"{name}.log", host.enter if host else ())

        if isinstance(repositories, Registry):
            await asyncio.to_thread(repositories.start)
            stack.callback(repositories.kill)
        server = part("server", ["serve", "--grpc-address", grpc], DATABASE_URL=database.dsn)
        gateway = part("gateway", ["gateway", "--grpc-address", grpc, "--http-address", http])
        workers = []
        for number, host in enumerate(hosts):
            own = folder / f"worker{number}"
            disk = _small_disk(own, stack) if number == WORKERS - 1 else None
            database_port = await stack.enter_async_context(
                relay(host, int(str(conninfo_to_dict(database.dsn)["port"])))
            )
            index_port = await stack.enter_async_context(relay(host, int(index.authority.rpartition(":")[2])))
            settings = {
                "DATABASE_URL": _moved(database.dsn, f"{host.address}:{database_port}"),
                "INDEX_URL": f"http://{host.address}:{index_port}/simple",
            }
            if isinstance(repositories, Registry):
                registry_port = await stack.enter_async_context(relay(host, repositories.port))
                address = f"http://{host.address}:{registry_port}"
                settings["REGISTRY_ENDPOINTS"] = f"{repositories.setting}={address}"
            workers.append(Worker(part(f"worker{number}", ["worker"], host, **settings), host, own, disk))
        cluster = Cluster(folder, database, server, gateway, workers, base, http, repositories)
        stack.callback(_end_all, cluster)
        for one in cluster.parts:
            one.start()
        supervisor = asyncio.create_task(_supervise(cluster))
        stack.callback(supervisor.cancel)
        await cluster.serving()
        yield cluster


async def _supervise(cluster: Cluster) -> None:
    """Start again what ended by itself: a worker that finds no database as it starts, a gateway without its Envoy."""
    while True:
        for part in cluster.parts:
            if not part.held and not part.runs:
                part.start()
        await asyncio.sleep(0.5)


def _moved(dsn: str, where: str) -> str:
    head, _, rest = dsn.rpartition("@")
    return f"{head}@{where}/{rest.partition('/')[2]}"


def _small_disk(folder: Path, stack: AsyncExitStack) -> Path | None:
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "fault-test", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        return None
    stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    return folder


def _end_all(cluster: Cluster) -> None:
    """Kill what is left; a test that is over wants nothing drained."""
    for worker in cluster.workers:
        worker.host.mend()
    for pid in processes_of(str(cluster.folder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    for part in cluster.parts:
        if part.process is not None:
            part.process.wait()
