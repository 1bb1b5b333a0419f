"""Who is calling: set by the API for each call, read by the use cases, passed through no signature between."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from image_registry.models import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `identity` is recorded with what is created: a key's prefix, a certificate's name, '' without either.

    `role` is None where callers aren't checked (everything is allowed then), and for the service itself.
    """

    identity: str = ""
    role: Role | None = None

    def may_cancel(self, creator: str) -> bool:
        """Whether a job that `creator` launched is this caller's to cancel."""
        return self.role in {None, Role.ADMIN} or (self.identity != "" and self.identity == creator)


UNCHECKED = Caller()

_caller: ContextVar[Caller] = ContextVar("caller", default=UNCHECKED)


def set_current(caller: Caller) -> None:
    """What this task does from here on is done for `caller`."""
    _caller.set(caller)


def current() -> Caller:
    """For whom this task works."""
    return _caller.get()
