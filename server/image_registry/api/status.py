"""Turns a `RegistryError` into a `google.rpc.Status`. Details hold strings and numbers only."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from image_registry.errors import DOMAIN, Reason, RegistryError, Resource

TRAILER = "grpc-status-details-bin"


def to_status(error: RegistryError) -> status_pb2.Status:
    """The status with `ErrorInfo` and whatever else fits the error."""
    messages: list[Message] = [
        details.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=dict(error.metadata))
    ]
    if error.faults:
        violations = [
            details.BadRequest.FieldViolation(field=fault.field, description=fault.description)
            for fault in error.faults
        ]
        messages.append(details.BadRequest(field_violations=violations))
    if error.resource:
        messages.append(_resource_info(error.resource, error.message))
    if error.blockers:
        preconditions = [
            details.PreconditionFailure.Violation(
                type=error.reason.name, subject=f"{blocker.type}/{blocker.name}", description=blocker.description
            )
            for blocker in error.blockers
        ]
        messages.append(details.PreconditionFailure(violations=preconditions))
    if error.quota:
        subject = f"{error.quota.type}:{error.quota.name}"
        violation = details.QuotaFailure.Violation(subject=subject, description=error.quota.description)
        messages.append(details.QuotaFailure(violations=[violation]))
    if error.retry_after is not None:
        messages.append(details.RetryInfo(retry_delay=_duration(error.retry_after)))
    return status_pb2.Status(
        code=error.reason.kind.value, message=error.message, details=[_packed(message) for message in messages]
    )


def unforeseen(request_id: str) -> RegistryError:
    """What a caller learns of an exception that nobody foresaw."""
    return RegistryError(
        Reason.INTERNAL, f"internal error, request id {request_id}", metadata={"requestId": request_id}
    )


def _resource_info(resource: Resource, description: str) -> details.ResourceInfo:
    return details.ResourceInfo(
        resource_type=resource.type, resource_name=resource.name, description=resource.description or description
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
