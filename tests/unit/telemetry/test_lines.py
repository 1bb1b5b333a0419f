"""Lines that leave together are one write, and nobody else's come between."""

import io
import logging
import threading
from collections.abc import Iterator

import pytest

from image_registry.telemetry import lines

log = logging.getLogger("image_registry.x")


class Writes(io.StringIO):
    """Notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


class Broken(io.StringIO):
    """The other end is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def handler() -> Iterator[logging.StreamHandler[io.StringIO]]:
    handler: logging.StreamHandler[io.StringIO] = logging.StreamHandler(Writes())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def written(out: io.StringIO) -> list[str]:
    assert isinstance(out, Writes)
    return out.writes


def test_many_are_one_write(handler: logging.StreamHandler[io.StringIO]) -> None:
    out = handler.stream
    log.info("before")
    with lines.together():
        log.info("one")
        log.info("two")
        assert written(out) == ["before\n"]
    log.info("after")
    assert written(out) == ["before\n", "one\ntwo\n", "after\n"]


def test_what_was_said_before_a_fault_is_written(handler: logging.StreamHandler[io.StringIO]) -> None:
    def work() -> None:
        with lines.together():
            log.info("one")
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        work()
    assert written(handler.stream) == ["one\n"]


def test_another_threads_line_stands_before_or_behind(handler: logging.StreamHandler[io.StringIO]) -> None:
    other = threading.Thread(target=log.info, args=["other"])
    with lines.together():
        log.info("one")
        other.start()
        other.join(0.2)
        assert other.is_alive(), "it waits"
        log.info("two")
    other.join(5)
    assert written(handler.stream) == ["one\ntwo\n", "other\n"]


def test_nobody_reading_ends_nothing(handler: logging.StreamHandler[io.StringIO]) -> None:
    good, handler.stream = handler.stream, Broken()
    with lines.together():
        log.info("lost")
    handler.stream = good
    log.info("later")
    assert written(handler.stream) == ["later\n"]
