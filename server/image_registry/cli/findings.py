"""What the checks of `doctor` find."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from inspect import isawaitable


class State(Enum):
    """How a checked part is."""

    OK = "ok"
    BROKEN = "broken"
    NOTICE = "notice"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `remedy` is what to do about something broken."""

    part: str
    state: State
    text: str
    remedy: str = ""


def ok(part: str, text: str) -> Finding:
    """All is well."""
    return Finding(part, State.OK, text)


def broken(part: str, text: str, remedy: str) -> Finding:
    """Something is to be mended."""
    return Finding(part, State.BROKEN, text, remedy)


def notice(part: str, text: str, remedy: str) -> Finding:
    """It works, and yet somebody should know."""
    return Finding(part, State.NOTICE, text, remedy)


def unchecked(part: str, text: str) -> Finding:
    """It can't be known here, or doesn't matter."""
    return Finding(part, State.UNCHECKED, text)


async def guarded(part: str, check: Callable[[], Finding | Awaitable[Finding]]) -> Finding:
    """What the check finds; an error that it didn't foresee is a finding, too, so that the other checks go on."""
    try:
        found = check()
        return await found if isawaitable(found) else found
    except Exception as error:  # noqa: BLE001 (whatever it is)
        text = f"can't be looked at: {type(error).__name__}: {error}"
        return broken(
            part, text, "mend what it names; if there is nothing to mend, `doctor` has a fault: please report it"
        )
