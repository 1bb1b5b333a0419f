"""Both doors under attack: the service stays up, within a memory bound, and serves others meanwhile.

A short form runs with the other tests; `make test-abuse` runs the full loads. Each attack prints a line: attack, door,
load held, memory peak, how many of a bystander's calls were served, and how long the slowest 1 % of them took.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from image_registry.host.addresses import free_port
from image_registry.models import Role
from image_registry.registry.keys import Keys
from image_registry.storage.database import Database
from tests.abuse import attacks
from tests.abuse.target import FULL, MIB, Target, answers, process, under
from tests.fixtures.postgres import clone_database

MEMORY = (512 if FULL else 256) * MIB  # that an attack may add
SERVED = 0.95  # of the bystander's calls, on a machine that attacker, bystander, database and service share
GRPC = [
    attacks.idle_connections,
    attacks.idle_streams,
    attacks.burst_of_streams,
    attacks.slow_drip,
    attacks.rapid_reset,
    attacks.floods_of_control_frames,
    attacks.header_bombs,
    attacks.gzip_bombs,
    attacks.large_names,
    attacks.random_messages,
    attacks.guessed_keys,
]
GATEWAY = [
    attacks.idle_connections,
    attacks.idle_streams,
    attacks.burst_of_streams,
    attacks.slow_drip,
    attacks.rapid_reset,
    attacks.floods_of_control_frames,
    attacks.header_bombs,
    attacks.gzip_bombs,
    attacks.large_names,
]
pytestmark = [pytest.mark.timeout(1200 if FULL else 180), pytest.mark.xdist_group("abuse")]


@pytest.fixture(scope="module")
def doors(
    postgres_server: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Target]]:
    """The real server and the real gateway, for all attacks. The rate limit, which would end most of them at once, is
    off."""
    with clone_database(postgres_server, migrated_template) as dsn:
        yield from _doors(dsn, tmp_path_factory.mktemp("abuse"), {"IMAGE_REGISTRY_KEY_REQUESTS": "0"})


@pytest.fixture(scope="module")
def limited_doors(
    postgres_server: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Target]]:
    """The same with the rate limit that is there by default."""
    with clone_database(postgres_server, migrated_template) as dsn:
        yield from _doors(dsn, tmp_path_factory.mktemp("limited"), {})


@pytest.mark.parametrize("attack", GRPC, ids=lambda attack: attack.__name__)
async def test_the_server(doors: dict[str, Target], attack: attacks.Attack) -> None:
    await _holds(doors["gRPC"], attack)


@pytest.mark.parametrize("attack", GATEWAY, ids=lambda attack: attack.__name__)
async def test_the_gateway(doors: dict[str, Target], attack: attacks.Attack) -> None:
    await _holds(doors["gateway"], attack)


@pytest.mark.parametrize("door", ["gRPC", "gateway"])
async def test_a_greedy_key(limited_doors: dict[str, Target], door: str) -> None:
    """The burst as it meets a deployment whose limits were left as they are."""
    await _holds(limited_doors[door], attacks.burst_of_streams, "burst, rate limit on")


def _doors(dsn: str, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Target]]:
    with asyncio.Runner() as runner:
        context = _running(dsn, folder, environment)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def _running(dsn: str, folder: Path, more: dict[str, str]) -> AsyncIterator[dict[str, Target]]:
    grpc_port, http_port = free_port(), free_port()
    environment = {
        "IMAGE_REGISTRY_DATABASE_URL": dsn,
        "IMAGE_REGISTRY_DATA_DIR": str(folder),
        "IMAGE_REGISTRY_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "IMAGE_REGISTRY_HTTP_ADDRESS": f"127.0.0.1:{http_port}",
        "IMAGE_REGISTRY_AUTH": "keys",
        **more,
    }
    db = Database(dsn, size=2, wait=5, statement_timeout=10)
    await db.open()
    key, bystander_key = [(await Keys(db).create(Role.MEMBER)).secret for _ in range(2)]
    await db.close()
    async with (
        process("serve", environment=environment, log=folder / "serve.log") as server,
        process("gateway", environment=environment, log=folder / "gateway.log") as gateway,
    ):
        doors = {
            "gRPC": Target("gRPC", grpc_port, server, key, bystander_key),
            "gateway": Target("gateway", http_port, gateway, key, bystander_key),
        }
        for door in doors.values():
            await answers(door)
        yield doors


async def _holds(door: Target, attack: attacks.Attack, name: str = "") -> None:
    outcome = await under(door, name or attack.__name__.replace("_", " "), attack)
    await answers(door)
    assert outcome.peak - outcome.before < MEMORY, outcome
    assert outcome.asked
    assert outcome.ratio >= SERVED, outcome
