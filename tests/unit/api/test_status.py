"""Errors as `google.rpc.Status`: complete, readable by every client, and never too large for the trailers."""

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from image_registry import limits
from image_registry.api.status import to_status, unforeseen
from image_registry.errors import (
    DOMAIN,
    FAULTS_IN_MESSAGE,
    Fault,
    Kind,
    Reason,
    RegistryError,
    Resource,
    invalid,
)

TRAILERS = 8192  # bytes that clients take by default; the grpc library itself adds some 200


def unpacked(status: status_pb2.Status) -> dict[str, Any]:
    found = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(details, name)()
        packed.Unpack(found[name])
    return found


def size_in_trailers(status: status_pb2.Status) -> int:
    message = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in status.message.encode())
    return message + len(base64.b64encode(status.SerializeToString())) + 200


def everything(reason: Reason) -> RegistryError:
    return RegistryError(
        reason,
        "a sentence",
        faults=(Fault("name", "must be right"),),
        resource=Resource("image", "a"),
        blockers=(Resource("image", "b", "is built on it"),),
        retry_after=1.5,
        metadata={"requestId": "7"},
    )


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_code_and_error_info(reason: Reason) -> None:
    status = to_status(RegistryError(reason, "a sentence"))
    assert (status.code, status.message) == (reason.kind.value, "a sentence")
    info = unpacked(status)["ErrorInfo"]
    assert (info.reason, info.domain) == (reason.name, DOMAIN)


def test_the_details_say_what_the_error_knows() -> None:
    found = unpacked(to_status(everything(Reason.IMAGE_HAS_CHILDREN)))
    assert found["ErrorInfo"].metadata == {"requestId": "7"}
    assert (found["ResourceInfo"].resource_type, found["ResourceInfo"].resource_name) == ("image", "a")
    [violation] = found["PreconditionFailure"].violations
    assert (violation.type, violation.subject, violation.description) == (
        "IMAGE_HAS_CHILDREN",
        "image/b",
        "is built on it",
    )
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1500
    assert [(f.field, f.description) for f in found["BadRequest"].field_violations] == [("name", "must be right")]


@pytest.mark.parametrize("reason", Reason)
def test_details_hold_strings_and_numbers_only(reason: Reason) -> None:
    def leaves(value: Any) -> Any:
        if isinstance(value, dict):
            return [leaf for one in value.values() for leaf in leaves(one)]
        if isinstance(value, list):
            return [leaf for one in value for leaf in leaves(one)]
        return [value]

    written = json.loads(
        json_format.MessageToJson(to_status(everything(reason)), always_print_fields_with_no_presence=True)
    )
    assert {type(leaf) for leaf in leaves(written)} <= {str, int, float}


def test_an_unforeseen_error_says_its_id_and_nothing_else() -> None:
    status = to_status(unforeseen("0123abcd"))
    assert status.code == Kind.INTERNAL.value
    assert status.message == "internal error, request id 0123abcd"
    assert unpacked(status).keys() == {"ErrorInfo"}


def test_the_message_names_the_first_faults() -> None:
    few = invalid([Fault("a", "must be x"), Fault("b", "must be y")])
    assert str(few) == "a: must be x; b: must be y"
    many = invalid([Fault(f"f{number}", "must be x") for number in range(FAULTS_IN_MESSAGE + 3)])
    assert str(many).endswith("f4: must be x; and 3 more")


def test_as_many_faults_are_listed_as_trailers_hold() -> None:
    faults = [Fault(f"pipRequirements[{number}].versionSpecifier", "must be right " * 6) for number in range(1000)]
    status = to_status(invalid(faults))
    assert size_in_trailers(status) <= TRAILERS
    listed = unpacked(status)["BadRequest"].field_violations
    assert [one.field for one in listed[:-1]] == [fault.field for fault in faults[: len(listed) - 1]]
    assert listed[-1].description == f"{1000 - len(listed) + 1} more are not listed"
    assert len(listed) > 25


def test_as_many_blockers_are_listed_as_trailers_hold() -> None:
    names = [f"{number:0250}" for number in range(limits.CHILDREN_NAMED)]
    error = RegistryError(
        Reason.IMAGE_HAS_CHILDREN,
        f"is the base of {', '.join(names)}",
        resource=Resource("image", "a" * 250),
        blockers=tuple(Resource("image", name, "is built on it") for name in names),
    )
    status = to_status(error)
    assert size_in_trailers(status) <= TRAILERS
    assert status.message.endswith("...")
    violations = unpacked(status)["PreconditionFailure"].violations
    assert 10 < len(violations) < len(names)
    assert violations[-1].description.endswith("more are not listed")


@pytest.mark.parametrize("character", ["a", "%", "ä", "€", "😀", "\n"])
def test_no_message_is_too_long_for_the_trailers(character: str) -> None:
    status = to_status(RegistryError(Reason.INTERNAL, character * 5000))
    assert size_in_trailers(status) <= TRAILERS
    assert status.message.endswith("...")
    assert len(status.message) > 70


def test_a_message_that_fits_is_left_alone() -> None:
    text = "x" * limits.STATUS_MESSAGE
    assert to_status(RegistryError(Reason.INTERNAL, text)).message == text
