"""Creates of users' images, gathered: one statement, and so one commit, for all that came at about the same time.

A lone create waits for nobody, and so does the next of a caller that sends one after the other. With many callers a
statement leaves when the last one is over and as many creates wait as are expected, or after a pause (see `pacing.py`).
Each caller gets its own answer, and what may be another's fault is tried again in halves.

A statement that timed out most often waited for a name that another transaction holds. Its creates are tried again one
after the other, each waiting for 100 ms at most: those at no fault are written 0.1 s after the statement's timeout for
each held name before theirs, 3.1 s at most, if their callers have that much time.

Names go in order within a statement, so that two of them never wait for each other. Measurements are in
docs/performance.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from image_registry import deadline
from image_registry.errors import Reason, RegistryError
from image_registry.models import CreatedImage, Priority, StoredJob
from image_registry.storage import images
from image_registry.storage.create_requests import KnownRequestError
from image_registry.storage.database import RETRY_AFTER, WAITING_PER_CONNECTION, Connection, Database
from image_registry.storage.images import NewImageRow
from image_registry.storage.pacing import Pace
from image_registry.telemetry import tracing

STATEMENTS = 2  # under way at once: one that waits for a name holds up those who share it, and no others
# Seconds from a statement to the next while several creates share them: for each of those expected, and at most. The
# former is somewhat longer than a busy server takes for a create.
EACH, LONGEST = 0.001, 0.02
LARGEST_BATCH = 32  # creates of one statement: while the database writes them, the server takes the next ones in
# A create that is tried again since its statement timed out: how long it may wait for what another transaction holds.
_WAIT_BRIEFLY = "set local lock_timeout = '100ms'"
MOST_WAITING = WAITING_PER_CONNECTION * LARGEST_BATCH  # creates: as many statements as may queue for a connection


class NoCurrentBaseError(Exception):
    """The system image isn't there at the current tag, or is FAILED: nothing was written."""


class NameTakenError(Exception):
    """An image of that name is there: nothing was written."""


@dataclass(slots=True, eq=False)
class _Waiting:
    row: NewImageRow
    left: float | None  # seconds, when it came
    came: float = field(default_factory=time.monotonic)
    answer: asyncio.Future[CreatedImage] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    statement: str = ""  # the span of the statement that it shared with others


