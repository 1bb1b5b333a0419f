"""The health service: one answer for everything that is served, whoever asks and however long they listen."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from image_registry.api.health import Health

SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING


def watch(health: Health, service: str) -> AsyncIterator[Any]:
    return health.Watch(pb.HealthCheckRequest(service=service), None).__aiter__()  # type: ignore[arg-type]


async def check(health: Health, service: str) -> int:
    return (await health.Check(pb.HealthCheckRequest(service=service), None)).status  # type: ignore[arg-type]


async def test_it_tells_and_keeps_telling() -> None:
    health = Health(["rime.ImageRegistry"])
    watchers = [watch(health, name) for name in ("", "rime.ImageRegistry")]
    assert [(await anext(one)).status for one in watchers] == [NOT_SERVING] * 2
    health.set_serving(True)
    assert [(await anext(one)).status for one in watchers] == [SERVING] * 2
    assert await check(health, "rime.ImageRegistry") == SERVING
    health.leave()
    assert [(await anext(one)).status for one in watchers] == [NOT_SERVING] * 2
    health.set_serving(True)
    assert await check(health, "") == NOT_SERVING


async def test_a_watch_ends_with_the_server_after_its_last_word() -> None:
    health = Health(["a"])
    health.set_serving(True)
    informed, late = watch(health, "a"), watch(health, "a")
    await anext(informed)
    health.leave()
    assert (await anext(informed)).status == NOT_SERVING
    health.close()
    assert [answer.status async for answer in informed] == []
    assert [answer.status async for answer in late] == [NOT_SERVING]


async def test_a_watcher_that_does_not_read_holds_nobody_up() -> None:
    health = Health(["a"])
    slow, quick = watch(health, "a"), watch(health, "a")
    await anext(slow)
    await anext(quick)
    for serving in (True, False, True):
        health.set_serving(serving)
        assert (await anext(quick)).status == (SERVING if serving else NOT_SERVING)
    assert (await anext(slow)).status == SERVING  # what was between is left out


async def test_made_up_names_leave_nothing_behind() -> None:
    health = Health(["a"])
    watchers = [watch(health, f"made up {number}") for number in range(100)]
    for one in watchers:
        assert (await anext(one)).status == pb.HealthCheckResponse.SERVICE_UNKNOWN
    waiting = asyncio.ensure_future(anext(watchers[0]))
    health.set_serving(True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    assert not any("made up" in repr(value) for value in vars(health).values())
