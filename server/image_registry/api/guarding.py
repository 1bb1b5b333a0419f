"""What happens around every call: its deadline is kept, and every error leaves as a complete status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from image_registry import deadline
from image_registry.api.methods import Handler
from image_registry.api.request_ids import REQUEST_ID_HEADER, request_id
from image_registry.api.status import TRAILER, to_status, unforeseen
from image_registry.errors import Reason, RegistryError
from image_registry.telemetry.catalogue import REFUSALS

log = logging.getLogger(__name__)

_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MALFORMED = object()  # stands for a request that could not be decoded


def guarded(handler: Handler, method: str) -> Handler:
    """The handler with its call's deadline set for the layers below, and exceptions turned into statuses with details.

    An exception that nobody foresaw becomes INTERNAL with an id; its traceback goes to the log alone. A handler may
    answer with a message or with the bytes of one. Handlers of many requests (reflection) pass as they are.
    """
    coding = {
        "request_deserializer": _tolerant(handler.request_deserializer),
        "response_serializer": _unless_encoded(handler.response_serializer),
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, method), **coding)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(_guarded_stream(handler.unary_stream, method), **coding)
    return handler


def unknown_method() -> Handler:
    """What every name gets that is no method's."""
    return refusal(RegistryError(Reason.UNKNOWN_METHOD, "this server has no such method"))


def refusal(error: Exception, method: str = "") -> Handler:
    """A handler that ends a call of any kind, without reading its body, as `guarded` does when it raises `error`."""

    async def refuse(_: Any, context: _Context) -> None:
        await _end(context, method, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


async def abort(context: _Context, error: RegistryError) -> NoReturn:
    """End the call with the error's complete status and the call's request id."""
    REFUSALS.add(error.reason.name)
    status = to_status(error)
    trailers = ((TRAILER, status.SerializeToString()), (REQUEST_ID_HEADER, request_id(context)))
    await context.abort(_CODES[status.code], status.message, trailers)
    raise AssertionError("unreachable")  # pragma: no cover (abort raises)


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Left to gRPC, bytes that are no message would end as INTERNAL without details."""
    if decode is None:
        return None

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _MALFORMED

    return tolerant


def _unless_encoded(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Bytes are sent as they are: they were stored as a part of this very message."""
    if encode is None:
        return None
    return lambda message: message if isinstance(message, bytes) else encode(message)


def _guarded(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: _Context) -> Any:
        try:
            _begin(request, context)
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 (told apart there)
            await _end(context, method, error)

    return guarded


def _guarded_stream(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            _begin(request, context)
            async for message in behaviour(request, context):
                yield message
        except Exception as error:  # noqa: BLE001 (told apart there)
            await _end(context, method, error)

    return guarded


def _begin(request: Any, context: _Context) -> None:
    left = context.time_remaining()
    if left is not None:
        deadline.set_remaining(left)
    if request is _MALFORMED:
        raise RegistryError(Reason.MALFORMED_REQUEST, "the request is not an encoding of its message")


async def _end(context: _Context, method: str, error: Exception) -> NoReturn:
    if isinstance(error, aio.AbortError):
        raise error
    if not isinstance(error, RegistryError):
        log.error("%s failed, request id %s", method, request_id(context), exc_info=error)
        error = unforeseen(request_id(context))
    await abort(context, error)
