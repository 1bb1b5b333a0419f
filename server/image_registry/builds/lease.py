"""The time until which a build may run, shared between a worker and the build's process.

A worker that is stopped, starved or cut off can't stop its builds in time, so each build watches the time itself. The
clock is the machine's since its start, which goes on while the machine sleeps and which nobody can set.
"""

from __future__ import annotations

import os
import struct
import threading
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


class StoppedError(Exception):
    """Work in a thread broke off: it was told to, or its lease is over."""


class StopSign:
    """Tells work in a thread to break off. The thread looks at it before each step that others can see.

    It stands for a lease that is over, too; without a lease only `stop` puts it up.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self._lease = lease
        self._told = threading.Event()

    def stop(self) -> None:
        """Put it up for good."""
        self._told.set()

    def check(self) -> None:
        """Raise StoppedError if the work may not go on."""
        if self._told.is_set():
            raise StoppedError("it was stopped")
        if self._lease is not None and self._lease.left == 0:
            raise StoppedError("its lease is over")

    def sleep(self, seconds: float) -> None:
        """Wait; raises StoppedError as soon as the work may not go on."""
        end = clock() + seconds
        self.check()
        while (left := end - clock()) > 0:
            # The lease may be extended meanwhile.
            self._told.wait(left if self._lease is None else min(left, self._lease.left))
            self.check()


def end_of_lease(descriptor: int) -> float:
    """Read the end of a lease that another process extends."""
    return float(struct.unpack(_FORMAT, os.pread(descriptor, struct.calcsize(_FORMAT), 0))[0])
