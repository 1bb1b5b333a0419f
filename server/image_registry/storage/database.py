"""The connection pool, and the only two ways to use it: `read` and `write`.

Every database fault leaves here as a `RegistryError`; no SQLSTATE gets further up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from image_registry import deadline
from image_registry.errors import Reason, RegistryError

log = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.AsyncConnection[DictRow]
T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], Awaitable[T]]

DEADLOCK_TRIES = 4
RETRY_AFTER = 1.0  # seconds, in RetryInfo
WAITING_PER_CONNECTION = 64  # calls that may queue for one connection before more are turned away


class Database:
    """A pool of connections to one Postgres.

    `statement_timeout` and `wait` are seconds; a call's own deadline (`deadline.py`) shortens both.
    """

    def __init__(self, dsn: str, *, size: int, wait: float, statement_timeout: float) -> None:
        self._statement_timeout = statement_timeout
        self._wait = wait
        self._checking: asyncio.Task[None] | None = None
        self._dsn = dsn
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=min(2, size),
            max_size=size,
            max_waiting=size * WAITING_PER_CONNECTION,
            timeout=wait,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 5},
            reconnect_timeout=0.5,
        )

    async def open(self) -> None:
        """Start the pool. Returns at once: whether the database answers is seen by `ping`."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        if self._checking:
            self._checking.cancel()
        await self._pool.close(timeout=2.0)

    async def ping(self) -> None:
        """One round trip. Raises RegistryError (DATABASE_UNAVAILABLE, OVERLOADED) if there is no answer."""
        await self.read(lambda conn: conn.execute("select 1"))

    async def read(self, work: Work[T]) -> T:
        """Run point reads in autocommit. A broken connection is replaced once: reads may be repeated."""
        with _translated():
            try:
                return await self._read(work)
            except psycopg.OperationalError as error:
                if isinstance(error, pg.QueryCanceled | PoolTimeout | TooManyRequests):
                    raise
                self._check_pool()
                return await self._read(work)

    async def _read(self, work: Work[T]) -> T:
        limit = self._limit()
        async with self._pool.connection(self._patience()) as conn:
            if limit is None:
                return await work(conn)
            async with conn.transaction():
                await _bound(conn, limit)
                return await work(conn)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction: all of it or nothing.

        Repeated when Postgres chose it as a deadlock's victim and when the connection was already dead
        before anything was sent, never after the outcome could be unknown.
        """
        with _translated():
            for tries_left in reversed(range(DEADLOCK_TRIES)):
                begun = False
                try:
                    async with self._pool.connection(self._patience()) as conn, conn.transaction():
                        begun = True
                        if (limit := self._limit()) is not None:
                            await _bound(conn, limit)
                        return await work(conn)
                except (pg.DeadlockDetected, pg.SerializationFailure):
                    if not tries_left:
                        raise
                except psycopg.OperationalError as error:
                    self._check_pool()
                    if begun or not tries_left or isinstance(error, PoolTimeout | TooManyRequests):
                        raise
            raise AssertionError("unreachable: the last try returns or raises")

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Notifications' payloads on a connection of their own. Raises psycopg.OperationalError when it breaks."""
        conn = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, connect_timeout=5, keepalives_idle=10, keepalives_interval=5, keepalives_count=3
        )
        async with conn:
            await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            yield (notice.payload async for notice in conn.notifies())

    async def _configure(self, conn: Connection) -> None:
        milliseconds = int(self._statement_timeout * 1000)
        await conn.execute("select set_config('statement_timeout', %s, false)", [str(milliseconds)])

    def _limit(self) -> float | None:
        left = deadline.remaining()
        return None if left is None or left >= self._statement_timeout else left

    def _patience(self) -> float:
        left = deadline.remaining()
        return self._wait if left is None else max(0.001, min(left, self._wait))

    def _check_pool(self) -> None:
        """After one broken connection look at all idle ones, so that a restart costs each of them no call."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_quietly())

    async def _check_quietly(self) -> None:
        with suppress(psycopg.Error):
            await self._pool.check()


async def _bound(conn: Connection, seconds: float) -> None:
    milliseconds = max(1, int(seconds * 1000))
    await conn.execute("select set_config('statement_timeout', %s, true)", [str(milliseconds)])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TooManyRequests as error:
        raise RegistryError(
            Reason.OVERLOADED, "too many calls are waiting for the database", retry_after=RETRY_AFTER
        ) from error
    except PoolTimeout as error:
        if (left := deadline.remaining()) is not None and left <= 0:
            raise _deadline_exceeded() from error
        raise RegistryError(
            Reason.DATABASE_UNAVAILABLE, "no database connection came free in time", retry_after=RETRY_AFTER
        ) from error
    except pg.QueryCanceled as error:
        raise _deadline_exceeded() from error
    except psycopg.OperationalError as error:
        log.warning("database: %s", _first_line(error))
        raise RegistryError(
            Reason.DATABASE_UNAVAILABLE, "the database does not answer at the moment", retry_after=RETRY_AFTER
        ) from error


def _deadline_exceeded() -> RegistryError:
    return RegistryError(Reason.DEADLINE_EXCEEDED, "the deadline passed before the database had answered")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def describe_dsn(dsn: str) -> str:
    """Where a DSN points, without its password: for logs and errors."""
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "the configured database URL (it can't be read as a Postgres address)"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
