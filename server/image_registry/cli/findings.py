"""What the checks of `doctor` find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
