"""When a statement that several callers share leaves: soon enough for each, late enough for all.

A statement costs several times what one more caller in it costs, here, in Postgres and, since answers that leave
together are written to the network together, in gRPC and in the callers. Measurements are in docs/performance.
"""

from __future__ import annotations

FORGETS = 0.9  # what is expected after a statement with fewer callers than were expected, of what was expected before


class Pace:
    """Decides from the last statements. Who comes alone, or one after the other, waits for nobody.

    After statements with several callers the next waits until as many are there, as in a closed circle of callers who
    come again when they have their answers, but no longer after the last one left than that many take to come in,
    `each` seconds a caller and `longest` in all. So callers at random moments, who are fewer than that, soon wait for
    nobody again: what they'd spare is needed by a busy server alone.
    """

    def __init__(self, *, each: float, longest: float) -> None:
        self._each = each
        self._longest = longest
        self._last_left = -longest
        self._expected = 1.0

    @property
    def lone(self) -> bool:
        """Nobody else is expected."""
        return self._expected <= 1

    def left(self, callers: int, now: float) -> None:
        """A statement with so many callers has left."""
        self._last_left = now
        self._expected = max(callers, self._expected * FORGETS)

    def wait(self, callers: int, now: float) -> float:
        """Seconds until a statement with these callers should leave; 0: now."""
        if callers >= self._expected:
            return 0.0
        return max(0.0, self._last_left + min(self._longest, self._each * self._expected) - now)
