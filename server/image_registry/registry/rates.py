"""How fast each caller may ask: a token bucket for each, in each replica."""

from __future__ import annotations

import time
from collections.abc import Callable

from image_registry.errors import Reason, RegistryError, Resource
from image_registry.registry.caller import Caller


class Bucket:
    """Holds up to `size` tokens and gains `per_second` of them (RFC 2697 calls it a committed rate and burst)."""

    def __init__(self, per_second: float, size: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._size = size
        self._now = now
        self._tokens = size
        self._at = now()

    def take(self) -> float:
        """Take a token: 0.0. Without one: how many seconds until there is one."""
        now = self._now()
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_second
        self._tokens -= 1
        return 0.0


class Rates:
    """The callers' buckets; each holds a second's worth of tokens. `per_second` 0: no limit.

    Only callers that were recognised have one, so there are as many as keys and certificates.
    """

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._now = now
        self._buckets: dict[str, Bucket] = {}

    def take(self, caller: Caller) -> None:
        """Count a request. Raises RegistryError RATE_LIMITED with the time to wait."""
        if not self._per_second:
            return
        bucket = self._buckets.get(caller.identity)
        if bucket is None:
            bucket = self._buckets[caller.identity] = Bucket(self._per_second, max(1.0, self._per_second), self._now)
        if wait := bucket.take():
            limit = f"{self._per_second:g} requests per second"
            raise RegistryError(
                Reason.RATE_LIMITED,
                f"{caller.identity} sends more than {limit}",
                quota=Resource("caller", caller.identity, limit),
                retry_after=wait,
            )
