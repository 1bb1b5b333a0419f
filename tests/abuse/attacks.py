"""Attacks. Each takes a door, does its worst, and returns what load it held in words."""

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
import httpx
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb

from tests.abuse import http2
from tests.abuse.http2 import Connection, frame
from tests.abuse.target import MIB, Target, scaled

Attack: TypeAlias = Callable[[Target], Awaitable[str]]
LIST, CREATE = "/rime.ImageRegistry/ListImages", "/rime.ImageRegistry/CreateImage"
Raw: TypeAlias = "aio.UnaryUnaryMultiCallable[bytes, bytes]"
STREAMS = 1000  # opened in a second: what holding them costs is the question, not the burst
HOLD = scaled(1, 5)  # seconds that something is held


async def idle_connections(target: Target) -> str:
    """Connections that say nothing, half of a hello, or a whole one, and no more."""
    number = scaled(300, 2000)
    beginnings = (b"", http2.PREFACE[:10], http2.PREFACE + frame(http2.SETTINGS, 0), http2.PREFACE + b"\0\0\xff\1")
    held = []
    for count in range(number):
        one = await Connection.open(target.port, hello=False)
        await one.send(beginnings[count % len(beginnings)])
        held.append(one)
    await asyncio.sleep(HOLD)
    await _close(held)
    return f"{number} connections"


