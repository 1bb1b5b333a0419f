"""Every method of the server, by its full name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from image_registry.api.wakefulness import Wakefulness

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

QUICK = frozenset({"/rime.ImageRegistry/GetImage"})  # answered in a moment, and asked most


class Methods(grpc.GenericRpcHandler):
    """What generated code adds services to, in the server's place; the server then asks it for each call.

    `around` is put around each method's handler once, when it is added. Interceptors of grpc.aio would do the same anew
    for each call, for a tenth of its processor time. `unknown` answers for every other name.
    """

    def __init__(
        self, around: Callable[[Handler, str], Handler], *, unknown: Handler, wakefulness: Wakefulness
    ) -> None:
        self._around = around
        self._wakefulness = wakefulness
        self._unknown = unknown
        self._handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take a service's methods."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._around(handler, method)
            if method in QUICK:
                self._handlers[method] = self._wakefulness.around(self._handlers[method])

    def add_generic_rpc_handlers(self, _: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code adds the same handlers this way too."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler for a call, which has arrived; its message may not have."""
        if handler_call_details.method in QUICK:
            self._wakefulness.begin()
        return self._handlers.get(handler_call_details.method, self._unknown)
