"""`image-registry up` as a person meets it: started, refused, hurt, stopped. Every process is real."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from image_registry.builds.debian import DebianBase
from image_registry.host import StartError, with_variable
from image_registry.host.addresses import Address, check_free, free_port
from image_registry.local.postgres import find_running
from image_registry.local.up import UpOptions, up
from tests.fixtures.product import clean_environment
from tests.fixtures.survivors import eventually, nobody_left, processes_of

BASES = "3.11=oci:/no/such/base:latest"


class Up:
    """One `up` on a data folder, with free ports and what it prints."""

    def __init__(self, data_dir: Path, *flags: str, **settings: str) -> None:
        self.data_dir = data_dir
        self.mark = f"MARK_{uuid4().hex}"
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        addresses = ("--data-dir", str(data_dir), "--grpc-address", self.grpc, "--http-address", self.http)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "image_registry", "up", *addresses, *flags],
            env=clean_environment(**{"BASE_IMAGES": BASES, **settings}) | {self.mark: "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Return the first line that matches."""
        eventually(lambda: self._found(pattern) or self.process.poll() is not None, seconds, self.logs)
        line = self._found(pattern)
        assert line is not None, self.logs()
        return line

    def wait(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    def health(self) -> int:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.http}/healthz", timeout=5) as answer:
            return int(answer.status)
        return 0

    def pid_of(self, part: str) -> int:
        """The process of a part, such as `serve`, once there is one."""
        eventually(lambda: self._pids_of(part), explain=self.logs)
        return self._pids_of(part)[0]

    def _pids_of(self, part: str) -> list[int]:
        found = processes_of(self.mark).items()
        return [pid for pid, line in found if line.endswith(f" image_registry {part} ") and "guardian" not in line]

    def logs(self) -> str:
        parts = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join([*self.lines, *(f"--- {part.name}\n{part.read_text()[-2000:]}" for part in parts)])

    def _found(self, pattern: str) -> str | None:
        return next((line for line in self.lines if re.search(pattern, line)), None)


@contextlib.contextmanager
def running(data_dir: Path, *flags: str, **settings: str) -> Iterator[Up]:
    """Run `up` until it is ready; in the end nothing of it may be left."""
    product = Up(data_dir, *flags, **settings)
    try:
        product.wait_for("^ready in")
        yield product
    finally:
        product.process.send_signal(signal.SIGTERM)
        try:
            product.wait(20)
        finally:
            product.process.kill()
            product.wait()
        nobody_left(product.mark, data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that has been used once, so that starting takes a second."""
    data_dir = tmp_path_factory.mktemp("prepared") / "data"
    with running(data_dir, "--no-gateway", "--no-worker"):
        pass
    return data_dir


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", prepared, tmp_path / "data"], check=True)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def product(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for all tests after which it runs on."""
    data_dir = tmp_path_factory.mktemp("shared") / "data"
    subprocess.run(["cp", "-a", prepared, data_dir], check=True)
    with running(data_dir) as shared:
        yield shared


def test_from_nothing_to_stopped(tmp_path: Path) -> None:
    with running(tmp_path / "data") as product:
        ready = product.wait_for("^ready in")
        assert re.fullmatch(
            rf"ready in \d+\.\d s: gRPC on {product.grpc}, REST on http://{product.http}; "
            rf"data in {tmp_path}/data; Ctrl-C stops it",
            ready,
        )
        assert product.health() == 200
        with urllib.request.urlopen(f"http://{product.http}/v1/images", timeout=5) as answer:
            assert json.load(answer)["nextPageToken"] == ""
        commands = "\n".join(processes_of(product.mark, tmp_path).values())
        for part in ("serve", "gateway", "worker", "postgres", "envoy"):
            assert part in commands
        started = time.monotonic()
        product.process.send_signal(signal.SIGTERM)
        assert product.wait(20) == 0
        assert time.monotonic() - started < 10
        assert product.lines[-1] == "stopping"


def test_a_second_one_is_refused(product: Up) -> None:
    second = Up(product.data_dir)
    assert second.wait() == 1
    expected = (
        f"error: {product.data_dir} is in use by another `image-registry up` (process {product.process.pid}): "
        "stop it, or choose another folder with --data-dir (IMAGE_REGISTRY_DATA_DIR)"
    )
    assert second.lines == [expected]
    assert product.health() == 200


@pytest.mark.parametrize("option", ["--grpc-address", "--http-address"])
def test_taken_ports_are_refused(product: Up, tmp_path: Path, option: str) -> None:
    taken = product.grpc if option == "--grpc-address" else product.http
    refused = Up(tmp_path / "data", option, taken)
    assert refused.wait() == 1
    assert refused.lines == [
        f"error: {taken} is taken: stop what listens there or choose another with {with_variable(option)}"
    ]
    assert product.health() == 200


def test_parts_that_die_are_started_again(product: Up) -> None:
    killed = {part: product.pid_of(part) for part in ("serve", "gateway", "worker")}
    for part, pid in killed.items():
        os.kill(pid, signal.SIGKILL)
        log = product.data_dir / "logs" / f"{part}.log"
        product.wait_for(rf"^{part} was killed by SIGKILL \(.*log: {log}\); starting it again in 1 s")
        product.wait_for(rf"^{part} runs again")
        assert product.pid_of(part) != pid
    eventually(lambda: product.health() == 200)


def test_the_database_dies(product: Up) -> None:
    dsn = find_running(product.data_dir)
    pid_file = product.data_dir / "postgres" / "cluster" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split("\n", 1)[0]), signal.SIGKILL)
    product.wait_for(r"^postgres was killed by SIGKILL ")
    product.wait_for("^postgres runs again")
    assert find_running(product.data_dir) == dsn
    eventually(lambda: product.health() == 200)
    with urllib.request.urlopen(f"http://{product.http}/v1/images", timeout=5) as answer:
        assert answer.status == 200


