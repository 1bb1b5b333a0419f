"""The event loop stays awake for calls that are answered in a moment, and for nothing longer."""

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from image_registry.api import wakefulness
from image_registry.api.methods import Methods
from image_registry.api.wakefulness import MOST_LEFT_OUT, Wakefulness


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each turn of the loop that didn't wait for anything."""
    seen: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: seen.append(None))
    return seen


async def test_it_is_awake_from_the_call_to_its_answer(monkeypatch: pytest.MonkeyPatch, turns: list[None]) -> None:
    monkeypatch.setattr(wakefulness, "AWAKE_SECONDS", 60)
    awake = Wakefulness()
    awake.begin()
    await asyncio.sleep(0.01)
    assert len(turns) > 10
    awake.end()
    await asyncio.sleep(0.01)
    turns.clear()
    await asyncio.sleep(0.01)
    assert turns == []


async def test_one_call_behind_the_other_turns_the_loop_once(
    monkeypatch: pytest.MonkeyPatch, turns: list[None]
) -> None:
    monkeypatch.setattr(wakefulness, "AWAKE_SECONDS", 60)
    awake = Wakefulness()
    for _ in range(5):  # the loop has no turn between them
        awake.begin()
        awake.end()
    awake.begin()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(turns) <= 10


async def test_a_call_that_takes_longer_is_waited_for_asleep(turns: list[None]) -> None:
    awake = Wakefulness()
    awake.begin()
    await asyncio.sleep(0.05)
    assert not awake.awake
    turns.clear()
    await asyncio.sleep(0.01)
    assert turns == []


async def test_after_calls_that_took_longer_more_and_more_are_left_out(
    monkeypatch: pytest.MonkeyPatch, turns: list[None]
) -> None:
    awake = Wakefulness()

    async def left_out() -> int:
        """How many calls it sleeps through until it stays awake for one, in vain."""
        slept = 0
        with monkeypatch.context() as patched:
            patched.setattr(wakefulness, "AWAKE_SECONDS", -1)
            while True:
                awake.begin()
                if awake.awake:
                    break
                awake.end()
                slept += 1
            await asyncio.sleep(0)  # the one turn that it had
        return slept

    assert [await left_out() for _ in range(9)] == [0, 1, 3, 7, 15, 31, 63, 127, MOST_LEFT_OUT]
    for _ in range(MOST_LEFT_OUT + 1):
        awake.begin()
    awake.end()  # one that was answered in time: all is forgotten
    assert await left_out() == 0


async def test_another_calls_answer_is_not_the_ones_that_it_is_awake_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy server, whose calls all take longer, would never leave any out."""
    monkeypatch.setattr(wakefulness, "AWAKE_SECONDS", 60)
    awake = Wakefulness()
    awake.begin()

    async def other() -> None:
        awake.begin()
        awake.end()

    await asyncio.create_task(other())
    assert awake.awake
    awake.end()
    assert not awake.awake


async def test_a_refused_call_ends_too() -> None:
    awake = Wakefulness()

    async def refuse(_request: Any, _context: Any) -> None:
        raise LookupError

    behaviour: Any = awake.around(grpc.unary_unary_rpc_method_handler(refuse)).unary_unary
    awake.begin()
    with pytest.raises(LookupError):
        await behaviour(None, None)
    assert not awake.awake


@pytest.mark.parametrize(("method", "stays"), [("GetImage", True), ("ListImages", False), ("Unknown", False)])
async def test_which_calls_it_stays_awake_for(method: str, stays: bool) -> None:
    async def answer(_request: Any, _context: Any) -> bytes:
        return method.encode()

    awake = Wakefulness()
    unknown: Any = grpc.unary_unary_rpc_method_handler(answer)
    methods = Methods(lambda handler, _: handler, unknown=unknown, wakefulness=awake)
    methods.add_registered_method_handlers(
        "rime.ImageRegistry",
        {name: grpc.unary_unary_rpc_method_handler(answer) for name in ("GetImage", "ListImages")},
    )
    handler: Any = methods.service(SimpleNamespace(method=f"/rime.ImageRegistry/{method}"))
    assert awake.awake == stays
    assert await handler.unary_unary(None, None) == method.encode()
    assert not awake.awake
