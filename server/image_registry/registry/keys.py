"""API keys: made, listed, revoked, and checked at every call.

A key is `imgreg_`, eight characters that name it, `_`, and 256 random bits. The first two parts are its prefix: public,
shown in listings and logs, and what secret scanners can look for.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from image_registry.errors import Fault, Reason, RegistryError, Resource, invalid
from image_registry.models import Role
from image_registry.registry.caller import Caller
from image_registry.storage import audit, keys
from image_registry.storage.audit import AuditEntry
from image_registry.storage.database import Connection, Database, Work
from image_registry.storage.keys import StoredKey

log = logging.getLogger(__name__)

KNOWN_FOR = 0.5  # seconds that a replica believes what it has read: a revoked key is refused after that everywhere
SPACING = 0.05  # seconds between two readings: new keys work at once, and a flood of guesses costs 20 readings a second
USE_INTERVAL = 60.0  # seconds between two notes of a key's last use
NAME_LIMIT = 100  # characters
_PREFIX = re.compile(r"imgreg_[0-9a-f]{8}", re.ASCII)
_KEY = re.compile(r"(?P<prefix>imgreg_[0-9a-f]{8})_[0-9a-f]{64}", re.ASCII)
_NO_HASH = bytes(32)
_SECRET_PART = re.compile(r"(?<=imgreg_[0-9a-f]{8}_)[0-9a-f]{4,}", re.ASCII | re.IGNORECASE)  # of a key in some text


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment when it can be read, and what is kept of it."""

    secret: str
    stored: StoredKey

    def __repr__(self) -> str:
        return f"NewKey({self.stored.prefix})"


class Keys:
    """What operators do with keys. `operator` is the name under which the audit log has it."""

    def __init__(self, db: Database, *, operator: str = "operator") -> None:
        self._db = db
        self._operator = operator

    async def create(self, role: Role, *, name: str = "", expires_at: datetime | None = None) -> NewKey:
        """Make a key; only the answer holds it. Raises RegistryError INVALID_REQUEST for a name that is no label."""
        if len(name) > NAME_LIMIT or not name.isprintable():
            raise invalid([Fault("name", f"must be one line of at most {NAME_LIMIT} printable characters")])
        while True:
            prefix = f"imgreg_{secrets.token_hex(4)}"
            secret = f"{prefix}_{secrets.token_hex(32)}"
            digest = _hash(secret)

            insert = partial(keys.insert, prefix=prefix, digest=digest, role=role, name=name, expires_at=expires_at)
            if stored := await self._db.write(self._audited("CreateKey", insert)):
                return NewKey(secret, stored)

    async def everything(self) -> Sequence[StoredKey]:
        """Every key, oldest first, revoked and expired ones too."""
        return await self._db.read(keys.everything)

    async def revoke(self, prefix: str) -> StoredKey:
        """End a key: every replica refuses it within a second. Idempotent.

        A whole key is taken for its prefix. Raises RegistryError KEY_NOT_FOUND.
        """
        if whole := _KEY.fullmatch(prefix):
            prefix = whole["prefix"]
        work = self._audited("RevokeKey", lambda conn: keys.revoke(conn, prefix))
        stored = await self._db.write(work) if _PREFIX.fullmatch(prefix) else None
        if stored is None:
            raise RegistryError(
                Reason.KEY_NOT_FOUND, "there is no key with this prefix", resource=Resource("key", prefix[:64])
            )
        return stored

    def _audited(self, what: str, change: Work[StoredKey | None]) -> Work[StoredKey | None]:
        async def work(conn: Connection) -> StoredKey | None:
            key = await change(conn)
            if key is not None:
                entry = AuditEntry(datetime.now(UTC), self._operator, "", what, key.prefix, "OK", "")
                await audit.insert(conn, [entry])
            return key

        return work