def test_nothing_is_left_and_nothing_lost_after_kill_9(data: Path) -> None:
    with running(data) as first:
        dsn = find_running(data)
        assert dsn is not None
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        assert len(processes_of(first.mark, data)) > 8
        first.process.kill()
        first.wait()
        # At once, as an impatient person would: what was killed may still be going.
        again = ("--grpc-address", first.grpc, "--http-address", first.http)
        with running(data, *again) as second:
            dsn = find_running(data)
            assert dsn is not None
            with psycopg.connect(dsn) as connection:
                assert connection.execute("SELECT n FROM kept").fetchone() == (42,)
            nobody_left(first.mark)
            assert second.process.poll() is None


def test_a_second_ctrl_c_is_at_once(data: Path) -> None:
    product = Up(data)
    try:
        product.wait_for("^ready in")
        os.kill(product.pid_of("worker"), signal.SIGSTOP)  # it can't react any more
        product.process.send_signal(signal.SIGINT)
        product.wait_for("^stopping")
        started = time.monotonic()
        product.process.send_signal(signal.SIGINT)
        product.wait(20)
        assert time.monotonic() - started < 4
    finally:
        product.process.kill()
        product.wait()
    nobody_left(product.mark, data, seconds=1)


def test_a_part_that_does_not_react_cannot_hold_up_the_end(data: Path) -> None:
    with running(data) as product:
        for part in ("worker", "serve"):
            os.kill(product.pid_of(part), signal.SIGSTOP)
        started = time.monotonic()
        product.process.send_signal(signal.SIGTERM)
        assert product.wait(20) == 0
        assert time.monotonic() - started < 10
        nobody_left(product.mark, data, seconds=1)


def test_stopped_while_starting(tmp_path: Path) -> None:
    for wait in (0.5, 1.5):
        product = Up(tmp_path / "data")
        time.sleep(wait)
        product.process.send_signal(signal.SIGTERM)
        product.wait(15)
        nobody_left(product.mark, tmp_path)
    with running(tmp_path / "data", "--no-worker") as product:
        assert product.health() == 200


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--grpc-address", "localhost"], "'localhost' is no address: write host:port, such as "),
        (["--http-address", "127.0.0.1:99999"], "'127.0.0.1:99999' is no address: a port is a number from 1 to 65535"),
        (["--data-dir", "/proc/x"], "the data folder /proc/x can't be created: "),
        (["--data-dir", "/dev/null"], "the data folder /dev/null can't be used: /dev/null is not a folder"),
        (["--http-address", "192.0.2.1:8080", "--insecure"], "192.0.2.1:8080: this machine has no address 192.0.2.1"),
    ],
)
def test_one_sentence_for_a_mistake(tmp_path: Path, flags: list[str], problem: str) -> None:
    product = Up(tmp_path / "data", *flags)
    assert product.wait() == 1
    (line,) = product.lines
    assert line.startswith(f"error: {problem}")
    nobody_left(product.mark)


