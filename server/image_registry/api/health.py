"""The standard health service (grpc.health.v1): one answer for all of the services.

The stock servicer keeps something for every name that a caller watches, known or not, and writes to watchers while
it holds the lock that a change of status needs: callers without a key could fill its memory, or stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer

_Context = aio.ServicerContext[Any, Any]
_Status: TypeAlias = int


class Health(HealthServicer):
    """Answers for `services`, and for '' (the server as a whole)."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services) | {""}
        self._status: _Status = pb.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()
        self._leaving = False
        self._closed = False

    def set_serving(self, serving: bool) -> None:
        """Tell everybody, unless the server is on its way out."""
        if not self._leaving:
            self._set(pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING)

    def leave(self) -> None:
        """NOT_SERVING, whatever is set later."""
        self.set_serving(False)
        self._leaving = True

    def close(self) -> None:
        """End every watch, after its last word."""
        self._closed = True
        self._set(self._status)

    async def Check(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: _Context
    ) -> pb.HealthCheckResponse:
        """The status now; NOT_FOUND for a name that isn't served."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return pb.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: N802
        self,
        request: pb.HealthCheckRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The status now and whenever it changes, until `close`; SERVICE_UNKNOWN, then silence, for an unknown name."""
        last: _Status | None = None
        while True:
            changed = self._changed
            status = self._status if request.service in self._services else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                yield pb.HealthCheckResponse(status=status)
            last = status
            if self._closed:
                return
            await changed.wait()

    def _set(self, status: _Status) -> None:
        self._status = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
