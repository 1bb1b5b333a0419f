"""Everything that runs while something is measured: one Postgres with its databases, and servers as processes."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.load import fill, make_bitmaps
from image_registry.host.addresses import free_port
from image_registry.local.postgres import EmbeddedPostgres
from image_registry.storage import migrations

LISTEN_SECONDS = 120.0  # peers import for a long time
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A started server process."""

    process: subprocess.Popen[str]
    address: str
    start_seconds: float

    def pids(self) -> list[int]:
        """The process and all that descend from it."""
        return _family(self.process.pid)

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children so far."""
        return sum(map(_cpu_seconds, self.pids()))

    def resident_mib(self) -> float:
        """Memory in use."""
        total = 0
        for pid in self.pids():
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return total / 1024


class Environment:
    """An async context manager: leaving it stops everything. `keep` is a folder for the databases that stays."""

    def __init__(self, folder: Path, keep: Path | None = None) -> None:
        self.folder = folder
        self._postgres = EmbeddedPostgres(keep or folder / "data")
        self._stop = self._postgres.stop if keep else self._postgres.kill
        self._servers: list[Server] = []
        self._current: set[str] = set()  # databases that have the schema of this version

    async def __aenter__(self) -> Environment:
        """Start Postgres with the settings of the product: every commit is durable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await self._postgres.start()
        async with await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True) as conn:
            await conn.execute("alter system set max_wal_size = '16GB'")  # no checkpoint under way while all is loaded
            await conn.execute("select pg_reload_conf()")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        self.stop_servers()
        await self._stop()

    def dsn(self, database: str) -> str:
        """The connection string of a database."""
        return f"{self._postgres.dsn.rpartition('/')[0]}/{database}"

    def filled(self, images: int, libraries: int = 60) -> str:
        """The connection string of a database with so many images, made if it isn't there."""
        name = f"images_{images}_{libraries}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            if conn.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                half = sql.Identifier(f"{name}_half")
                conn.execute(sql.SQL("drop database if exists {}").format(half))
                conn.execute(sql.SQL("create database {}").format(half))
                fill(self.dsn(f"{name}_half"), images, libraries)
                conn.execute(sql.SQL("alter database {} rename to {}").format(half, sql.Identifier(name)))
        if name not in self._current:
            asyncio.run(migrations.migrate(self.dsn(name), lambda _: None))  # it may be kept from an older version
            make_bitmaps(self.dsn(name))
            self._current.add(name)
        return self.dsn(name)

    def database(self, name: str) -> str:
        """The connection string of a database, made empty if it isn't there."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            if conn.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.dsn(name)

    def registry(self, dsn: str, *, module: str = "image_registry", processes: int = 1) -> Server:
        """The product's gRPC server."""
        address = f"127.0.0.1:{free_port()}"
        argv = ["-m", module, "serve", "--grpc-address", address, "--processes", str(processes)]
        return self.start([sys.executable, *argv], address, dsn=dsn, lines=processes)

    def gateway(self, grpc: Server) -> Server:
        """The product's REST gateway in front of a server."""
        address = f"127.0.0.1:{free_port()}"
        argv = ["-m", "image_registry", "gateway", "--grpc-address", grpc.address, "--http-address", address]
        return self.start([sys.executable, *argv], address)

    def canned(self, answer: bytes) -> Server:
        """The Python limit: every answer is these bytes."""
        file = self.folder / f"canned-{len(answer)}"
        file.write_bytes(answer)
        address = f"127.0.0.1:{free_port()}"
        argv = ["-m", "benchmarks.servers.canned", "--address", address, "--canned", str(file)]
        return self.start([sys.executable, *argv], address)

    def start(self, argv: Sequence[str], address: str, *, dsn: str = "", lines: int = 1) -> Server:
        """A process that prints `lines` lines with 'serving' when it is ready."""
        variables = {
            "IMAGE_REGISTRY_DATABASE_URL": dsn,
            "IMAGE_REGISTRY_DATA_DIR": str(self.folder / "server"),
            "IMAGE_REGISTRY_PLATFORM_TAG": "v1",
        }
        log = self._log()
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                argv,
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        output = process.stdout or sys.stdin
        while lines:
            line = output.readline()
            if not line:
                raise _ended(process, argv, log)
            lines -= "serving" in line
        server = Server(process, address, time.monotonic() - began)
        self._servers.append(server)
        return server

    def listening(self, argv: Sequence[str], variables: Mapping[str, str]) -> Server:
        """A process that is given a port as its last argument, and that is ready when the port answers."""
        port = free_port()
        log = self._log()
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*argv, str(port)],
                cwd=self.folder,
                env=os.environ | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        server = Server(process, f"127.0.0.1:{port}", 0)
        self._servers.append(server)
        while not _answers(port):
            if process.poll() is not None:
                raise _ended(process, argv, log)
            if time.monotonic() - began > LISTEN_SECONDS:
                raise RuntimeError(f"{argv[0]} does not listen after {LISTEN_SECONDS:.0f} s")
            time.sleep(0.1)
        return server

    def _log(self) -> Path:
        return self.folder / f"server-{len(list(self.folder.glob('server-*.log')))}.log"

    def stop_servers(self) -> None:
        """End whatever server still runs."""
        self.stop(*self._servers)

    def stop(self, *servers: Server) -> None:
        """End servers, and wait for them."""
        for server in servers:
            with suppress(ProcessLookupError):
                server.process.send_signal(signal.SIGTERM)
        for server in servers:
            try:
                server.process.wait(15)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
            if server in self._servers:
                self._servers.remove(server)


def _ended(process: subprocess.Popen[str], command: Sequence[str], log: Path) -> RuntimeError:
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return RuntimeError(f"{shlex.join(command[:4])} … ended with {process.wait()}: {' '.join(last)}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split())
    return found


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0
