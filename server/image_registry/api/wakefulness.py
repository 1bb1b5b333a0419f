"""Keeps the event loop awake while a call that is answered in a moment is under way.

From such a call's arrival to its answer the loop waits for its message and for the database. Each time it would take
longer to fall asleep and to be woken than what is waited for. It isn't paid with processor time, since falling asleep
and waking others takes that too, and whoever else wants the processor has it at every turn. Measurements are in
docs/performance.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

AWAKE_SECONDS = 0.0003  # from a call's arrival, at most: it takes half of that on an idle machine
# After each call that took longer twice as many are left out, up to this: the server is busy, or the database far away.
MOST_LEFT_OUT = 128


class Wakefulness:
    """Of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.awake = False  # it won't sleep now
        self._turning = False
        self._whose: asyncio.Task[Any] | None = None  # the call that it stays awake for
        self._until = 0.0
        self._left_out = 0  # how many calls are, after one that took longer
        self._to_leave_out = 0  # of these, how many are still to come

    def begin(self) -> None:
        """The call of this task has arrived, and will be answered in a moment."""
        if self.awake:
            return
        if self._to_leave_out:
            self._to_leave_out -= 1
            return
        self.awake = True
        self._whose = asyncio.current_task()
        self._until = time.perf_counter() + AWAKE_SECONDS
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def end(self) -> None:
        """The call of this task has its answer; others' are none of the one that it stays awake for."""
        if self.awake and self._whose is asyncio.current_task():
            self.awake = False
            self._left_out = 0

    def around(self, handler: Handler) -> Handler:
        """The handler of a unary call, which ends when it is answered or refused."""
        behaviour: Any = handler.unary_unary

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            finally:
                self.end()

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _turn(self) -> None:
        """The loop doesn't sleep before a turn in which it has something to do, and this is something."""
        if self.awake and time.perf_counter() > self._until:
            self.awake = False
            self._left_out = self._to_leave_out = min(2 * self._left_out + 1, MOST_LEFT_OUT)
        if not self.awake:
            self._turning = False
            return
        os.sched_yield()
        self._loop.call_soon(self._turn)
