"""The audit log: a line behind the answer, a row of the append-only table within a fraction of a second."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from image_registry.errors import RegistryError
from image_registry.registry.caller import Caller
from image_registry.registry.keys import without_secrets
from image_registry.storage import audit
from image_registry.storage.audit import AuditEntry
from image_registry.storage.database import Database
from image_registry.telemetry import lines
from image_registry.telemetry.catalogue import AUDIT_LOST

log = logging.getLogger("image_registry.audit")

INTERVAL = 0.1  # seconds between two writes of rows
PAUSE = 5.0  # seconds after one that failed for no reason that was foreseen
AT_ONCE = 1_000  # rows in one write
KEPT = 100_000  # rows that wait while the database is away; beyond that the oldest are in the lines only
_LONGEST = 256  # characters of a target or a request's id
_noted: contextvars.ContextVar[bool] = contextvars.ContextVar("noted", default=False)


class _Note(NamedTuple):
    context: contextvars.Context  # the call's, with what its lines say
    at: datetime
    caller: Caller
    what: str
    target: str
    result: str
    request_id: str
    further: Mapping[str, str | float]

    def entry(self) -> AuditEntry:
        return AuditEntry(
            at=self.at,
            who=self.caller.identity,
            role=self.caller.role.value if self.caller.role else "",
            what=self.what,
            target=_plain(self.target),
            result=self.result,
            request_id=_plain(self.request_id),
        )


class AuditTrail:
    """Takes entries without making calls wait: rows are written together, by one task.

    A crash of the process loses the rows of the last `INTERVAL` seconds, and lines of answers that left just then.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[AuditEntry] = deque(maxlen=KEPT)
        self._notes: list[_Note] = []
        self._something = asyncio.Event()
        self._insert: asyncio.Future[None] | None = None  # the last write, which may be under way
        self._writer = asyncio.get_running_loop().create_task(self._write_forever(), context=contextvars.Context())

    async def __aenter__(self) -> AuditTrail:
        """The trail, until `close`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def note(
        self, caller: Caller, *, what: str, target: str, result: str, request_id: str = "", **further: str | float
    ) -> None:
        """Record that `caller` did `what`. Control characters and excess length don't get into the log.

        What is `further` known of the call stands in the line alone.
        """
        _noted.set(True)
        context = contextvars.copy_context()
        self._notes.append(_Note(context, datetime.now(UTC), caller, what, target, result, request_id, further))
        if len(self._notes) == 1:
            asyncio.get_running_loop().call_soon(self._take)  # behind the answers that are about to leave

    def _take(self) -> None:
        """Write the lines of what was noted, and have the rows written."""
        notes, self._notes = self._notes, []
        with lines.together():
            for note in notes:
                entry = note.entry()
                note.context.run(log.info, "%s", as_line(entry, note.further))
                if len(self._waiting) == KEPT:
                    AUDIT_LOST.add()
                    log.error("the audit table falls behind: an entry is in the log alone")
                self._waiting.append(entry)
        self._something.set()

    async def close(self) -> None:
        """Write what waits, and end."""
        self._take()
        self._writer.cancel()
        await asyncio.gather(self._writer, *([self._insert] if self._insert else []), return_exceptions=True)
        try:
            while self._waiting:
                await self._write_some()
        except Exception as error:  # noqa: BLE001 (whatever it is, the lines have them)
            AUDIT_LOST.add(amount=len(self._waiting))
            log.error("%d audit entries are in the log alone: %s", len(self._waiting), error)  # noqa: TRY400

    async def _write_forever(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                for _ in range(0, len(self._waiting), AT_ONCE):  # what comes meanwhile waits: no tiny writes
                    await self._write_some()
            except RegistryError:
                self._something.set()  # the database is away: its own log line says so
            except Exception:
                self._something.set()
                log.exception("audit entries can't be written; the next try is in %.0f s", PAUSE)
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(INTERVAL)

    async def _write_some(self) -> None:
        """Write the oldest rows. A write that has begun goes on when its caller is cancelled: none is written twice."""
        self._insert = asyncio.ensure_future(self._insert_some())
        await asyncio.shield(self._insert)

    async def _insert_some(self) -> None:
        some = [self._waiting[number] for number in range(min(AT_ONCE, len(self._waiting)))]
        await self._db.write(lambda conn: audit.insert(conn, some))
        for entry in some:
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()


def is_noted() -> bool:
    """Whether what this task does is in the audit log already."""
    return _noted.get()


def as_line(entry: AuditEntry, further: Mapping[str, str | float]) -> str:
    """The entry as one JSON object."""
    return json.dumps(
        {
            "audit": entry.what,
            "who": entry.who,
            "role": entry.role,
            "target": entry.target,
            "result": entry.result,
            "at": entry.at.isoformat(timespec="milliseconds"),
            "request_id": entry.request_id,
            **further,
        }
    )


def _plain(text: str) -> str:
    text = without_secrets(text[: 2 * _LONGEST])  # a key in the wrong place is not for the log either
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if short.isprintable():
        return short
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in short)
