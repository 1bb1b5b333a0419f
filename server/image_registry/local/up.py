"""`image-registry up`: the whole product on one machine, in the foreground."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from image_registry.app import unreachable
from image_registry.host import StartError, with_variable
from image_registry.host.addresses import Address, check_free, parse_address
from image_registry.local.bases import DOCKER_HUB, BaseMaker, BasePlan, make_base, plan_bases
from image_registry.local.data_dir import DataDir
from image_registry.local.postgres import EmbeddedPostgres
from image_registry.local.probes import grpc_serving, http_status
from image_registry.local.supervisor import ChildSpec, CommandChild, Supervisor
from image_registry.storage import migrations

_PREFIX = "IMAGE_REGISTRY_"
_WHOLE_SECONDS = 60.0
_PORT_SECONDS = 6.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class UpOptions:
    """What to run.

    `http_address` None leaves the gateway out. `database_url` None means the product's own Postgres in `data_dir`.
    `base_images_set` tells that base images are configured in `environment`, the variables that the
    children get; the variables for what is decided here are put on top. `command` is the product's own command line.
    `when_ready` runs beside the product once callers get answers.
    `container_registry` is asked whether the default base images can be had.
    """

    data_dir: Path
    grpc_address: Address
    http_address: Address | None
    worker: bool
    database_url: str | None = field(repr=False)
    base_images_set: bool
    environment: Mapping[str, str] = field(repr=False)
    base_maker: BaseMaker
    command: Sequence[str] = (sys.executable, "-m", "image_registry")
    when_ready: Callable[[], Awaitable[object]] | None = None
    container_registry: str = DOCKER_HUB


async def up(options: UpOptions, *, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """Run until `stop` is set; when cancelled, end everything at once.

    Raises StartError in one sentence, with everything stopped again, when a part doesn't start.
    """
    data_dir = DataDir(options.data_dir.absolute()).create()
    with data_dir.lock() as after_a_crash:
        await _check_addresses(options, patience=_PORT_SECONDS if after_a_crash else 0)
        async with Supervisor(say) as supervisor:
            work = asyncio.create_task(_Installation(options, data_dir, supervisor, say).run())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                say("stopping")
            finally:
                stopping.cancel()
                work.cancel()
                await asyncio.gather(work, stopping, return_exceptions=True)


class _Installation:
    """The parts of one `up` and the order in which they come."""

    def __init__(
        self, options: UpOptions, data_dir: DataDir, supervisor: Supervisor, say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._data_dir = data_dir
        self._supervisor = supervisor
        self._say = say
        self._environment: dict[str, str] = {
            **options.environment,
            "PYTHONUNBUFFERED": "1",
            f"{_PREFIX}SHUTDOWN_DELAY": "0",  # the gateway goes with the server
            f"{_PREFIX}DATA_DIR": str(data_dir.path),
            f"{_PREFIX}GRPC_ADDRESS": str(options.grpc_address),
        }

    async def run(self) -> None:
        """Start everything, say when it can be used, make a base image if there is none; then last for ever."""
        started = asyncio.get_running_loop().time()
        bases = asyncio.create_task(self._plan_bases())
        try:
            await _together(self._start_gateway(), self._start_database_and_server(bases))
            plan = await bases
        finally:
            bases.cancel()
        if self._options.worker and plan.pending is None:
            await self._start_worker()
        await self._wait_for_whole()
        self._say(self._ready_line(asyncio.get_running_loop().time() - started))
        lasting: list[Awaitable[object]] = [self._supervisor.wait_for_fault()]
        if self._options.when_ready is not None:
            lasting.append(self._options.when_ready())
        if self._options.worker and plan.pending is not None:
            lasting.append(self._start_worker_later(plan))
        await _together(*lasting)

    async def _plan_bases(self) -> BasePlan:
        if self._options.base_images_set:
            return BasePlan(None)
        plan = await plan_bases(self._data_dir.bases, self._options.base_maker, self._options.container_registry)
        if plan.images is not None:
            self._environment[f"{_PREFIX}BASE_IMAGES"] = ",".join(f"{v}={ref}" for v, ref in plan.images.items())
            self._environment[f"{_PREFIX}DEFAULT_PYTHON"] = next(iter(plan.images))
        return plan

    async def _start_database_and_server(self, bases: "asyncio.Task[BasePlan]") -> None:
        dsn = self._options.database_url
        if dsn is None:
            postgres = EmbeddedPostgres(self._data_dir.path)
            await self._supervisor.start(postgres, rank=0)
            dsn = postgres.dsn
        self._environment[f"{_PREFIX}DATABASE_URL"] = dsn
        try:
            await migrations.migrate(dsn, lambda _: None)
        except migrations.MigrationError as error:
            raise StartError(str(error)) from error
        except psycopg.Error as error:
            raise StartError(unreachable(dsn, error)) from None
        await bases
        address = self._options.grpc_address.reachable
        await self._supervisor.start(self._child("serve", lambda: grpc_serving(address)), rank=1)

    async def _start_gateway(self) -> None:
        address = self._options.http_address
        if address is not None:
            self._environment[f"{_PREFIX}HTTP_ADDRESS"] = str(address)
            reachable = address.reachable
            await self._supervisor.start(self._child("gateway", lambda: _answers(reachable)), rank=2)

    async def _start_worker(self) -> None:
        await self._supervisor.start(self._child("worker", _at_once), rank=3)

    async def _start_worker_later(self, bases: BasePlan) -> None:
        await make_base(bases, self._options.base_maker, self._data_dir.logs / "base.log", self._say)
        await self._start_worker()

    async def _wait_for_whole(self) -> None:
        """Wait until a caller gets an answer: the gateway has seen that the server serves."""
        if self._options.http_address is None:
            return
        address = self._options.http_address.reachable
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                while await http_status(address, "/healthz") != 200:  # noqa: ASYNC110 (another process answers)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise StartError(f"the gateway finds no healthy server; see the logs in {self._data_dir.logs}") from None

    def _child(self, name: str, ready: Callable[[], Awaitable[bool]]) -> CommandChild:
        return CommandChild(
            ChildSpec(
                name=name,
                argv=[*self._options.command, name],
                env={**self._environment, **self._admin_address(name)},
                log=self._data_dir.logs / f"{name}.log",
                ready=ready,
            )
        )

    def _admin_address(self, name: str) -> dict[str, str]:
        """The server's processes have the configured port and those behind it, then come worker and gateway."""
        variable = f"{_PREFIX}ADMIN_ADDRESS"
        admin = self._environment.get(variable)
        if not admin or name == "serve":
            return {}
        first = parse_address(admin)
        behind = int(self._environment.get(f"{_PREFIX}PROCESSES") or 1) + ("worker", "gateway").index(name)
        return {variable: str(Address(first.host, first.port + behind))}

    def _ready_line(self, seconds: float) -> str:
        doors = [f"gRPC on {self._options.grpc_address}"]
        if self._options.http_address is not None:
            doors.append(f"REST on http://{self._options.http_address}")
        return f"ready in {seconds:.1f} s: {', '.join(doors)}; data in {self._data_dir.path}; Ctrl-C stops it"


async def _check_addresses(options: UpOptions, *, patience: float) -> None:
    """Refuse taken ports; after a crash, give what it left behind some seconds to go."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience
    wanted = [(options.grpc_address, "--grpc-address")]
    if options.http_address is not None:
        wanted.append((options.http_address, "--http-address"))
        if options.http_address == options.grpc_address:
            either = " or ".join(with_variable(option) for _, option in reversed(wanted))
            raise StartError(f"{options.http_address} can't be both: choose another {either}")
    while True:
        try:
            for address, option in wanted:
                check_free(address, option)
        except StartError:
            if loop.time() >= give_up:
                raise
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return


async def _together(*parts: Awaitable[object]) -> None:
    """Wait for all of them; the first failure cancels the others and is raised."""

    async def run(part: Awaitable[object]) -> None:
        await part

    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(run(part))
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None


async def _answers(address: Address) -> bool:
    return await http_status(address, "/healthz") is not None


async def _at_once() -> bool:
    return True
