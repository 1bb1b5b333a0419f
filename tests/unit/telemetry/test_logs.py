"""Lines of the log say what they belong to, in both forms."""

import asyncio
import json
import logging
import re
import sys

from image_registry.cli.logs import CarefulHandler, ConsoleFormatter, JsonFormatter
from image_registry.telemetry import fields

KEY = "imgreg_01234567_" + "a" * 64


def line(text: str = "hello", **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("image_registry.x", logging.INFO, __file__, 1, text, None, None)
    record.__dict__.update(extra)
    return record


async def test_fields_of_a_task_are_in_its_lines_and_in_those_of_the_tasks_that_it_starts() -> None:
    async def child() -> str:
        return JsonFormatter().format(line())

    async def work() -> tuple[str, str]:
        fields.bind(job="j", attempt=2)
        fields.bind(image="vision")
        return JsonFormatter().format(line()), await asyncio.create_task(child())

    for text in await asyncio.create_task(work()):
        found = json.loads(text)
        assert (found["job"], found["attempt"], found["image"], found["message"]) == ("j", 2, "vision", "hello")
    assert "job" not in json.loads(JsonFormatter().format(line())), "another task's"


def test_a_line_of_its_own_has_its_own_fields() -> None:
    found = json.loads(JsonFormatter().format(line(fields={"method": "m", "code": "OK", "duration_ms": 1.5})))
    assert (found["method"], found["code"], found["duration_ms"]) == ("m", "OK", 1.5)
    assert found["time"].endswith("+00:00")
    assert found["level"] == "info"


def test_on_the_console_the_identity_stands_at_the_end() -> None:
    found = line("a\nb", fields={"request_id": "7", "caller": "", "code": "OK"})
    assert ConsoleFormatter().format(found)[8:] == " INFO    image_registry.x: a  [request_id=7]\nb"
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    image_registry.x: hello", ConsoleFormatter().format(line()))


def test_on_the_console_a_traceback_stands_below() -> None:
    try:
        raise ValueError("seven")  # noqa: TRY301 (for its traceback)
    except ValueError:
        failed = line(exc_info=sys.exc_info(), fields={"request_id": "7"})
    first, *rest = ConsoleFormatter().format(failed).splitlines()
    assert first.endswith("hello  [request_id=7]")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "ValueError: seven")


def test_no_key_gets_into_any_form() -> None:
    for formatter in (JsonFormatter(), ConsoleFormatter()):
        handler = CarefulHandler()
        handler.setFormatter(formatter)
        assert "a" * 20 not in handler.format(line(f"got {KEY}", fields={"request_id": KEY}))
