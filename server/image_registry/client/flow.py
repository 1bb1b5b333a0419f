"""What the clients do, without doing it: retries and waiting as generators of steps.

A driver (`sync.py`, `aio.py`) carries each step out and sends its outcome back, so that both clients have one logic
and tests need neither network nor clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from image_registry.client import calls
from image_registry.client.calls import Call, Safety
from image_registry.client.errors import CallError, DeadlineExceededError, ResourceExhaustedError, UnavailableError

T = TypeVar("T")
_UNTOUCHED = {"OVERLOADED", "RATE_LIMITED"}  # the service's reasons for turning a call away before doing anything
_LASTING = {"QUEUE_LIMIT", "IMAGE_LIMIT"}  # limits that pass when builds end or images go: the caller's to decide
_PROBE_SECONDS = 2.0
_CONNECTING = 0.9  # of a call's time at most: the rest is for learning why there is no connection


@dataclass(frozen=True, slots=True)
class Send:
    """Send a call, with a deadline in seconds; the outcome is what the call reads from the answer.

    With `wait_for_ready` it waits for a connection instead of failing at once without one.
    """

    call: Call[Any]
    timeout: float
    wait_for_ready: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


Step = Send | Pause
Flow = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a call is sent again.

    A call is repeated only where that is safe: reads, and writes that change nothing the second time, after
    UNAVAILABLE and RESOURCE_EXHAUSTED; other writes only when the service turned them away untouched. The
    service's `RetryInfo` is honoured; without one the delay doubles from `first_delay` to `longest_delay`, and is
    shortened at random so that many clients don't come back at once. `attempts` of 1 is no retry.
    """

    attempts: int = 5
    first_delay: float = 0.1
    longest_delay: float = 2.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after that many attempts."""
        longest = min(self.longest_delay, self.first_delay * 2 ** (attempt - 1))
        return random.uniform(longest / 2, longest)  # noqa: S311


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of one call in seconds: all its attempts, and, for a write, getting a connection before it is sent."""

    timeout: float = 30.0
    connect_timeout: float = 5.0
    retry: RetryPolicy = RetryPolicy()
    clock: Callable[[], float] = time.monotonic


def perform(call: Call[T], limits: Limits) -> Flow[T]:
    """Carry out a call, with retries as far as they are safe. Raises CallError."""
    deadline = limits.clock() + limits.timeout
    if call.safety is Safety.ONCE:
        yield from _connect(limits, deadline)
    attempt = 1
    while True:
        try:
            answer: T = yield Send(call, deadline - limits.clock())
        except CallError as error:
            delay = _delay(call, error, attempt, limits.retry)
            if delay is None or limits.clock() + delay >= deadline:
                raise
        else:
            return answer
        yield Pause(delay)
        attempt += 1


def _connect(limits: Limits, deadline: float) -> Flow[None]:
    """Make sure of a connection, so that a call that may be sent once only isn't lost to the lack of one.

    Any answer to the probe, a refusal included, shows that there is one. gRPC's own watch over a channel's state is
    no way to learn it: in the sync library its thread breaks when the channel is closed soon afterwards.
    """
    longest = min(limits.connect_timeout, limits.timeout * _CONNECTING)
    try:
        yield Send(calls.is_serving(), longest, wait_for_ready=True)
    except DeadlineExceededError:
        left = deadline - limits.clock()
        if left <= 0:
            raise
        yield from _tell_why(min(_PROBE_SECONDS, left))
    except CallError:
        return


def _tell_why(timeout: float) -> Flow[None]:
    """Raise UnavailableError with the cause for which there is no connection, unless there is one by now."""
    try:
        yield Send(calls.is_serving(), timeout)
    except UnavailableError:
        raise
    except CallError:
        return


def _delay(call: Call[Any], error: CallError, attempt: int, policy: RetryPolicy) -> float | None:
    """Seconds until the call may be sent again; None: it may not."""
    if attempt >= policy.attempts:
        return None
    busy = isinstance(error, ResourceExhaustedError)
    turned_away = busy and error.reason in _UNTOUCHED
    invited = busy and error.retry_after is not None and error.reason not in _LASTING
    repeatable = call.safety is Safety.REPEATABLE and (invited or isinstance(error, UnavailableError))
    if not (turned_away or repeatable):
        return None
    own = policy.delay(attempt)
    return own if error.retry_after is None else error.retry_after + own * 0.1
