"""How a call came to the server."""

from __future__ import annotations

from typing import Any

from grpc import aio


def via(context: aio.ServicerContext[Any, Any]) -> str:
    """`rest` or `grpc` through the gateway, or `direct`."""
    names = {name for name, _ in context.invocation_metadata() or ()}
    if "x-envoy-original-path" in names:
        return "rest"
    return "grpc" if "x-forwarded-for" in names else "direct"
