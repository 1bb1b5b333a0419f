"""The port to distributed tracing (W3C Trace Context): code below and above names spans here, `otel` exports them.

Nothing is recorded until `install`; until then everything here returns at once. Names and attributes of spans hold no
values of callers but names of images and jobs, and never a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Protocol, TypeAlias

Attribute: TypeAlias = str | int | float | bool
NO_ATTRIBUTES: Mapping[str, Attribute] = {}


class Kind(Enum):
    """The side that a span stands on (OpenTelemetry, "SpanKind")."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    CONSUMER = "consumer"


class Span(Protocol):
    """A piece of work with a beginning and an end."""

    def set(self, name: str, value: Attribute) -> None:
        """Add an attribute."""

    def link(self, traceparent: str) -> None:
        """Say that another span, elsewhere, has to do with it ('': nothing is said)."""

    def traceparent(self) -> str:
        """The header that names this span; '': it isn't recorded."""

    def end(self, error: str = "") -> None:
        """The work is over; `error` says in a word why it failed."""


class Tracer(Protocol):
    """Makes spans and knows which one is current in a task."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: Mapping[str, str] | None,
        attributes: Mapping[str, Attribute],
        current: bool,
    ) -> Span:
        """A span that begins now, below the remote `parent` (headers) or else the task's current one."""

    def traceparent(self) -> str:
        """The header that makes another process's spans children of the task's current one; '': there is none."""


class _Nothing:
    def set(self, name: str, value: Attribute) -> None:
        """Nothing."""

    def link(self, traceparent: str) -> None:
        """Nothing."""

    def traceparent(self) -> str:
        """Nothing."""
        return ""

    def end(self, error: str = "") -> None:
        """Nothing."""


NOTHING: Span = _Nothing()
_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Record from now on with `tracer`; None: no more."""
    global _tracer  # noqa: PLW0603 (one for the process, as the log is)
    _tracer = tracer


def active() -> bool:
    """Whether anything is recorded."""
    return _tracer is not None


def begin(
    name: str,
    *,
    kind: Kind = Kind.INTERNAL,
    parent: Mapping[str, str] | None = None,
    attributes: Mapping[str, Attribute] = NO_ATTRIBUTES,
    current: bool = True,
) -> Span:
    """A span that lasts until its `end`. `current`: what this task does from here on is part of it.

    Without `parent` (the headers `traceparent` and `tracestate` of another process) it is part of the current span.
    """
    if _tracer is None:
        return NOTHING
    return _tracer.begin(name, kind, parent, attributes, current)


@contextmanager
def span(
    name: str, *, kind: Kind = Kind.INTERNAL, attributes: Mapping[str, Attribute] = NO_ATTRIBUTES
) -> Iterator[Span]:
    """A span as long as the block; an exception that leaves it is its error, by type alone.

    It is always a part of another: without a current span (what a process does again and again by itself) it is none.
    """
    if _tracer is None or not _tracer.traceparent():
        yield NOTHING
        return
    begun = _tracer.begin(name, kind, None, attributes, False)
    try:
        yield begun
    except BaseException as error:
        begun.end(type(error).__name__)
        raise
    begun.end()


def traceparent() -> str:
    """The header `traceparent` for what this task causes elsewhere or later; '': nothing is recorded."""
    return "" if _tracer is None else _tracer.traceparent()


def is_recorded(traceparent: str) -> bool:
    """Whether the trace of that header is recorded (W3C Trace Context, section 3.2.2.5: the flag `sampled`)."""
    return traceparent[-1:] in set("13579bdf")