class ImageCreates:
    """Writes new users' images with their first builds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._gathering: deque[_Waiting] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._pace = Pace(each=EACH, longest=LONGEST)
        self._timer: asyncio.TimerHandle | None = None

    async def create(self, row: NewImageRow) -> CreatedImage:
        """Write one; returns when it is committed.

        Raises NoCurrentBaseError, NameTakenError, KnownRequestError, RegistryError. A caller that is gone before its
        statement began leaves nothing behind. While no connection comes free, nobody waits for longer than twice what
        the pool lets a call wait; who comes when MOST_WAITING wait already is turned away at once.
        """
        if len(self._gathering) >= MOST_WAITING:
            self._make_room()
        waiting = _Waiting(row, deadline.remaining())
        self._gathering.append(waiting)
        self._let_leave()
        if not tracing.active():
            return await waiting.answer
        attributes = {"db.system.name": "postgresql"}
        with tracing.span("images.create", kind=tracing.Kind.CLIENT, attributes=attributes) as span:
            try:
                return await waiting.answer
            except (NoCurrentBaseError, NameTakenError, KnownRequestError) as error:
                refused = error  # an answer like any other: the span hasn't failed
            finally:
                span.link(waiting.statement)
        raise refused

    def _let_leave(self) -> None:
        """Send the statement that is due, or look again when it will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._gathering and len(self._writing) < STATEMENTS:
            wait = self._pace.wait(self._who_count(), loop.time())
            if wait > 0 and len(self._gathering) < LARGEST_BATCH:
                self._timer = loop.call_later(wait, self._let_leave)
                return
            if batch := self._next_batch():
                self._pace.left(len(batch), loop.time())
                task = loop.create_task(self._write_in_time(batch), context=Context())
                self._writing.add(task)
                task.add_done_callback(self._end)

    def _who_count(self) -> int:
        """Who wait; none while a statement is under way, since those in it come again when it is over."""
        return 0 if self._writing else len(self._gathering)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        self._let_leave()

    def _make_room(self) -> None:
        self._gathering = deque(waiting for waiting in self._gathering if not waiting.answer.done())
        if len(self._gathering) >= MOST_WAITING:
            message = "too many creates are waiting for the database"
            raise RegistryError(Reason.OVERLOADED, message, retry_after=RETRY_AFTER)

    async def _write_in_time(self, batch: Sequence[_Waiting]) -> None:
        began = time.monotonic()
        deadline.set_remaining(_longest(batch))
        try:
            await self._write(batch)
        except RegistryError as error:  # no connection to be had: neither for those who have waited as long
            _fail(batch, error)
            while self._gathering and self._gathering[0].came <= began:
                _fail([self._gathering.popleft()], error)
        except BaseException as error:
            _fail(batch, error if isinstance(error, Exception) else RuntimeError("the server stops"))
            raise

    def _next_batch(self) -> list[_Waiting]:
        """Those who still wait, no name and no id of a request twice; who comes with another's comes next time."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        names: set[str] = set()
        requests: set[tuple[str, str]] = set()
        while self._gathering and len(batch) < LARGEST_BATCH:
            waiting = self._gathering.popleft()
            if waiting.answer.done():
                continue
            name, request = waiting.row.name, waiting.row.request
            key = None if request is None else (request.creator, request.request_id)
            if name in names or key in requests:
                later.append(waiting)
                continue
            batch.append(waiting)
            names.add(name)
            if key is not None:
                requests.add(key)
        self._gathering.extendleft(reversed(later))
        return batch

    async def _write(self, batch: Sequence[_Waiting], late: RegistryError | None = None) -> None:
        """Write them and answer each. With `late` it is one that was in a statement that ended with that error.

        Raises RegistryError, without an answer to some, if no connection came free.
        """
        try:
            if len(batch) > 1:
                await self._write_several(batch)
            elif late is None:
                await self._write_one(batch[0])
            else:
                await self._write_unless_held(batch[0], late)
        except RegistryError as error:
            if _is_the_pools(error):
                raise
            if len(batch) > 1 and error.reason is Reason.DEADLINE_EXCEEDED:  # nothing was written
                for waiting in batch:
                    if not waiting.answer.done():
                        await self._write([waiting], error)
            else:  # the database's state, not one row's fault: the same for all
                _fail(batch, error)
        except (psycopg.Error, KnownRequestError) as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:  # nothing was written: whose fault it is is found by halves
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])

    async def _write_one(self, waiting: _Waiting) -> None:
        _answer_one(waiting, *await self._db.write_once(lambda conn: _create(conn, waiting)))

    async def _write_unless_held(self, waiting: _Waiting, late: RegistryError) -> None:
        async def create(conn: Connection) -> tuple[int | None, StoredJob | None]:
            await conn.execute(_WAIT_BRIEFLY)
            try:
                return await _create(conn, waiting)
            except pg.LockNotAvailable as error:
                raise late from error

        _answer_one(waiting, *await self._db.write(create))

    async def _write_several(self, batch: Sequence[_Waiting]) -> None:
        span = _begin_statement(batch)
        try:
            await self._write_rows(batch)
        except BaseException as error:
            span.end(type(error).__name__)
            raise
        span.end()

    async def _write_rows(self, batch: Sequence[_Waiting]) -> None:
        rows = [waiting.row for waiting in batch]
        found = await self._db.write_once(lambda conn: images.create_several(conn, rows, priority=Priority.INTERACTIVE))
        for waiting in batch:
            _answer(waiting, *found[waiting.row.name])


def _begin_statement(batch: Sequence[_Waiting]) -> tracing.Span:
    """The span of a statement for several calls: in no call's trace, so each call's own span is linked with it."""
    if not any(tracing.is_recorded(waiting.row.traceparent) for waiting in batch):
        return tracing.NOTHING
    attributes: dict[str, tracing.Attribute] = {"db.system.name": "postgresql", "image_registry.creates": len(batch)}
    name = "images.create_several"
    span = tracing.begin(name, kind=tracing.Kind.CLIENT, parent={}, attributes=attributes, current=False)
    for waiting in batch:
        waiting.statement = span.traceparent()
    return span


def _create(conn: Connection, waiting: _Waiting) -> Awaitable[tuple[int | None, StoredJob | None]]:
    return images.create_on_current_base(conn, waiting.row, priority=Priority.INTERACTIVE)


def _answer_one(waiting: _Waiting, base_id: int | None, job: StoredJob | None) -> None:
    found = None if job is None else (job.uuid, job.created_at)
    _answer(waiting, has_base=base_id is not None, job=found)


def _answer(waiting: _Waiting, has_base: bool, job: images.NewJob | None) -> None:
    if waiting.answer.done():
        return
    if not has_base:
        waiting.answer.set_exception(NoCurrentBaseError())
    elif job is None:
        waiting.answer.set_exception(NameTakenError())
    else:
        uuid, created_at = job
        waiting.answer.set_result(CreatedImage(waiting.row.definition, uuid, created_at))


def _longest(batch: Sequence[_Waiting]) -> float | None:
    """Seconds until nobody waits any more; None: somebody has no deadline."""
    ends = [None if waiting.left is None else waiting.came + waiting.left for waiting in batch]
    return None if None in ends else max(end for end in ends if end is not None) - time.monotonic()


def _is_the_pools(error: RegistryError) -> bool:
    """Whether the statement never began for lack of a connection, though there was time to wait for one."""
    lacked = isinstance(error.__cause__, PoolTimeout | TooManyRequests)
    return lacked and error.reason is not Reason.DEADLINE_EXCEEDED


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(copy.copy(error))  # raised in several tasks, one would gather all tracebacks
