"""Fields that every line of the log has while a piece of work is under way: a call's request id, a job's attempt.

They belong to the task that binds them and to the tasks that it starts from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TypeAlias

Value: TypeAlias = str | int | float
_NONE: Mapping[str, Value] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Value]] = ContextVar("fields", default=_NONE)


def bind(**fields: Value) -> None:
    """Add fields to what this task says from here on."""
    _bound.set({**_bound.get(), **fields})


def bound() -> Mapping[str, Value]:
    """The fields of this task."""
    return _bound.get()
