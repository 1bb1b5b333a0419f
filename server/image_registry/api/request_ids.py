"""The ids that requests carry: every call's for the logs, a caller's own to recognise a repeated create."""

from __future__ import annotations

from collections.abc import Iterable

REQUEST_ID_HEADER = "x-request-id"
GENERATED_HEADER = "x-request-id-generated"  # the gateway made the id, since the caller sent none


def callers_request_ids(metadata: Iterable[tuple[str, str | bytes]]) -> list[str]:
    """The values of `x-request-id` that the caller sent; none: there is none, or the gateway made it."""
    found: list[str] = []
    for name, value in metadata:
        if name == REQUEST_ID_HEADER:
            found.append(str(value))
        elif name == GENERATED_HEADER:
            return []
    return found
