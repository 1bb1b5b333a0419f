"""Sees every call through, from outside of everything else: a line in the log, metrics, a span.

Health checks are left out. A call that nobody wants to know of pays nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc import aio

from image_registry.api.access import NO_RULE, RULES
from image_registry.api.methods import Handler
from image_registry.api.request_ids import REQUEST_ID_HEADER, request_id
from image_registry.api.ways import via
from image_registry.registry import audit, caller
from image_registry.registry.rates import Bucket
from image_registry.telemetry import tracing
from image_registry.telemetry.catalogue import RPC_SECONDS, RPCS
from image_registry.telemetry.metrics import Reading

log = logging.getLogger("image_registry.access")

LINES_ABOUT_STRANGERS = 10  # a second; a flood of refused calls must not fill the disk
OTHER = "other"  # every method that the server hasn't: callers may invent names without end
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

_Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class Observation:
    """Stands around everything else, so that it sees refusals too.

    `lines`: which calls get a line, if the audit log has none of them: `all`, `changes` (those that change something,
    and refusals) or `none`.
    `timed`: reads are observed too, which metrics and traces need.
    """

    def __init__(self, *, lines: str, timed: bool) -> None:
        self._lines = lines
        self._timed = timed
        self._strangers = Bucket(LINES_ABOUT_STRANGERS, LINES_ABOUT_STRANGERS)
        self._under_way = 0

    def under_way(self) -> Reading:
        """How many calls are being answered."""
        return {(): float(self._under_way)}

    def around(self, handler: Handler, method: str) -> Handler:
        """The handler, watched if its calls are to be; a refusal (of many requests) always, and reflection with it."""
        rule = RULES.get(method, NO_RULE)
        changes = rule.audited or handler.stream_stream is not None
        wanted = self._timed or self._lines == "all" or (self._lines == "changes" and changes)
        if rule.keyless or not wanted:
            return handler
        return self._watched(handler, method.lstrip("/") if method in RULES else OTHER)

    def _watched(self, handler: Handler, method: str) -> Handler:
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, method), **coding)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream, method), **coding)
        stream: Any = handler.stream_stream
        watched = self._stream if inspect.isasyncgenfunction(stream) else self._refusal
        return grpc.stream_stream_rpc_method_handler(watched(stream, method), **coding)

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def watched(request: Any, context: _Context) -> Any:
            call = _Call(context, method)
            self._under_way += 1
            try:
                response = await behaviour(request, context)
            except BaseException as error:
                self._end(call, _code(error, context), timed=True)
                raise
            finally:
                self._under_way -= 1
            self._end(call, "OK", timed=True)
            return response

        return watched

    def _stream(self, behaviour: Any, method: str) -> Any:
        async def watched(request: Any, context: _Context) -> AsyncIterator[Any]:
            call = _Call(context, method)
            self._under_way += 1
            try:
                async for message in behaviour(request, context):
                    yield message
            except BaseException as error:
                self._end(call, _code(error, context))
                raise
            finally:
                self._under_way -= 1
            self._end(call, "OK")

        return watched

    def _refusal(self, behaviour: Any, method: str) -> Any:
        async def watched(request: Any, context: _Context) -> None:
            call = _Call(context, method)
            try:
                await behaviour(request, context)
            except BaseException as error:
                self._end(call, _code(error, context))
                raise

        return watched

    def _end(self, call: _Call, code: str, *, timed: bool = False) -> None:
        seconds = time.perf_counter() - call.began
        RPCS.add(call.method, code)
        if timed:
            RPC_SECONDS.observe(seconds, call.method)
        call.end(code)
        if self._lines == "none" or audit.is_noted():
            return
        if code == "OK" or caller.current() != caller.UNCHECKED or not self._strangers.take():
            call.write_line(code, seconds)


class _Call:
    """One call under way."""

    __slots__ = ("_context", "_id", "_span", "_via", "began", "method")

    def __init__(self, context: _Context, method: str) -> None:
        self.began = time.perf_counter()
        self.method = method
        self._context = context
        self._id = request_id(context)
        self._span = self._begin_span() if tracing.active() else tracing.NOTHING
        context.set_trailing_metadata(((REQUEST_ID_HEADER, self._id),))

    def _begin_span(self) -> tracing.Span:
        metadata = {name: value for name, value in self._context.invocation_metadata() or () if isinstance(value, str)}
        service, _, name = self.method.rpartition("/")
        return tracing.begin(
            self.method,
            kind=tracing.Kind.SERVER,
            parent={name: metadata[name] for name in ("traceparent", "tracestate") if name in metadata},
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "image_registry.request_id": self._id,
                "image_registry.via": via(self._context),
            },
        )

    def end(self, code: str) -> None:
        self._span.set("rpc.grpc.status_code", _NUMBERS[code])
        if who := caller.current().identity:
            self._span.set("image_registry.caller", who)
        self._span.end("" if code in _NO_FAULT_OF_OURS else code)

    def write_line(self, code: str, seconds: float) -> None:
        found = {
            "method": self.method,
            "code": code,
            "duration_ms": round(seconds * 1000, 2),
            "caller": caller.current().identity,
            "via": via(self._context),
        }
        log.info("%s %s in %.1f ms", self.method, code, seconds * 1000, extra={"fields": found})


_NUMBERS = {name: number for number, name in _CODES.items()}
_NO_FAULT_OF_OURS = frozenset(_NUMBERS) - {  # OpenTelemetry, "Semantic conventions for gRPC": what is a server's error
    "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
}  # fmt: skip


def _code(error: BaseException, context: _Context) -> str:
    """The status of a call that was ended by `error`."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"  # the caller gave up, or its deadline passed
    number: Any = context.code()
    if isinstance(error, aio.AbortError) and number:
        return _CODES.get(number if isinstance(number, int) else number.value[0], "UNKNOWN")
    return "UNKNOWN"
