"""The connection pool, and the ways to use it: `read`, `write`, `write_once`.

Every database fault leaves here as a `RegistryError`; no SQLSTATE gets further up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from image_registry import deadline
from image_registry.errors import Reason, RegistryError

log = logging.getLogger(__name__)


class Connection(psycopg.AsyncConnection[DictRow]):
    """A pooled connection. `bound` is its statement timeout (ms), `generation` the pool's when it was made.

    psycopg cancels the statement whose caller is cancelled, once. A request that overtakes the statement on its way to
    the backend is lost there: here it is made again until the statement has ended.
    """

    bound: int = 0
    generation: int = 0
    _canceller: _Canceller | None = None

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 (as psycopg has it)
        """Cancel what is under way, and go on doing so until it has ended."""
        await super().cancel_safe(timeout=timeout)
        if self._canceller is None:
            self._canceller = _Canceller(super().cancel_safe)

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109
        """Wait for an answer, and for the end of requests to cancel: one on its way could hit the next statement."""
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            if self._canceller is not None:
                canceller, self._canceller = self._canceller, None
                try:
                    await canceller.end()
                except BaseException:
                    await self.close()
                    raise


class _Canceller:
    """Does `cancel` every CANCEL_INTERVAL until its end, which waits for the one under way."""

    def __init__(self, cancel: Callable[[], Awaitable[None]]) -> None:
        self._cancel = cancel
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._insist(), context=Context())

    async def end(self) -> None:
        """No request is on its way afterwards, and none follows."""
        self._over.set()
        await self._task

    async def _insist(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_INTERVAL):
                    await self._over.wait()
                    return
            with suppress(psycopg.OperationalError):  # psycopg gives the connection up after some seconds
                await self._cancel()


T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], Awaitable[T]]

TRIES = 4  # of a read or a transaction that lost its connection, or was a deadlock's victim
RETRY_AFTER = 1.0  # seconds, in RetryInfo
WAITING_PER_CONNECTION = 64  # calls that may queue for one connection before more are turned away
SHORTEST_TIMEOUT = 50  # milliseconds; deadlines below it cancel the statement by themselves
PING_SECONDS = 3.0
CANCEL_INTERVAL = 0.1  # seconds after which a statement that is to end is cancelled again
ANNOUNCE_INTERVAL = 0.05  # seconds that announcements are gathered for
# A peer that vanished without a word is noticed after some 15 seconds.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# Of a connection beside the pool: what is read, or heard, on a standby or on a primary of before may be out of date.
APART: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "target_session_attrs": "read-write",
    **KEEPALIVE,
}


class Database:
    """A pool of connections to one Postgres.

    `statement_timeout` and `wait` are seconds; a call's own deadline (`deadline.py`) shortens both.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int,
        wait: float,
        statement_timeout: float,
        connection_class: type[Connection] = Connection,
    ) -> None:
        self._dsn = dsn
        self._wait = wait
        self._longest = int(statement_timeout * 1000)
        self._generation = 0  # of the pool's connections: a new one begins when one is lost
        self._followers: set[Callable[[], None]] = set()
        self._monitor: psycopg.AsyncConnection[Any] | None = None
        self._answers = True
        self._news: set[str] = set()
        self._announcer: asyncio.Task[None] | None = None
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            connection_class=connection_class,
            min_size=min(2, size),
            max_size=size,
            max_waiting=size * WAITING_PER_CONNECTION,
            timeout=wait,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True, "row_factory": dict_row, "connect_timeout": 5, **KEEPALIVE},
            reconnect_timeout=0.5,
        )

    async def open(self) -> None:
        """Start the pool. Returns at once: whether the database answers is seen by `ping`."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        if self._announcer:
            self._announcer.cancel()
        if self._monitor:
            await self._monitor.close()
        await self._pool.close(timeout=2.0)

    async def ping(self) -> None:
        """One round trip, on a connection of its own: a busy pool is no lost database.

        Raises RegistryError DATABASE_UNAVAILABLE if there is no answer.
        """
        try:
            with _translated():
                came_back = await self._reach(asyncio.get_running_loop().time() + PING_SECONDS)
        except RegistryError:
            self._answers = False
            raise
        if came_back:
            self._answers = True
            await self._renew_pool()

    @property
    def answers(self) -> bool:
        """Whether the last `ping` had an answer."""
        return self._answers

    def pool_stats(self) -> dict[str, int]:
        """The pool's figures (psycopg_pool, "Pool stats"); those that are 0 may be missing. From any thread."""
        return self._pool.get_stats()

    async def _reach(self, until: float) -> bool:
        """Ask on the monitor's connection, on a new one if that was lost. Returns whether the database was away.

        psycopg cancels the statement of a caller that gives up, and waits for its end for seconds: so the connection
        ends under it.
        """
        away = not self._answers
        if self._monitor is not None:
            end = asyncio.get_running_loop().call_at(until, _hang_up, self._monitor)
            try:
                await self._monitor.execute("select 1")
            except psycopg.OperationalError:
                away = True
                await self._monitor.close()
            else:
                return away
            finally:
                end.cancel()
        self._monitor = None
        async with asyncio.timeout_at(until):
            self._monitor = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, **KEEPALIVE)
        return away

    async def read(self, work: Work[T]) -> T:
        """Run reads in autocommit. They are repeated when their connection was lost."""
        with _translated():
            for tries_left in reversed(range(TRIES)):
                try:
                    async with self._connection() as conn:
                        return await work(conn)
                except psycopg.OperationalError as error:
                    if not (tries_left and _is_lost(error)):
                        raise
            raise AssertionError("unreachable")  # pragma: no cover (the last try returns or raises)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction: all of it or nothing.

        Repeated when nothing can have been committed: it was a deadlock's victim, or the connection was lost before
        the commit was sent. An outcome that is unknown is an error.
        """
        with _translated():
            for tries_left in reversed(range(TRIES)):
                committing = False
                try:
                    async with self._connection() as conn, conn.transaction():
                        result = await work(conn)
                        committing = True
                    return result  # noqa: TRY300 (an `else` can't see that the commit is over)
                except (pg.DeadlockDetected, pg.SerializationFailure):
                    if not tries_left:
                        raise
                except psycopg.OperationalError as error:
                    if committing or not (tries_left and _is_lost(error)):
                        raise
            raise AssertionError("unreachable")  # pragma: no cover (the last try returns or raises)

    async def write_once(self, work: Work[T]) -> T:
        """Run `work`, which is a single statement and so a transaction by itself; never repeated."""
        with _translated():
            async with self._connection() as conn:
                return await work(conn)

    def announce(self, channel: str) -> None:
        """Tell those who `listen` that there is news: soon, and once for many calls.

        Not part of the caller's transaction, since commits with a NOTIFY queue for one lock (it halves the creates a
        second). It can be lost with this process: listeners have to look by themselves from time to time.
        """
        self._news.add(channel)
        if self._announcer is None or self._announcer.done():
            self._announcer = asyncio.create_task(self._send_news(), context=Context())

    async def _send_news(self) -> None:
        while self._news:
            channels, self._news = sorted(self._news), set()
            with suppress(RegistryError):
                await self.read(lambda conn, c=channels: conn.execute(_NOTIFY, [c]))  # type: ignore[misc]
            await asyncio.sleep(ANNOUNCE_INTERVAL)

    def follow(self, leave: Callable[[], None]) -> None:
        """Call `leave` whenever the pool leaves its server: one that can't be written to any more, or was lost."""
        self._followers.add(leave)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Notifications' payloads on a connection of their own. Raises psycopg.OperationalError when it breaks.

        It breaks, too, when the pool leaves its server.
        """
        conn = await psycopg.AsyncConnection.connect(self._dsn, **APART)
        leave = partial(_hang_up, conn)
        self.follow(leave)
        try:
            async with conn:
                await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                async with aclosing(conn.notifies()) as notices:  # unclosed, it would hold the connection's lock
                    yield (notice.payload async for notice in notices)
        finally:
            self._followers.discard(leave)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection whose statements end with the call's deadline."""
        left = deadline.remaining()
        if left is not None and left <= 0:
            raise _deadline_exceeded()
        try:
            conn = await self._pool.getconn(self._wait if left is None else min(left, self._wait))
        except PoolTimeout as error:
            raise _deadline_exceeded() if left is not None and left <= self._wait else self._no_connection() from error
        try:
            await _bind(conn, self._timeout(left))
            yield conn
        except pg.ReadOnlySqlTransaction:  # a primary that became a standby: look for the new one
            await conn.close()
            raise
        finally:
            if conn.closed and conn.generation == self._generation:
                await self._renew_pool()
            await self._pool.putconn(conn)

    async def _renew_pool(self) -> None:
        """Make new connections for those that are idle, and for those in use when they come back.

        One loss most often means that all were lost: this way a restart costs no call for each of them. The check
        makes the pool connect for those who wait already.
        """
        self._generation += 1
        for leave in tuple(self._followers):
            leave()
        await self._pool.drain()
        await self._pool.check()

    def _timeout(self, left: float | None) -> int:
        """The statement timeout for what is left, in milliseconds: `statement_timeout` halved as often as it fits.

        Few different values, so that connections seldom have to be told another. The rest is exact already: a call
        whose deadline passes is cancelled by gRPC, and psycopg cancels the statement under way.
        """
        limit = self._longest
        while left is not None and limit >= 2 * max(left * 1000, SHORTEST_TIMEOUT):
            limit //= 2
        return limit

    def _no_connection(self) -> RegistryError:
        if self._answers:
            return RegistryError(Reason.OVERLOADED, "no database connection came free in time", retry_after=RETRY_AFTER)
        return _unavailable()

    async def _configure(self, conn: Connection) -> None:
        await _bind(conn, self._longest)
        await conn.execute(_MAKE_ROOM)
        conn.generation = self._generation


