"""The ids that requests carry: every call's for the logs, a caller's own to recognise a repeated create."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

from grpc import aio

from image_registry.registry.keys import without_secrets
from image_registry.telemetry import fields

REQUEST_ID_HEADER = "x-request-id"
GENERATED_HEADER = "x-request-id-generated"  # the gateway made the id, since the caller sent none
_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,127}")


def request_id(context: aio.ServicerContext[Any, Any]) -> str:
    """The id of the call that this task works for: what it came with if that is well formed, else a new one.

    From the first time that it is asked for, it is a field of every line of the log, too.
    """
    known = fields.bound().get("request_id")
    if isinstance(known, str):
        return known
    sent = [value for name, value in context.invocation_metadata() or () if name == REQUEST_ID_HEADER]
    usable = len(sent) == 1 and _is_well_formed(sent[0])
    found = str(sent[0]) if usable else f"{random.getrandbits(128):032x}"
    fields.bind(request_id=found)
    return found


def _is_well_formed(sent: str | bytes) -> bool:
    """Whether it can stand anywhere: short, printable, and no key in the wrong place."""
    return isinstance(sent, str) and _WELL_FORMED.fullmatch(sent) is not None and without_secrets(sent) == sent


def callers_request_ids(metadata: Iterable[tuple[str, str | bytes]]) -> list[str]:
    """The values of `x-request-id` that the caller sent; none: there is none, or the gateway made it."""
    found: list[str] = []
    for name, value in metadata:
        if name == REQUEST_ID_HEADER:
            found.append(str(value))
        elif name == GENERATED_HEADER:
            return []
    return found
