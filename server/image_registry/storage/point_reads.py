"""Answers many reads by key with few statements, on one connection that is used by nothing else.

A read that arrives while a statement is under way waits for its end, and then goes out with all others that came
meanwhile. While several share a statement the next one waits a little for as many (`storage/pacing.py`); a lone call
waits for nobody. What a read returns was committed after the read arrived, as with a statement of its own.

This is an accelerator, and never the only way: whenever it can't answer (no connection, a statement that failed or
took too long), `fetch` raises Unavailable at once and the caller reads through the pool, whose rules for lost
connections, deadlines and errors then hold. Measurements are in docs/performance.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from itertools import islice
from typing import LiteralString, TypeAlias

import psycopg
from psycopg import pq, sql

from image_registry.storage import arrays
from image_registry.storage.database import APART
from image_registry.storage.pacing import Pace

log = logging.getLogger(__name__)

Row: TypeAlias = tuple[bytes, ...]
Waiting: TypeAlias = dict[bytes, list["asyncio.Future[Row | None]"]]

LARGEST_BATCH = 64  # keys of one statement
# Seconds from a statement to the next while several callers share them: for each of those expected, and at most. The
# former is somewhat longer than a busy server takes for a call.
EACH, LONGEST = 0.0003, 0.004
STATEMENT_SECONDS = 1.0  # longest statement; reads by key take a few milliseconds at most
ANSWER_SECONDS = 3.0  # after it a silent connection is given up
_NAME = b"point_read"
_BINARY = 1
_TIMED_OUT = b"57014"


class Unavailable(Exception):  # noqa: N818
    """No answer this way at the moment: read through the pool."""


class PointReads:
    """Reads by one text key.

    `statement` takes an array of keys as its only parameter and returns the key itself in its first column; the
    other columns are returned as Postgres sends them in binary.
    """

    def __init__(self, dsn: str, statement: LiteralString) -> None:
        self._dsn = dsn
        self._statement = statement
        self._keeper: asyncio.Task[None] | None = None
        self._link: _Link | None = None
        self._lost = asyncio.Event()  # the connection, or the one being made

    async def __aenter__(self) -> PointReads:
        """Begin to connect; returns at once."""
        self._keeper = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the connection up; reads under way raise Unavailable."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    def fetch(self, key: str) -> asyncio.Future[Row | None]:
        """The columns behind the key's; None: no row has it. Raises Unavailable, at once or from the future."""
        if self._link is None:
            raise Unavailable
        return self._link.ask(key.encode())

    def leave(self) -> None:
        """Give the connection up for a new one: its server may not be the primary any more."""
        self._lost.set()

    async def _keep_connected(self) -> None:
        while True:
            try:
                self._lost.clear()
                conn = await psycopg.AsyncConnection.connect(self._dsn, **APART)
                try:
                    await self._serve(conn)
                finally:
                    await conn.close()
            except psycopg.Error as error:
                log.debug("point reads: %s", error)
            await asyncio.sleep(random.uniform(0.2, 0.6))  # noqa: S311

    async def _serve(self, conn: psycopg.AsyncConnection) -> None:
        """Answer on this connection until it breaks."""
        await self._prepare(conn)
        self._link = link = _Link(conn.pgconn, self._lost)
        try:
            await self._lost.wait()
        finally:
            self._link = None
            link.close()

    async def _prepare(self, conn: psycopg.AsyncConnection) -> None:
        await conn.execute("select set_config('statement_timeout', %s, false)", [str(int(STATEMENT_SECONDS * 1000))])
        # The plan is the same for any keys; planning each statement anew costs more than running it.
        await conn.execute("set plan_cache_mode = force_generic_plan")
        prepare = sql.SQL("prepare {} (text[]) as ").format(sql.Identifier(_NAME.decode()))
        await conn.execute(prepare + sql.SQL(self._statement))