# libpq's buffer begins with 16 KiB and grows with the longest value: in 128 KiB a large page comes in an eighth of the
# reads, each a turn of the event loop, for half of the processor time.
_MAKE_ROOM = "select repeat(' ', 128 << 10)"
_NOTIFY = "select pg_notify(channel, '') from unnest(%s::text[]) as channel"


async def _bind(conn: Connection, milliseconds: int) -> None:
    if conn.bound != milliseconds:
        await conn.execute("select set_config('statement_timeout', %s, false)", [str(milliseconds)])
        conn.bound = milliseconds


def _hang_up(conn: psycopg.AsyncConnection[Any]) -> None:
    """End a connection for who waits on it: with an error, at once, whatever the server does."""
    with suppress(psycopg.OperationalError, OSError), socket.socket(fileno=os.dup(conn.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _is_lost(error: psycopg.OperationalError) -> bool:
    """Whether the connection broke, or the server took it away; neither is an answer to the statement."""
    if error.sqlstate is None:
        return not isinstance(error, PoolTimeout | TooManyRequests | PoolClosed)
    return error.sqlstate.startswith("57P")  # operator intervention: shutdown, crash, starting up


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TooManyRequests as error:
        raise RegistryError(
            Reason.OVERLOADED, "too many calls are waiting for the database", retry_after=RETRY_AFTER
        ) from error
    except pg.QueryCanceled as error:
        raise _deadline_exceeded() from error
    except (psycopg.OperationalError, pg.ReadOnlySqlTransaction, TimeoutError) as error:
        log.warning("database: %s", (str(error).splitlines() or [type(error).__name__])[0])
        raise _unavailable() from error


def _unavailable() -> RegistryError:
    return RegistryError(
        Reason.DATABASE_UNAVAILABLE, "the database does not answer at the moment", retry_after=RETRY_AFTER
    )


def _deadline_exceeded() -> RegistryError:
    return RegistryError(Reason.DEADLINE_EXCEEDED, "the deadline passed before the database had answered")


def describe_dsn(dsn: str) -> str:
    """Where a DSN points, without its password: for logs and errors."""
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "the configured database URL (it can't be read as a Postgres address)"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
