"""The real processes under attack, a bystander who wants to be served meanwhile, and what both are held to."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

MIB = 1 << 20
FULL = os.environ.get("ABUSE") == "full"
PACE = 0.05  # seconds between two calls of the bystander
PATIENCE = 5.0  # seconds that the bystander waits for an answer
TRIES, PAUSE = 4, 0.2  # it tries again as the published REST client does
_POLL = 0.05


def scaled(short: int, full: int) -> int:
    """A load for the normal suite, and one for `make test-abuse`."""
    return full if FULL else short


@dataclass
class Target:
    """A door (the gRPC server's, or the gateway's) and the process behind it.

    `key` is a member's, whom the attacker robbed; the bystander has one of its own.
    """

    name: str
    port: int
    pid: int
    key: str
    bystander_key: str

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("rime-api-key", self.key)]

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        return sum(_resident(pid) for pid in _tree(self.pid))


@dataclass
class Outcome:
    """What an attack did to the service and to the bystander."""

    attack: str
    door: str
    held: str = ""
    before: int = 0
    peak: int = 0
    asked: int = 0
    served: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.served / self.asked if self.asked else 1.0

    def line(self) -> str:
        waits = sorted(self.waits) or [0.0]
        slow = waits[min(len(waits) - 1, int(len(waits) * 0.99))]
        return (
            f"| {self.attack} | {self.door} | {self.held} "
            f"| {self.peak / MIB:.0f} MiB (+{max(0, self.peak - self.before) / MIB:.0f}) "
            f"| {self.ratio:.1%} of {self.asked} | {slow * 1000:.0f} ms |"
        )


async def under(target: Target, attack: str, work: Callable[[Target], Awaitable[str]]) -> Outcome:
    """Run an attack beside a bystander; `work` returns what load it held."""
    outcome = Outcome(attack, target.name, before=target.memory())
    outcome.peak = outcome.before
    stop = threading.Event()
    others = [
        asyncio.create_task(_watch(target, outcome, stop)),
        asyncio.create_task(asyncio.to_thread(_stand_by, target, outcome, stop)),
    ]
    try:
        outcome.held = await work(target)
    finally:
        await asyncio.sleep(4 * PACE)
        stop.set()
        await asyncio.gather(*others)
    print(outcome.line())
    return outcome


async def _watch(target: Target, outcome: Outcome, stop: threading.Event) -> None:
    while not stop.is_set():
        outcome.peak = max(outcome.peak, target.memory())
        await asyncio.sleep(_POLL)


def _stand_by(target: Target, outcome: Outcome, stop: threading.Event) -> None:
    """In a thread of its own: what the attacker computes is not held against the service."""
    with caller(target) as call:
        while not stop.wait(PACE):
            outcome.asked += 1
            began = time.monotonic()
            for _ in range(TRIES):
                if call():
                    outcome.served += 1
                    outcome.waits.append(time.monotonic() - began)
                    break
                time.sleep(PAUSE)


@contextmanager
def caller(target: Target) -> Iterator[Callable[[], bool]]:
    """An honest caller of the door: lists images, and says whether that worked."""
    if target.name == "gRPC":
        with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
            list_images = ImageRegistryStub(channel).ListImages
            metadata = (("rime-api-key", target.bystander_key),)

            def by_grpc() -> bool:
                try:
                    list_images(pb.ListImagesRequest(), metadata=metadata, timeout=PATIENCE)
                except grpc.RpcError:
                    return False
                return True

            yield by_grpc
    else:
        headers = {"rime-api-key": target.bystander_key}
        with httpx.Client(base_url=f"http://127.0.0.1:{target.port}", timeout=PATIENCE) as client:

            def by_rest() -> bool:
                try:
                    return client.get("/v1/images", headers=headers).status_code == 200
                except httpx.HTTPError:
                    return False

            yield by_rest


@asynccontextmanager
async def process(*arguments: str, environment: dict[str, str], log: Path) -> AsyncIterator[int]:
    """`image-registry` with arguments; its process id."""
    with log.open("wb") as output:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_registry", *arguments),
            env=os.environ | environment,
            stdout=output,
            stderr=output,
        )
        try:
            yield started.pid
            assert started.returncode is None, f"it ended, see {log}"
        finally:
            if started.returncode is None:
                started.terminate()
            await asyncio.wait_for(started.wait(), 30)


async def answers(target: Target) -> None:
    """Wait until the door serves."""
    with caller(target) as call:
        for _ in range(600):
            if await asyncio.to_thread(call):
                return
            await asyncio.sleep(0.1)
    raise TimeoutError(f"{target.name} does not serve")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in _listing(Path(f"/proc/{one}/task")):
            found += [int(child) for child in _text(task / "children").split()]
    return found


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _resident(pid: int) -> int:
    fields = _text(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0