class _Link:
    """The wire of one connection: at most one statement under way, the next one gathering behind it.

    It sets `broken` when the connection breaks, and sends nothing more when somebody else has.
    """

    def __init__(self, connection: pq.abc.PGconn, broken: asyncio.Event) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._socket = connection.socket
        self._gathering: Waiting = {}
        self._asked: Waiting = {}
        self._callers = 0  # who have come since the last statement left
        self._pace = Pace(each=EACH, longest=LONGEST)
        self._soon = False
        self._later: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._writing = False
        self._closed = False
        self._broken = broken
        connection.nonblocking = 1
        self._loop.add_reader(self._socket, self._on_readable)

    def ask(self, key: bytes) -> asyncio.Future[Row | None]:
        """The row of the key, when it comes."""
        future: asyncio.Future[Row | None] = self._loop.create_future()
        self._gathering.setdefault(key, []).append(future)
        self._callers += 1
        if not self._asked:
            self._let_leave()
        return future

    def close(self) -> None:
        """Leave the socket alone, at the first time, and turn everybody away.

        libpq closes the socket of a connection that broke: later its number may be another's.
        """
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        for timer in (self._later, self._silence):
            if timer is not None:
                timer.cancel()
        asked, gathering = self._asked, self._gathering
        self._asked, self._gathering = {}, {}
        _refuse(asked)
        _refuse(gathering)

    def _let_leave(self) -> None:
        """Send the statement, or see to it that it is sent when it is due."""
        if self._pace.lone:
            self._send()
        elif not self._soon:
            wait = self._pace.wait(self._callers, self._loop.time())
            if wait == 0 or len(self._gathering) >= LARGEST_BATCH:
                self._soon = True
                self._loop.call_soon(self._send)  # what arrives in the same turn of the event loop goes along
            elif self._later is None:
                self._later = self._loop.call_later(wait, self._send)

    def _send(self) -> None:
        self._soon = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._asked or self._broken.is_set():
            return
        while self._gathering and not self._asked:  # of as many as a batch holds, all may have given up
            self._asked = self._next_batch()
        callers, self._callers = self._callers, sum(map(len, self._gathering.values()))
        if not self._asked:
            return
        self._pace.left(callers, self._loop.time())
        try:
            self._connection.send_query_prepared(
                _NAME, [arrays.encoded(self._asked)], param_formats=[_BINARY], result_format=_BINARY
            )
            self._flush()
        except psycopg.Error as error:
            self._break(error)
            return
        self._silence = self._loop.call_later(ANSWER_SECONDS, self._break, TimeoutError("no answer"))

    def _next_batch(self) -> Waiting:
        """Up to LARGEST_BATCH of the gathered keys that somebody still waits for."""
        batch: Waiting = {}
        for key in list(islice(self._gathering, LARGEST_BATCH)):
            waiting = [future for future in self._gathering.pop(key) if not future.done()]
            if waiting:
                batch[key] = waiting
        return batch

    def _flush(self) -> None:
        """Write what the socket takes; the rest when it takes more."""
        more = self._connection.flush() == 1
        if more and not self._writing:
            self._loop.add_writer(self._socket, self._on_writable)
        elif self._writing and not more:
            self._loop.remove_writer(self._socket)
        self._writing = more

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._break(error)

    def _on_readable(self) -> None:
        try:
            self._connection.consume_input()
            while not self._broken.is_set() and not self._connection.is_busy():
                result = self._connection.get_result()
                if result is None:
                    self._end_statement()
                    return
                self._deliver(result)
        except psycopg.Error as error:
            self._break(error)

    def _deliver(self, result: pq.abc.PGresult) -> None:
        if result.status != pq.ExecStatus.TUPLES_OK:
            _refuse(self._asked)
            if result.error_field(pq.DiagnosticField.SQLSTATE) != _TIMED_OUT:  # then the connection is sound
                self._break(psycopg.OperationalError(result.get_error_message()))
            return
        value, columns = result.get_value, range(1, result.nfields)
        for row in range(result.ntuples):
            found = tuple(value(row, column) or b"" for column in columns)
            for future in self._asked[value(row, 0) or b""]:
                if not future.done():
                    future.set_result(found)

    def _end_statement(self) -> None:
        """All rows have come: who got none is told so, and the next batch leaves."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        if self._gathering:
            self._let_leave()

    def _break(self, error: Exception) -> None:
        if not self._closed:
            log.info("point reads: connection given up, the pool answers meanwhile: %s", str(error).strip())
            self._broken.set()
            self.close()


def _refuse(waiting: Waiting) -> None:
    for futures in waiting.values():
        for future in futures:
            if not future.done():
                future.set_exception(Unavailable())
