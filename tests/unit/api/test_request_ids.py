"""A call's request id: its caller's if it can stand anywhere, else one of our own."""

import contextvars
from typing import Any

import pytest

from image_registry.api.request_ids import request_id
from image_registry.telemetry import fields

KEY = "imgreg_01234567_" + "a" * 64


class Call:
    """As much of a call's context as is looked at."""

    def __init__(self, *ids: str | bytes) -> None:
        self._ids = ids

    def invocation_metadata(self) -> Any:
        return [("other", "x"), *(("x-request-id", one) for one in self._ids)]


def asked(*ids: str | bytes) -> tuple[str, str]:
    """The id as told, and as the log's lines have it."""

    def ask() -> tuple[str, str]:
        call: Any = Call(*ids)
        first = request_id(call)
        assert request_id(call) == first, "one call has one id"
        return first, str(fields.bound()["request_id"])

    return contextvars.Context().run(ask)


@pytest.mark.parametrize("sent", ["a", "0198c0de-0000-7000-8000-000000000001", "x" * 128, "run:7/step=2@ci+1"])
def test_a_well_formed_id_is_taken(sent: str) -> None:
    assert asked(sent) == (sent, sent)


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129, "é", "a\n", "-a", '"', KEY, b"a"])
def test_anything_else_gets_an_id_of_our_own(sent: str | bytes) -> None:
    told, logged = asked(sent)
    assert told == logged
    assert len(told) == 32
    assert int(told, 16)


def test_none_or_several_get_one_of_our_own() -> None:
    assert len({asked()[0], asked()[0], asked("a", "b")[0]}) == 3
