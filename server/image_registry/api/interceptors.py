"""What happens around every call: its deadline is kept, and every error leaves as a complete status."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc import aio

from image_registry import deadline
from image_registry.api.status import TRAILER, to_status, unforeseen
from image_registry.errors import RegistryError

log = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ErrorInterceptor(aio.ServerInterceptor):
    """Sets the call's deadline for the layers below and turns exceptions into statuses with details.

    An exception that nobody foresaw becomes INTERNAL with an id; its traceback goes to the log alone.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap handlers of one request; others (health's watch, reflection) pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        method = handler_call_details.method
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, method), **serializers)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_guarded_stream(handler.unary_stream, method), **serializers)
        return handler


def _guarded(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        deadline.set_remaining(context.time_remaining())
        async with _errors_as_statuses(context, method):
            return await behaviour(request, context)

    return guarded


def _guarded_stream(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        deadline.set_remaining(context.time_remaining())
        async with _errors_as_statuses(context, method):
            async for message in behaviour(request, context):
                yield message

    return guarded


@asynccontextmanager
async def _errors_as_statuses(context: aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
    try:
        yield
    except RegistryError as error:
        await _abort(context, error)
    except aio.AbortError:
        raise
    except Exception:
        request_id = uuid.uuid4().hex
        log.exception("%s failed, request id %s", method, request_id)
        await _abort(context, unforeseen(request_id))


async def _abort(context: aio.ServicerContext[Any, Any], error: RegistryError) -> NoReturn:
    status = to_status(error)
    await context.abort(_CODES[status.code], status.message, ((TRAILER, status.SerializeToString()),))
    raise AssertionError("unreachable: abort raises")
