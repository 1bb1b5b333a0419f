"""A build's log while the database stumbles: no line is lost, and none comes twice."""

import asyncio
from typing import Any

import pytest

from image_registry.errors import Reason, RegistryError
from image_registry.worker import progress
from image_registry.worker.progress import Progress

AWAY = RegistryError(Reason.DATABASE_UNAVAILABLE, "the database does not answer")


class Database:
    """Builds and logs in one: what was appended, after the errors that are to come first."""

    def __init__(self, *errors: Exception, slow: bool = False) -> None:
        self.errors = list(errors)
        self.slow = slow
        self.text = ""
        self.began = asyncio.Event()

    async def set_progress(self, _job: Any, _line: str) -> None:
        """Nothing."""

    async def append(self, _job: Any, text: str) -> None:
        self.began.set()
        if self.errors:
            raise self.errors.pop()
        if self.slow:
            await asyncio.sleep(0.2)
        self.text += text


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.01)


def follow(database: Database) -> Progress:
    followed: Any = database
    return Progress(followed, followed, followed)


def said(database: Database) -> list[str]:
    return [line.split(" ", 1)[1] for line in database.text.splitlines()]


@pytest.mark.parametrize("error", [AWAY, LookupError("unforeseen")])
async def test_lines_of_a_failed_write_come_with_the_next(error: Exception) -> None:
    database = Database(error)
    followed = follow(database)
    followed.note("one")
    followed._news.set()
    await database.began.wait()
    followed.note("two")
    followed.failed("the cause")
    await followed.close()
    assert said(database) == ["one", "two", "failed: the cause"]


async def test_the_end_waits_for_the_write_under_way() -> None:
    database = Database(slow=True)
    followed = follow(database)
    followed.note("one")
    followed._news.set()
    await database.began.wait()
    followed.note("two")
    await followed.close()
    assert said(database) == ["one", "two"]


async def test_the_end_of_a_log_that_cannot_be_written_is_the_end_of_the_log_alone() -> None:
    followed = follow(Database(LookupError("unforeseen")))
    followed.note("one")
    await followed.close()


async def test_what_the_database_takes_in_no_text_is_replaced() -> None:
    database = Database()
    followed = follow(database)
    followed.note("a\0b\udc80c")
    await followed.close()
    assert said(database) == ["a\N{REPLACEMENT CHARACTER}b?c"]