async def idle_streams(target: Target) -> str:
    """Calls with a good key whose body never comes, many on each of some connections."""
    number, connections = scaled(1000, 10_000), scaled(5, 50)
    block = http2.call(LIST, target.metadata)
    held = [await Connection.open(target.port) for _ in range(connections)]
    for _ in range(number // connections):
        for one in held:
            await one.send(frame(http2.HEADERS, one.stream(), block, http2.END_HEADERS))
        await asyncio.sleep(connections / STREAMS)
    await asyncio.sleep(HOLD)
    refused = sum(one.seen["reset"] for one in held)
    await _close(held)
    return f"{number} streams, {refused} refused"


async def burst_of_streams(target: Target) -> str:
    """The same calls all at once: the gRPC library refuses what it can't queue."""
    number, connections = scaled(1000, 10_000), scaled(5, 50)
    block = http2.call(LIST, target.metadata)
    held = [await Connection.open(target.port) for _ in range(connections)]
    for one in held:
        streams = [frame(http2.HEADERS, one.stream(), block, http2.END_HEADERS) for _ in range(number // connections)]
        await one.send(b"".join(streams))
    await asyncio.sleep(HOLD)
    refused = sum(one.seen["reset"] for one in held)
    await _close(held)
    return f"{number} streams at once, {refused} refused"


async def slow_drip(target: Target) -> str:
    """A request of which one byte comes at a time."""
    held = [await Connection.open(target.port) for _ in range(scaled(20, 100))]
    streams = []
    for one in held:
        stream = one.stream()
        streams.append(stream)
        await one.send(frame(http2.HEADERS, stream, http2.call(CREATE, target.metadata), http2.END_HEADERS))
        await one.send(frame(http2.DATA, stream, b"\0\0\x10\0\0"))
    end = time.monotonic() + HOLD
    while time.monotonic() < end:
        for one, stream in zip(held, streams, strict=True):
            await one.send(frame(http2.DATA, stream, b"\n"))
        await asyncio.sleep(0.05)
    await _close(held)
    return f"{len(held)} bodies, a byte at a time"


async def rapid_reset(target: Target) -> str:
    """Calls that are taken back at once (CVE-2023-44487)."""
    number, connections = scaled(2000, 50_000), 5
    block = http2.call(LIST, target.metadata)
    sent = 0
    held = [await Connection.open(target.port) for _ in range(connections)]
    for one in held:
        for _ in range(number // connections):
            stream = one.stream()
            both = frame(http2.HEADERS, stream, block, http2.END_HEADERS | http2.END_STREAM)
            if not await one.send(both + frame(http2.RST_STREAM, stream, b"\0\0\0\x08")):
                break
            sent += 1
    cut = sum(1 for one in held if one.seen["goaway"] or one.seen["closed"])
    await _close(held)
    return f"{sent} resets, {cut} of {connections} connections cut"


async def floods_of_control_frames(target: Target) -> str:
    """Pings, settings and empty data that each want an answer or a look (CVE-2019-9512, 9515, 9518)."""
    number = scaled(5000, 100_000)
    sent = 0
    held = []
    for kind, payload in ((http2.PING, b"12345678"), (http2.SETTINGS, b""), (http2.DATA, b"")):
        one = await Connection.open(target.port)
        held.append(one)
        stream = 0
        if kind == http2.DATA:
            stream = one.stream()
            await one.send(frame(http2.HEADERS, stream, http2.call(LIST, target.metadata), http2.END_HEADERS))
        for _ in range(0, number, 100):
            if not await one.send(frame(kind, stream, payload) * 100):
                break
            sent += 100
    await _close(held)
    return f"{sent} frames"


async def header_bombs(target: Target) -> str:
    """Headers of megabytes, endless continuations (CVE-2024-27316), and a small block that unpacks to a large one."""
    held = []
    sent = 0
    big = http2.call(LIST, [("rime-api-key", "x" * (64 * 1024))])
    packed = http2.call(LIST) + http2.indexed_header("a", "x" * 4000) + http2.again * 10_000
    for _ in range(scaled(5, 50)):
        one = await Connection.open(target.port)
        held.append(one)
        for block in (big, packed):
            chunks = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
            stream = one.stream()
            await one.send(frame(http2.HEADERS, stream, chunks[0]))
            for chunk in chunks[1:]:
                await one.send(frame(http2.CONTINUATION, stream, chunk))
            await one.send(frame(http2.CONTINUATION, stream, b"", http2.END_HEADERS))
            sent += len(block)
        endless = await Connection.open(target.port)
        held.append(endless)
        await endless.send(frame(http2.HEADERS, 1, http2.call(LIST)))
        for _ in range(scaled(50, 500)):
            if not await endless.send(frame(http2.CONTINUATION, 1, http2.header("a", "x" * 10_000))):
                break
            sent += 10_000
    await asyncio.sleep(HOLD)
    await _close(held)
    return f"{sent / MIB:.1f} MiB of headers"


async def gzip_bombs(target: Target) -> str:
    """Messages of a few hundred KB that unpack to hundreds of MB."""
    zeros = await asyncio.to_thread(lambda: gzip.compress(bytes(scaled(100, 512) * MIB), 6))
    number = 4
    if target.name != "gRPC":
        headers = {"rime-api-key": target.key, "content-encoding": "gzip", "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{target.port}", timeout=20) as client:
            sent = [client.post("/v1/images", content=zeros, headers=headers) for _ in range(number)]
            codes = Counter(answer.status_code for answer in await asyncio.gather(*sent))
        assert set(codes) <= {400, 413, 415}, codes
        return f"{number} bodies of {len(zeros) // 1024} KiB → {dict(codes)}"
    held = [await Connection.open(target.port) for _ in range(number)]
    for one in held:
        stream = one.stream()
        block = http2.call(CREATE, [*target.metadata, ("grpc-encoding", "gzip")])
        await one.send(frame(http2.HEADERS, stream, block, http2.END_HEADERS))
        message = b"\1" + len(zeros).to_bytes(4, "big") + zeros
        for at in range(0, min(len(message), 60_000), 15_000):  # what fits the first window
            await one.send(frame(http2.DATA, stream, message[at : at + 15_000]))
    await asyncio.sleep(HOLD)
    await _close(held)
    async with aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        create: Raw = channel.unary_unary(CREATE)
        body = pb.CreateImageRequest(name="a" * (3 * MIB)).SerializeToString() * scaled(5, 50)
        calls = [
            create(body, metadata=target.metadata, compression=grpc.Compression.Gzip, timeout=20) for _ in range(number)
        ]
        codes = Counter(error.code().name for error in await asyncio.gather(*calls, return_exceptions=True))  # type: ignore[union-attr]
    assert set(codes) <= {"RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INVALID_ARGUMENT"}, codes
    return f"{number} messages that unpack to {len(body) // MIB} MiB → {dict(codes)}"


async def large_names(target: Target) -> str:
    """Names and values of a megabyte, deep JSON, and requests with as many fields as fit."""
    name = "a" * MIB
    number = scaled(8, 50)
    if target.name == "gRPC":
        wanted = [pb.ManagedImage.PipRequirement(name=f"x{i}") for i in range(100_000)]
        many = pb.CreateImageRequest(name=name, pip_requirements=wanted)
        async with aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
            create: Raw = channel.unary_unary(CREATE)
            codes: Counter[str] = Counter()
            for _ in range(number // 4):
                calls = [create(many.SerializeToString(), metadata=target.metadata, timeout=30) for _ in range(4)]
                codes.update(error.code().name for error in await asyncio.gather(*calls, return_exceptions=True))  # type: ignore[union-attr]
        assert set(codes) == {"INVALID_ARGUMENT"}, codes
        return f"{codes.total()} requests of {many.ByteSize() / MIB:.1f} MiB → {dict(codes)}"
    headers = {"rime-api-key": target.key, "content-type": "application/json"}
    deep = '{"pipRequirements":' + "[" * 400_000 + "]" * 400_000 + "}"
    objects = '{"a":' * 150_000 + "1" + "}" * 150_000
    bodies = [json.dumps({"name": name[:1_000_000]}), deep, objects, '{"name": "' + "\\u0061" * 150_000 + '"}']
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{target.port}", timeout=30) as client:
        sent = [client.post("/v1/images", content=bodies[i % 4], headers=headers) for i in range(number)]
        sent.append(client.get("/v1/images/" + "a" * 50_000, headers=headers))
        codes_ = Counter(answer.status_code for answer in await asyncio.gather(*sent))
    assert set(codes_) <= {400, 413, 414, 431}, codes_
    return f"{number} bodies of up to 1.9 MiB → {dict(codes_)}"


async def random_messages(target: Target) -> str:
    """Random and mutated protobuf bytes for every method that takes a message."""
    generator = random.Random(7)
    whole = pb.CreateImageRequest(
        name="fuzz", pip_requirements=[{"name": "numpy", "version_specifier": ">=1"}], python_version="3.12"
    ).SerializeToString()
    methods = [LIST, CREATE, "/rime.ImageRegistry/GetImage", "/rime.JobReader/ListJobs", "/rime.JobReader/GetJob"]
    methods += ["/rime.JobReader/CancelJob", "/rime.ImageRegistry/DeleteImage", "/rime.ImageRegistry/SyncImageTag"]
    codes: Counter[str] = Counter()
    async with aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        for number in range(scaled(400, 20_000)):
            data = bytearray(whole if number % 2 else generator.randbytes(generator.randrange(200)))
            for _ in range(generator.randrange(4)):
                if data:
                    data[generator.randrange(len(data))] = generator.randrange(256)
            call: Raw = channel.unary_unary(methods[number % len(methods)])
            try:
                await call(bytes(data), metadata=target.metadata)
                codes["OK"] += 1
            except aio.AioRpcError as error:
                codes[error.code().name] += 1
    unexpected = set(codes) - {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED")
    }
    assert not unexpected, codes
    return f"{codes.total()} messages → {dict(codes)}"


async def guessed_keys(target: Target) -> str:
    """Calls with made-up keys, as fast as they go."""
    number = scaled(500, 20_000)
    codes: Counter[str] = Counter()
    async with aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        create: Raw = channel.unary_unary(CREATE)

        async def guess(first: int) -> None:
            for at in range(first, number, 50):
                try:
                    await create(b"", metadata=[("rime-api-key", f"imgreg_{at:08x}_{'a' * 64}")], timeout=20)
                except aio.AioRpcError as error:
                    codes[error.code().name] += 1

        await asyncio.gather(*map(guess, range(50)))
    assert codes == {"UNAUTHENTICATED": number}
    return f"{number} guesses"


async def _close(connections: list[Connection]) -> None:
    await asyncio.gather(*(one.close() for one in connections))
