"""Turns a `RegistryError` into a `google.rpc.Status`. Details hold strings and numbers only.

A status travels in the trailers, of which clients take 8 KiB: its message and its details are cut to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from image_registry import limits
from image_registry.errors import DOMAIN, Reason, RegistryError

TRAILER = "grpc-status-details-bin"

_PACKING = 80  # bytes at most that a detail costs beyond itself: its type's address and some lengths
_NOTE = 60  # bytes at most of the entry that counts those left out
_FieldViolation = details.BadRequest.FieldViolation
_Precondition = details.PreconditionFailure.Violation
M = TypeVar("M", bound=Message)


def to_status(error: RegistryError) -> status_pb2.Status:
    """The status with `ErrorInfo` and whatever else fits the error."""
    message = _cut(error.message)
    parts = list(_short_parts(error))
    room = limits.STATUS_BYTES - len(message.encode()) - sum(part.ByteSize() + _PACKING for part in parts)
    if error.blockers:
        kind = error.reason.name
        violations = [
            _Precondition(type=kind, subject=f"{one.type}/{one.name}", description=one.description)
            for one in error.blockers
        ]
        fitting = _fitting(violations, room, lambda note: _Precondition(type=kind, description=note))
        parts.append(details.PreconditionFailure(violations=fitting))
    if error.faults:
        faulty = [_FieldViolation(field=one.field, description=one.description) for one in error.faults]
        fitting_faults = _fitting(faulty, room, lambda note: _FieldViolation(description=note))
        parts.append(details.BadRequest(field_violations=fitting_faults))
    return status_pb2.Status(code=error.reason.kind.value, message=message, details=[_packed(part) for part in parts])


def unforeseen(request_id: str) -> RegistryError:
    """What a caller learns of an exception that nobody foresaw."""
    return RegistryError(
        Reason.INTERNAL, f"internal error, request id {request_id}", metadata={"requestId": request_id}
    )


def _short_parts(error: RegistryError) -> Iterator[Message]:
    yield details.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=dict(error.metadata))
    if error.resource:
        thing = error.resource
        yield details.ResourceInfo(resource_type=thing.type, resource_name=thing.name, description=thing.description)
    if error.quota:
        whose = f"{error.quota.type}:{error.quota.name}"
        violation = details.QuotaFailure.Violation(subject=whose, description=error.quota.description)
        yield details.QuotaFailure(violations=[violation])
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        yield details.RetryInfo(retry_delay=delay)


def _fitting(entries: list[M], room: int, note: Callable[[str], M]) -> list[M]:
    """The first entries that take no more than `room` bytes, and a note that counts the others."""
    room -= _PACKING + _NOTE
    for number, entry in enumerate(entries):
        room -= entry.ByteSize() + 3
        if room < 0:
            return [*entries[:number], note(f"{len(entries) - number} more are not listed")]
    return entries


def _cut(message: str) -> str:
    """As much of a message as may stand in the trailers, where most bytes beyond ASCII take three."""
    room = limits.STATUS_MESSAGE
    for number, character in enumerate(message):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if room < 0:
            return message[: number - 3] + "..."
    return message


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
