"""WatchImage: a thousand watchers on one replica, each of another image, and how soon one hears of its change."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import psycopg
from grpc import aio
from ri.api.imageregistry import image_watch_pb2 as pb
from ri.api.imageregistry.image_watch_pb2_grpc import ImageWatchStub

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.measuring import median_ms

WATCHERS, CHANGES, CONNECTIONS = 1_000, 60, 10
OUTDATED = 5  # the wire number of READY images of an older tag


def run(bench: Bench) -> None:
    """Change images one after the other."""
    dsn = bench.dsn
    server = bench.environment.registry(dsn)
    try:
        delays = asyncio.run(_delays(server.address, dsn))
        memory = server.resident_mib()
    finally:
        bench.environment.stop(server)
    slowest = sorted(delays)[int(len(delays) * 0.95)] * 1000
    bench.report.add(Figure("watch: commit to delivery with 1,000 watchers, ms, median", median_ms(delays), at_most=50))
    bench.report.add(Figure("watch: commit to delivery with 1,000 watchers, ms, p95", slowest, at_most=50))
    bench.report.add(Figure("memory with 1,000 watchers, MiB", memory, at_most=150))


async def _delays(address: str, dsn: str) -> list[float]:
    names = [data.name(number) for number in range(WATCHERS)]
    delays = []
    async with AsyncExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [await stack.enter_async_context(aio.insecure_channel(address, own)) for _ in range(CONNECTIONS)]
        conn = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
        streams = {name: _watch(channels[number % CONNECTIONS], name) for number, name in enumerate(names)}
        await asyncio.gather(*(anext(stream) for stream in streams.values()))
        for name in random.Random(1).sample(names, CHANGES):  # noqa: S311
            told = asyncio.ensure_future(anext(streams[name]))
            await conn.execute("update images set status = %s where name = %s", [OUTDATED, name])
            committed = time.perf_counter()
            await told
            delays.append(max(0.0, time.perf_counter() - committed))
    return delays


def _watch(channel: aio.Channel, name: str) -> AsyncIterator[Any]:
    stub: Any = ImageWatchStub(channel)
    return aiter(stub.WatchImage(pb.WatchImageRequest(name=name)))
