"""What happens around every call: its deadline is kept, and every error leaves as a complete status."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
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
        """Wrap unary handlers; others (health, reflection) pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _guarded(handler.unary_unary, handler_call_details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _guarded(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        deadline.set_remaining(context.time_remaining())
        try:
            return await behaviour(request, context)
        except RegistryError as error:
            await _abort(context, error)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception:
            request_id = uuid.uuid4().hex
            log.exception("%s failed, request id %s", method, request_id)
            await _abort(context, unforeseen(request_id))

    return guarded


async def _abort(context: aio.ServicerContext[Any, Any], error: RegistryError) -> NoReturn:
    status = to_status(error)
    await context.abort(_CODES[status.code], status.message, ((TRAILER, status.SerializeToString()),))
    raise AssertionError("unreachable: abort raises")
