"""The faults, dealt from a shuffled deck so that each kind has its turn."""

import asyncio
import contextlib
import errno
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from tests.faults.checks import rows
from tests.faults.cluster import LEASE, Cluster, Worker
from tests.faults.parts import Part, builds_of, children_of
from tests.faults.repositories import Registry

LONGER_THAN_A_LEASE = LEASE * 1.5
LONGEST_LULL = 8.0


class Chaos:
    """Injects one fault after the other. `frozen` notes of stopped workers when the last of their builds had ended."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._deck: list[Callable[[], Awaitable[None]]] = []
        self.injected: Counter[str] = Counter()
        self.frozen: list[tuple[str, float, float]] = []

    async def run(self, done: asyncio.Event) -> None:
        """Inject faults until all traffic is done, at least each kind once; then mend everything."""
        self._deck = self._all_kinds()
        first_round = len(self._deck)
        while not done.is_set() or self.injected.total() < first_round:
            if not self._deck:
                self._deck = self._all_kinds()
            fault = self._deck.pop()
            finished = self._finished()
            name = fault.__name__.strip("_").replace("_", " ")
            print(f"fault: {name}", flush=True)
            await fault()
            self.injected[name] += 1
            await asyncio.sleep(self._random.uniform(0.3, 1.5))
            await self._progress(after=finished)

    async def _progress(self, *, after: int) -> None:
        """Faults hit builds under way, so let some come to their end, on slow machines too; not for ever, though."""
        give_up = time.monotonic() + LONGEST_LULL
        while self._finished() <= after and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    def _finished(self) -> int:
        try:
            return len(rows(self._cluster.database.dsn, "select id from jobs where status in (3, 4, 6)"))
        except psycopg.Error:
            return 0

    def _all_kinds(self) -> list[Callable[[], Awaitable[None]]]:
        deck: list[Callable[[], Awaitable[None]]] = [
            self._kill_worker,
            self._kill_worker,
            self._kill_all_workers,
            self._kill_build,
            self._drain_worker,
            self._freeze_worker,
            self._cut_network,
            self._kill_server,
            self._kill_gateway,
            self._kill_envoy,
            self._kill_postgres,
            self._keep_postgres_down,
        ]
        if isinstance(self._cluster.repositories, Registry):
            deck += [self._kill_registry, self._keep_registry_down]
        if any(worker.disk for worker in self._cluster.workers):
            deck.append(self._fill_disk)
        self._random.shuffle(deck)
        return deck

    async def _kill_worker(self) -> None:
        await self._kill(self._worker().part)

    async def _kill_all_workers(self) -> None:
        await asyncio.gather(*(self._kill(worker.part) for worker in self._cluster.workers))

    async def _kill_build(self) -> None:
        """`kill -9` of a build's process alone, if there is one within the next second."""
        for _ in range(20):
            for worker in self._cluster.workers:
                if builds := builds_of(worker.work_dir):
                    _kill(self._random.choice(builds))
                    return
            await asyncio.sleep(0.05)

    async def _drain_worker(self) -> None:
        worker = self._worker().part
        await worker.stop()
        worker.start()

    async def _freeze_worker(self) -> None:
        """Stop a worker as a machine does that sleeps: its builds go on, and have to end by themselves in time."""
        worker = self._worker()
        began = time.time()
        worker.part.signal(signal.SIGSTOP)
        while builds_of(worker.work_dir) and time.time() < began + LEASE:  # noqa: ASYNC110 (other processes end)
            await asyncio.sleep(0.02)
        left = builds_of(worker.work_dir)
        self.frozen.append((worker.part.name, began, time.time()))
        assert not left, f"{LEASE} s after {worker.part.name} was stopped its builds {left} still run"
        await asyncio.sleep(max(0.0, began + LONGER_THAN_A_LEASE - time.time()))
        worker.part.signal(signal.SIGCONT)

    async def _cut_network(self) -> None:
        host = self._worker().host
        host.cut()
        await asyncio.sleep(LONGER_THAN_A_LEASE)
        host.mend()

    async def _fill_disk(self) -> None:
        worker = next(worker for worker in self._cluster.workers if worker.disk)
        filler = worker.folder / "filler"
        await asyncio.to_thread(_fill, filler)
        await asyncio.sleep(LEASE)
        filler.unlink()

    async def _kill_server(self) -> None:
        await self._kill(self._cluster.server)

    async def _kill_gateway(self) -> None:
        await self._kill(self._cluster.gateway)

    async def _kill_envoy(self) -> None:
        """Envoy alone: the gateway notices and ends."""
        gateway = self._cluster.gateway
        if gateway.process is not None:
            for pid in children_of(gateway.process.pid, "envoy"):
                _kill(pid)
        await gateway.kill()
        gateway.start()

    async def _kill_postgres(self) -> None:
        await self._cluster.database.kill()
        await self._cluster.database.start()

    async def _keep_postgres_down(self) -> None:
        await self._cluster.database.kill()
        await asyncio.sleep(LONGER_THAN_A_LEASE)
        await self._cluster.database.start()

    async def _kill_registry(self) -> None:
        await self._registry_away(self._random.uniform(0.0, 0.5))

    async def _keep_registry_down(self) -> None:
        await self._registry_away(LONGER_THAN_A_LEASE)

    async def _registry_away(self, seconds: float) -> None:
        registry = self._cluster.repositories
        if isinstance(registry, Registry):
            await asyncio.to_thread(registry.kill)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(registry.start)

    async def _kill(self, part: Part) -> None:
        await part.kill()
        part.deaths.append(time.time())
        await asyncio.sleep(self._random.uniform(0.0, 0.5))
        part.start()

    def _worker(self) -> Worker:
        return self._random.choice(self._cluster.workers)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _fill(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
