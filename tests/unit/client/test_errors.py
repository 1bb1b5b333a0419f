"""Statuses become exceptions with their details parsed."""

import pickle
import traceback
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2

from image_registry.api.status import TRAILER, to_status
from image_registry.client import (
    CallError,
    FailedPreconditionError,
    FieldFault,
    ImageRegistryError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    Precondition,
    Quota,
    Resource,
    ResourceExhaustedError,
    UnavailableError,
)
from image_registry.client.errors import from_rpc_error
from image_registry.errors import Fault, Kind, Reason, RegistryError
from image_registry.errors import Resource as Thing


class Failed(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str | None, trailers: Any = ()) -> None:
        self._parts = (code, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str | None:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


def raised(error: RegistryError) -> CallError:
    """What a client sees of a refusal of the service."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return from_rpc_error(Failed(code, status.message, ((TRAILER, status.SerializeToString()),)))


def test_all_faults_arrive() -> None:
    faults = (Fault("name", "must be short"), Fault("pipRequirements[1].name", "must be a name"))
    error = raised(RegistryError(Reason.INVALID_REQUEST, "two faults", faults=faults))
    assert isinstance(error, InvalidArgumentError)
    assert (str(error), error.reason) == ("two faults", "INVALID_REQUEST")
    assert error.faults == (
        FieldFault("name", "must be short"),
        FieldFault("pipRequirements[1].name", "must be a name"),
    )


def test_the_resource_and_what_stands_in_the_way_arrive() -> None:
    error = raised(
        RegistryError(
            Reason.IMAGE_HAS_CHILDREN,
            "no",
            resource=Thing("image", "a", "the one"),
            blockers=(Thing("image", "b", "built on it"),),
        )
    )
    assert isinstance(error, FailedPreconditionError)
    assert error.resource == Resource("image", "a", "the one")
    assert error.preconditions == (Precondition("IMAGE_HAS_CHILDREN", "image/b", "built on it"),)


def test_the_delay_and_the_request_id_arrive() -> None:
    overloaded = raised(RegistryError(Reason.OVERLOADED, "busy", retry_after=1.5))
    assert isinstance(overloaded, ResourceExhaustedError)
    assert overloaded.retry_after == 1.5
    quota = Thing("key", "4f2a", "10 requests a second")
    limited = raised(RegistryError(Reason.RATE_LIMITED, "slower", quota=quota, retry_after=0.2))
    assert limited.quotas == (Quota("key:4f2a", "10 requests a second"),)
    internal = raised(RegistryError(Reason.INTERNAL, "oops", metadata={"requestId": "abc"}))
    assert isinstance(internal, InternalError)
    assert internal.request_id == "abc"


@pytest.mark.parametrize("kind", Kind)
def test_every_code_of_the_service_has_a_class_of_its_own(kind: Kind) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == kind.value)
    error = from_rpc_error(Failed(code, "text"))
    assert type(error) is not CallError
    assert type(error).default_code is code
    assert isinstance(error, ImageRegistryError)


def test_a_status_from_elsewhere_or_damaged_is_an_error_without_details() -> None:
    bare = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, None, None))
    assert isinstance(bare, UnavailableError)
    assert (str(bare), bare.reason, bare.retry_after) == ("unavailable", "", None)
    damaged = from_rpc_error(Failed(grpc.StatusCode.NOT_FOUND, "none", ((TRAILER, b"\xff\xff\xff"),)))
    assert isinstance(damaged, NotFoundError)
    status = status_pb2.Status(details=[AnyMessage(type_url="type.googleapis.com/unknown.Thing", value=b"\x01")])
    unknown = from_rpc_error(Failed(grpc.StatusCode.ABORTED, "none", ((TRAILER, status.SerializeToString()),)))
    assert isinstance(unknown, FailedPreconditionError)
    assert unknown.code is grpc.StatusCode.ABORTED
    assert isinstance(from_rpc_error(Failed(grpc.StatusCode.UNKNOWN, "?")), InternalError)
    assert type(from_rpc_error(Failed(grpc.StatusCode.CANCELLED, "?"))) is CallError


def test_without_a_connection_the_address_and_what_to_do_are_told_in_plain_words() -> None:
    cause = "connect: Connection refused (111)"
    said = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
        f"Failed to connect to remote host: {cause}"
    )
    error = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, said), "127.0.0.1:1")
    assert str(error).startswith(f"127.0.0.1:1 can't be reached: {cause}; start the product")
    assert error.message == said
    assert len(traceback.format_exception(error)) == 1, "what gRPC raised is no part of the traceback"
    assert isinstance(error.__context__, Failed)
    said = "errors resolving x:1: [field:hostname lookup error:address lookup failed for x:1: Domain name not found]"
    nowhere = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, said), "x:1")
    assert str(nowhere).startswith("x:1 can't be reached: no such host is known; ")
    status = to_status(RegistryError(Reason.DATABASE_UNAVAILABLE, "the database is away"))
    trailers = ((TRAILER, status.SerializeToString()),)
    answered = from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, status.message, trailers), "127.0.0.1:1")
    assert str(answered) == answered.cause == "the database is away"


def test_what_nobody_foresaw_keeps_its_whole_traceback() -> None:
    unforeseen = from_rpc_error(Failed(grpc.StatusCode.UNKNOWN, "?"), "127.0.0.1:1")
    assert len(traceback.format_exception(unforeseen)) > 1


def test_errors_survive_pickling() -> None:
    error = raised(RegistryError(Reason.INVALID_REQUEST, "text", faults=(Fault("name", "x"),)))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.faults, copy.code) == (type(error), "text", error.faults, error.code)
