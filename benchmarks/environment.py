"""Everything that runs while something is measured: one Postgres with its databases, and servers as processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.load import fill
from image_registry.host.addresses import free_port
from image_registry.local.postgres import EmbeddedPostgres

START_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A started server process."""

    process: subprocess.Popen[str]
    address: str
    start_seconds: float

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children so far."""
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))

    def resident_mib(self) -> float:
        """Memory in use."""
        total = 0
        for pid in _family(self.process.pid):
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return total / 1024


class Environment:
    """An async context manager: leaving it stops everything and removes the data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._postgres = EmbeddedPostgres(folder / "data")
        self._servers: list[Server] = []

    async def __aenter__(self) -> Environment:
        """Start Postgres with the settings of the product: every commit is durable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await self._postgres.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        self.stop_servers()
        await self._postgres.kill()

    def dsn(self, database: str) -> str:
        """The connection string of a database."""
        return f"{self._postgres.dsn.rpartition('/')[0]}/{database}"

    def filled(self, images: int, libraries: int = 60) -> str:
        """The connection string of a database with so many images, made if it isn't there."""
        name = f"images_{images}_{libraries}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            if conn.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
                fill(self.dsn(name), images, libraries)
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
        environment = os.environ | {
            "IMAGE_REGISTRY_DATABASE_URL": dsn,
            "IMAGE_REGISTRY_DATA_DIR": str(self.folder / "server"),
            "IMAGE_REGISTRY_PLATFORM_TAG": "v1",
        }
        log = self.folder / f"server-{len(list(self.folder.glob('server-*.log')))}.log"
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                argv, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        output = process.stdout or sys.stdin
        while lines:
            line = output.readline()
            if not line:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"{shlex.join(argv[:4])} … ended with {process.wait()}: {' '.join(last)}")
            lines -= "serving" in line
        server = Server(process, address, time.monotonic() - began)
        self._servers.append(server)
        return server

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