def without_secrets(text: str) -> str:
    """A text that may hold keys in whatever place and case: their prefixes stay, the secret parts go."""
    return _SECRET_PART.sub("…", text) if "imgreg_" in text.lower() else text


class KeyRing:
    """The keys as a replica knows them: all in memory, so that a call with a bad key costs the database nothing.

    What changed is asked for at most every `KNOWN_FOR` seconds; without an answer nobody is let in.
    `now` gives the time that expiry is compared with.
    """

    def __init__(self, db: Database, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._now = now
        self._keys: dict[str, StoredKey] = {}
        self._newest: StoredKey | None = None  # by the last change that was read
        self._fresh_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> KeyRing:
        """The ring, until `close`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def verify(self, key: str) -> Caller:
        """Who calls with this key.

        Raises RegistryError KEY_INVALID, KEY_EXPIRED, KEY_REVOKED, and what a database that is away gives.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise RegistryError(Reason.KEY_INVALID, "the API key is not one of this service")
        prefix, asked = match["prefix"], time.monotonic()
        await self._read_after(asked - KNOWN_FOR)
        if prefix not in self._keys:
            await self._read_after(asked)
        stored = self._keys.get(prefix)
        genuine = hmac.compare_digest(_hash(key), stored.hash if stored else _NO_HASH)
        if stored is None or not genuine:
            raise RegistryError(Reason.KEY_INVALID, "the API key is not one of this service")
        if stored.revoked_at is not None:
            raise RegistryError(Reason.KEY_REVOKED, f"the API key {prefix} was revoked")
        if stored.expires_at is not None and stored.expires_at <= self._now():
            raise RegistryError(Reason.KEY_EXPIRED, f"the API key {prefix} has expired")
        self._note_use(prefix)
        return Caller(prefix, stored.role)

    async def close(self) -> None:
        """Wait for what is being read and written."""
        pending = [*self._notes, *([self._reading] if self._reading else [])]
        await asyncio.gather(*pending, return_exceptions=True)

    async def _read_after(self, moment: float) -> None:
        """Return when a reading that began at `moment` or later has ended. All callers share one."""
        while self._fresh_at < moment:
            if self._reading is None or self._reading.done():
                self._reading = _detached(self._read_changes())
                self._reading.add_done_callback(_consume)
            await asyncio.shield(self._reading)

    async def _read_changes(self) -> None:
        await asyncio.sleep(max(0.0, self._fresh_at + SPACING - time.monotonic()))
        began = time.monotonic()
        self._keys, self._newest = await self._db.read(self._as_they_are)
        self._fresh_at = began

    async def _as_they_are(self, conn: Connection) -> tuple[dict[str, StoredKey], StoredKey | None]:
        """All keys, and the one that changed last. Only what changed is read, if it follows what was read before.

        It needn't: a failover can lose commits, a restore brings an older state, and the numbers of the lost changes
        are given to others then. So the last change is read once more; if it isn't there as it was, everything is read.
        """
        newest = self._newest
        changed = await keys.changed_from(conn, newest.change if newest else 0)
        follows = newest is None or newest in changed
        if not follows:
            changed = sorted(await keys.everything(conn), key=lambda key: key.change)
        known = {**(self._keys if follows else {}), **{key.prefix: key for key in changed}}
        return known, changed[-1] if changed else None

    def _note_use(self, prefix: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(prefix, float("-inf")) < USE_INTERVAL:
            return
        self._noted[prefix] = now
        task = _detached(self._write_note(prefix))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_note(self, prefix: str) -> None:
        try:
            await self._db.write(lambda conn: keys.note_use(conn, prefix))
        except RegistryError as error:
            log.warning("the last use of key %s could not be noted: %s", prefix, error)


def _detached(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task for everybody: the deadline of the call that starts it doesn't bind it."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


def _consume(task: asyncio.Task[None]) -> None:
    """Callers see the error; if all of them have gone, nobody need."""
    if not task.cancelled():
        task.exception()


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
