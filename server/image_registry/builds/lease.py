"""The time until which a build may run, shared between a worker and the build's process.

A worker that is stopped, starved or cut off can't stop its builds in time, so each build watches the time itself. The
clock is the machine's since its start, which goes on while the machine sleeps and which nobody can set.
"""

from __future__ import annotations

import os
import struct
import time
from types import TracebackType

_FORMAT = "d"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return the seconds since the machine's start; equal in all its processes."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """A moment of `clock()` that moves on while the work may go on. Use as a context manager.

    It is kept in memory that a child process reads through an inherited descriptor: no disk, no pipe that could block.
    """

    def __init__(self, until: float) -> None:
        self._descriptor = os.memfd_create("lease")
        self.extend(until)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    @property
    def descriptor(self) -> int:
        """The descriptor to hand to a child."""
        return self._descriptor

    @property
    def until(self) -> float:
        """The end, a moment of `clock()`."""
        return end_of_lease(self._descriptor)

    @property
    def left(self) -> float:
        """Seconds until the end, 0 behind it."""
        return max(0.0, self.until - clock())

    def extend(self, until: float) -> None:
        """Move the end."""
        os.pwrite(self._descriptor, struct.pack(_FORMAT, until), 0)


def end_of_lease(descriptor: int) -> float:
    """Read the end of a lease that another process extends."""
    return float(struct.unpack(_FORMAT, os.pread(descriptor, struct.calcsize(_FORMAT), 0))[0])
