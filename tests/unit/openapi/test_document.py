"""The document itself: valid, described throughout, kept in docs/, with examples that fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.openapi import examples
from image_registry.openapi.contract import Contract, load
from image_registry.openapi.document import as_json, build
from image_registry.openapi.naming import schema_names

REPOSITORY = Path(__file__).parents[3]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    return build()


def operations(document: Json) -> Iterator[Json]:
    for verbs in document["paths"].values():
        yield from verbs.values()


def fits(document: Json, schema: Json, value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_it_is_valid_openapi(document: Json) -> None:
    OpenAPIV31SpecValidator(document).validate()


@pytest.mark.parametrize("form", ["json", "html"])
def test_what_is_kept_in_docs_is_what_is_generated(form: str) -> None:
    made = subprocess.run([sys.executable, "-m", "image_registry.openapi", form], capture_output=True, check=True)
    kept = (REPOSITORY / f"docs/openapi.{form}").read_bytes()
    assert made.stdout == kept, "run make generate"


def test_it_is_the_same_every_time(document: Json) -> None:
    assert as_json(build(load())) == as_json(document)
    assert json.loads(as_json(document)) == document


def test_every_operation_parameter_schema_field_and_value_is_described(document: Json) -> None:
    for operation in operations(document):
        assert operation["description"], operation["operationId"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
    for name, schema in document["components"]["schemas"].items():
        if name == "googlerpcStatus":  # Google's own, whose comments are not in the descriptor set
            continue
        assert schema["description"], name
        for field, value in schema.get("properties", {}).items():
            assert value.get("description") or name == "protobufAny", (name, field)
        for value in schema.get("enum", []):
            assert f"- {value}: " in schema["description"], (name, value)


def test_comments_name_fields_as_json_does(document: Json) -> None:
    contract = load()
    fields = {one.name for message in contract.messages.values() for one in message.field if "_" in one.name}
    text = as_json(document)
    assert {name for name in fields if f"`{name}`" in text or f".{name}`" in text} == set()


def test_internal_paths_are_marked_and_others_are_not(document: Json) -> None:
    marked = {path for path, verbs in document["paths"].items() if any(one.get("x-internal") for one in verbs.values())}
    assert marked == {"/internal/images/update-info"}


def test_examples_fit_their_schemas(document: Json) -> None:
    checked = 0
    for operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for described in (*bodies, *operation["responses"].values()):
            for content in described["content"].values():
                fits(document, content["schema"], content["example"])
                checked += 1
        for parameter in operation.get("parameters", []):
            if "example" in parameter:
                fits(document, parameter["schema"], parameter["example"])
    assert checked == 4 + 2 * len(list(operations(document)))


def test_examples_are_messages_with_every_field_that_the_gateway_prints() -> None:
    types = {
        "ImageRegistry_CreateImage": pb.CreateImageResponse,
        "ImageRegistry_GetImage": pb.GetImageResponse,
        "ImageRegistry_ListImages": pb.ListImagesResponse,
        "JobReader_ListJobs": jobs_pb2.ListJobsResponse,
        "JobReader_GetJob": jobs_pb2.GetJobResponse,
    }
    for operation, kind in types.items():
        example = examples.RESPONSES[operation]
        message = json_format.Parse(json.dumps(example), kind())
        assert json_format.MessageToDict(message, always_print_fields_with_no_presence=True) == example


def test_a_schema_refuses_what_the_service_refuses(document: Json) -> None:
    create = {"$ref": "#/components/schemas/rimeCreateImageRequest"}
    wrong: list[Json] = [
        {},
        {"name": 5, "pipRequirements": []},
        {"name": "x", "pipRequirements": [{"name": ["numpy"]}]},
    ]
    validator = Draft202012Validator({**create, "components": document["components"]})
    assert [validator.is_valid(one) for one in wrong] == [False, False, False]


def test_names_are_as_short_as_they_can_be() -> None:
    names = ["a.One", "a.b.Two", "a.One.Status", "c.Status", "a.Two.Deep.Status"]
    assert schema_names(names) == {
        "a.One": "aOne",
        "a.b.Two": "bTwo",
        "a.One.Status": "aOneStatus",
        "c.Status": "cStatus",
        "a.Two.Deep.Status": "TwoDeepStatus",
    }


def test_a_type_that_nobody_thought_of_is_an_error() -> None:
    contract = load()
    message = contract.messages["rime.UUID"]
    message.field[0].type = message.field[0].TYPE_BYTES
    with pytest.raises(ValueError, match="TYPE_BYTES has no JSON schema"):
        build(contract)


def test_a_contract_without_services_has_no_paths() -> None:
    contract = load()
    assert build(Contract(contract.messages, contract.enums, {}, {}))["paths"] == {}
