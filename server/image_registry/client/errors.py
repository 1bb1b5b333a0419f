"""What can go wrong with a call: one exception class for each family of codes, with the status' details parsed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from image_registry.client.models import JobMetadata, ManagedImage, TerminationReason, WaitProgress

_DETAILS = "grpc-status-details-bin"
_AROUND = re.compile(
    r".*last error: (?:[A-Z_]+: )?|(?:ipv[46]|unix):\S+: |Failed to connect to remote host: ", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class FieldFault:
    """A field that breaks a rule: its JSON path (`pipRequirements[2].name`) and what would be right.

    One without a field, the last, says how many more there are than an answer holds.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Resource:
    """The thing that an error is about, such as type `image` and its name."""

    type: str
    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Precondition:
    """What stands in the way, such as subject `image/vision` that 'is built on it'."""

    type: str
    subject: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit that was reached: whose, such as `key:4f2a`, and which."""

    subject: str
    description: str


class ImageRegistryError(Exception):
    """What this client raises, whatever it is."""


class CallError(ImageRegistryError):
    """A call that didn't succeed. `str()` of it is the service's sentence for the caller.

    `code` is the canonical code, `reason` the machine-readable reason of the errors' catalogue ('' if the answer
    came from elsewhere than the service), `retry_after` the seconds that the service asks to wait. `metadata`
    holds the reason's particulars. `address` is the server that was asked.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        faults: tuple[FieldFault, ...] = (),
        resource: Resource | None = None,
        preconditions: tuple[Precondition, ...] = (),
        quotas: tuple[Quota, ...] = (),
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
        address: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.faults = faults
        self.resource = resource
        self.preconditions = preconditions
        self.quotas = quotas
        self.retry_after = retry_after
        self.metadata: dict[str, str] = dict(metadata or {})
        self.address = address

    @property
    def request_id(self) -> str:
        """What the service's operators need to find the call in their log; '' if the answer names none."""
        return self.metadata.get("requestId", "")

    @property
    def cause(self) -> str:
        """The message; of what gRPC says when there is no connection, the cause alone: 'Connection refused'."""
        if not self.reason and "Domain name not found" in self.message:
            return "no such host is known"
        return self.message if self.reason else _AROUND.sub("", self.message)


class InvalidArgumentError(CallError):
    """The request breaks rules; `faults` lists every field that does."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(CallError):
    """There is no such image or job; `resource` names it."""

    default_code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(CallError):
    """The name is taken."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class UnauthenticatedError(CallError):
    """No API key was sent, or one that isn't valid."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(CallError):
    """The API key is valid, but its role doesn't allow the call."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class FailedPreconditionError(CallError):
    """The image or job is not in a state for this; `preconditions` names what stands in the way."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(CallError):
    """A limit was reached, which `quotas` names, or the service is overloaded; `retry_after` says when to come back."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(CallError):
    """The service can't be reached, or can't serve at the moment; `message` of the former is gRPC's own."""

    default_code = grpc.StatusCode.UNAVAILABLE

    def __str__(self) -> str:
        if self.reason or not self.address:
            return self.message
        remedy = "start the product with `image-registry up`, or give the client the address of its server"
        return f"{self.address} can't be reached: {self.cause}; {remedy}"


class DeadlineExceededError(CallError):
    """The time for the call was up. A write may have happened all the same: read before repeating it."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnimplementedError(CallError):
    """The server doesn't know the call: it is of another version, or no image registry at all."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(CallError):
    """Something that the service didn't foresee; give its operators the `request_id`."""

    default_code = grpc.StatusCode.INTERNAL


class BuildFailedError(ImageRegistryError):
    """The build that was waited for made no image. `cause` says why, in the builder's words."""

    def __init__(self, image: ManagedImage, job: JobMetadata | None) -> None:
        super().__init__(image, job)
        self.image = image
        self.job = job

    @property
    def cause(self) -> str:
        """Why it failed; for requirements that can't be met, the resolver's own explanation."""
        return (self.job.job_progress_str if self.job else "") or "the service gives no cause"

    @property
    def is_users_fault(self) -> bool:
        """Whether the requirements are the cause, so that the same again would fail again."""
        return self.job is not None and self.job.termination_reason is TerminationReason.GENERIC_ERROR

    def __str__(self) -> str:
        return f"the build of {self.image.name!r} failed: {self.cause}"


class BuildCancelledError(BuildFailedError):
    """The build that was waited for was cancelled."""

    def __str__(self) -> str:
        return f"the build of {self.image.name!r} was cancelled"


class WaitTimeoutError(ImageRegistryError, TimeoutError):
    """The build was not over in time; it goes on. `progress` is what was seen last."""

    def __init__(self, progress: WaitProgress) -> None:
        super().__init__(progress)
        self.progress = progress

    def __str__(self) -> str:
        image = self.progress.image
        return f"{image.name!r} is still {image.status} after {self.progress.elapsed:.0f} s; its build goes on"


_BY_CODE: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.ABORTED: FailedPreconditionError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
} | {cls.default_code: cls for cls in CallError.__subclasses__()}


def from_rpc_error(error: grpc.RpcError, address: str = "") -> CallError:
    """The exception for a failed call to that address, with everything that its status says.

    A traceback shows gRPC's own exception, its `__context__`, only where nobody foresaw what happened.
    """
    call: Any = error
    code = call.code()
    message = call.details() or code.name.replace("_", " ").lower()
    raised = _BY_CODE.get(code, CallError)(message, code=code, address=address, **_details(call))
    raised.__context__ = error
    raised.__suppress_context__ = not isinstance(raised, InternalError)
    return raised


def _details(call: Any) -> dict[str, Any]:
    """What the status in the trailing metadata says; parts that are damaged or unknown are left out."""
    trailers = dict(call.trailing_metadata() or ())
    found: dict[str, Any] = {}
    try:
        for detail in status_pb2.Status.FromString(trailers.get(_DETAILS, b"")).details:
            found |= _detail(detail)
    except DecodeError:
        pass
    return found


def _detail(packed: AnyMessage) -> dict[str, Any]:
    """What one detail says, as arguments of CallError."""
    kind, read = _READERS.get(packed.TypeName(), (None, None))
    return read(kind.FromString(packed.value)) if kind and read else {}


_READERS: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    kind.DESCRIPTOR.full_name: (kind, read)
    for kind, read in (
        (details.ErrorInfo, lambda info: {"reason": info.reason, "metadata": dict(info.metadata)}),
        (details.BadRequest, lambda bad: {"faults": _many(FieldFault, bad.field_violations, "field")}),
        (details.ResourceInfo, lambda it: {"resource": Resource(it.resource_type, it.resource_name, it.description)}),
        (
            details.PreconditionFailure,
            lambda it: {"preconditions": _many(Precondition, it.violations, "type", "subject")},
        ),
        (details.QuotaFailure, lambda it: {"quotas": _many(Quota, it.violations, "subject")}),
        (details.RetryInfo, lambda it: {"retry_after": it.retry_delay.ToNanoseconds() / 1e9}),
    )
}


def _many(kind: Callable[..., Any], violations: Iterable[Any], *names: str) -> tuple[Any, ...]:
    return tuple(kind(*(getattr(one, name) for name in (*names, "description"))) for one in violations)