def test_one_address_for_two_doors(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    product = Up(tmp_path / "data", "--grpc-address", address, "--http-address", address)
    assert product.wait() == 1
    (line,) = product.lines
    assert line.startswith(f"error: {address} can't be both: choose another --http-address (IMAGE_REGISTRY_HTTP_")


def test_a_database_of_ones_own(postgres_server: str, tmp_path: Path) -> None:
    with running(tmp_path / "data", "--no-worker", "--no-gateway", DATABASE_URL=postgres_server) as product:
        assert not (tmp_path / "data" / "postgres" / "cluster").exists()
        assert "REST" not in product.wait_for("^ready in")
        assert "postgresql://" not in "".join(processes_of(product.mark).values())


def test_a_database_that_is_away(tmp_path: Path) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/images"
    product = Up(tmp_path / "data", DATABASE_URL=url)
    assert product.wait() == 1
    (line,) = product.lines
    assert line.startswith("error: the database ")
    assert "secret" not in line
    nobody_left(product.mark)


def test_a_damaged_database_is_explained(data: Path) -> None:
    (data / "postgres" / "cluster" / "PG_VERSION").write_text("17\n")
    product = Up(data)
    assert product.wait() == 1
    assert "was made by Postgres 17" in product.lines[0]
    nobody_left(product.mark)


async def test_what_a_crash_left_in_the_way_is_waited_for(data: Path) -> None:
    """A taken port is refused at once, unless the last `up` on this folder was killed: then it may still be going."""
    said: list[str] = []
    squatter = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    taken = Address("127.0.0.1", squatter.sockets[0].getsockname()[1])
    options = UpOptions(
        data_dir=data,
        grpc_address=taken,
        http_address=None,
        worker=False,
        database_url=None,
        base_images_set=True,
        environment=clean_environment(BASE_IMAGES=BASES),
        base_maker=DebianBase(),
    )
    with pytest.raises(StartError, match="is taken"):
        await up(options, stop=asyncio.Event(), say=said.append)
    (data / "run" / "up.lock").write_text("1\n")
    stop = asyncio.Event()
    running = asyncio.create_task(up(options, stop=stop, say=said.append))
    await asyncio.sleep(1)
    assert not running.done()
    squatter.close()
    await squatter.wait_closed()
    async with asyncio.timeout(60):
        while not said:  # noqa: ASYNC110 (other processes decide)
            await asyncio.sleep(0.05)
    stop.set()
    await running
    assert [line.partition(" ")[0] for line in said] == ["ready", "stopping"]


def consecutive_ports(count: int) -> int:
    """The first of ports of loopback that follow each other and were free a moment ago."""
    while True:
        first = free_port()
        with contextlib.suppress(StartError, OverflowError):
            for port in range(first, first + count):
                check_free(Address("127.0.0.1", port), "a test")
            return first


def scraped(port: int) -> str:
    """What Prometheus would read there; '': nobody answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
    return ""


def test_each_process_shows_its_metrics_at_a_port_of_its_own(tmp_path: Path) -> None:
    first = consecutive_ports(4)
    settings = {"ADMIN_ADDRESS": f"127.0.0.1:{first}", "PROCESSES": "2"}
    with running(tmp_path / "data", **settings) as product:
        eventually(lambda: bool(scraped(first + 2)), explain=product.logs)  # nothing waits for the worker
        servers, worker, gateway = [scraped(first), scraped(first + 1)], scraped(first + 2), scraped(first + 3)
        for part, text in (("server", servers[0]), ("server", servers[1]), ("worker", worker)):
            assert re.search(rf'^image_registry_info{{part="{part}",version="[^"]+"}} 1.0$', text, re.MULTILINE), text
        assert "image_registry_rpcs_in_flight 0.0" in servers[1]
        assert "image_registry_worker_slots" in worker
        assert "envoy_server_live{} 1" in gateway
