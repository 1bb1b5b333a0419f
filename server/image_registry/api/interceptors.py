"""What happens around every call: its deadline is kept, and every error leaves as a complete status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from image_registry import deadline
from image_registry.api.request_ids import REQUEST_ID_HEADER, request_id
from image_registry.api.status import TRAILER, to_status, unforeseen
from image_registry.errors import Reason, RegistryError
from image_registry.telemetry.catalogue import REFUSALS

log = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ErrorInterceptor(aio.ServerInterceptor):
    """Sets the call's deadline for the layers below and turns exceptions into statuses with details.

    An exception that nobody foresaw becomes INTERNAL with an id; its traceback goes to the log alone. A handler may
    answer with a message or with the bytes of one.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}  # by method: the last handler and what it became

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap handlers of one request; others (reflection) pass as they are. No handler: an unknown method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(_guarded_stream(_unknown, method))
        if (
            handler.stream_stream is not None
        ):  # never kept: refusals are of this kind, of any name that a caller makes up
            return handler
        last = self._wrapped.get(method)
        if last is None or last[0] is not handler:  # the interceptors inside may return another for each call
            last = self._wrapped[method] = handler, _wrap(handler, method)
        return last[1]


def _wrap(handler: _Handler, method: str) -> _Handler:
    serializers = {
        "request_deserializer": _tolerant(handler.request_deserializer),
        "response_serializer": _unless_encoded(handler.response_serializer),
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, method), **serializers)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(_guarded_stream(handler.unary_stream, method), **serializers)
    return handler


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for a request that could not be decoded."""


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Left to gRPC, bytes that are no message would end as INTERNAL without details."""
    if decode is None:
        return None

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _Malformed()

    return tolerant


def _unless_encoded(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Bytes are sent as they are: they were stored as a part of this very message."""
    if encode is None:
        return None
    return lambda message: message if isinstance(message, bytes) else encode(message)


def _guarded(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        deadline.set_remaining(context.time_remaining())
        async with _errors_as_statuses(context, method):
            _check_decoded(request)
            return await behaviour(request, context)

    return guarded


def _guarded_stream(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        deadline.set_remaining(context.time_remaining())
        async with _errors_as_statuses(context, method):
            _check_decoded(request)
            async for message in behaviour(request, context):
                yield message

    return guarded


def _check_decoded(request: Any) -> None:
    if isinstance(request, _Malformed):
        raise RegistryError(Reason.MALFORMED_REQUEST, "the request is not an encoding of its message")


async def _unknown(*_: Any) -> AsyncIterator[Any]:
    raise RegistryError(Reason.UNKNOWN_METHOD, "this server has no such method")
    yield  # pragma: no cover (makes it a generator)


@asynccontextmanager
async def _errors_as_statuses(context: aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
    try:
        yield
    except RegistryError as error:
        await abort(context, error)
    except aio.AbortError:
        raise
    except Exception:
        log.exception("%s failed, request id %s", method, request_id(context))
        await abort(context, unforeseen(request_id(context)))


async def abort(context: aio.ServicerContext[Any, Any], error: RegistryError) -> NoReturn:
    """End the call with the error's complete status and the call's request id."""
    REFUSALS.add(error.reason.name)
    status = to_status(error)
    trailers = ((TRAILER, status.SerializeToString()), (REQUEST_ID_HEADER, request_id(context)))
    await context.abort(_CODES[status.code], status.message, trailers)
    raise AssertionError("unreachable")  # pragma: no cover (abort raises)
