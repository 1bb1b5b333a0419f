"""The document says what the published API page says: paths, parameters, schemas, fields, types, required marks."""

from __future__ import annotations

from typing import Any

import pytest

from image_registry.openapi.document import build
from tests.fixtures.api_page import ApiPage, Parameter, read_page

OURS_ALONE = {  # in the document, but not on the page: the other services, and what the platform's builders call
    "FindImagesResponseFoundImage",
    "rimeCancelJobResponse",
    "rimeFindImagesRequest",
    "rimeFindImagesResponse",
    "rimeGetImageLockResponse",
    "rimeGetJobResponse",
    "rimeJobView",
    "rimeListJobsResponse",
    "rimeLockedLibrary",
    "rimeUpdateBuildInfoRequest",
}


@pytest.fixture(scope="module")
def page() -> ApiPage:
    return read_page()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build()


def type_text(schema: dict[str, Any]) -> str:
    """A type as the page writes it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema["type"] == "array":
        return f"[{type_text(schema['items'])}]"
    match schema.get("format"):
        case "date-time":
            return "dateTime"
        case "double":
            return "double"
        case "int64":
            return "string (int64)"
    return str(schema["type"])


def test_the_page_was_read_whole(page: ApiPage) -> None:
    assert len(page.operations) == 5
    assert len(page.models) == 37
    assert page.models["rimeManagedImage"].fields["childImages"] == ("[rimeImageReference]", False)
    assert page.models["rimeCreateImageRequest"].fields["name"] == ("string", True)


def test_every_path_and_method_of_the_page(page: ApiPage, document: dict[str, Any]) -> None:
    ours = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert set(page.operations) <= ours
    assert ours - set(page.operations) == {
        ("GET", "/v1/images/{name}/lock"),
        ("POST", "/v1/images/find"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/{jobId}"),
        ("GET", "/v1/jobs/{jobId}/logs"),
        ("POST", "/v1/jobs/cancel/{jobId}"),
        ("POST", "/internal/images/update-info"),
    }


def test_summaries_parameters_and_answers(page: ApiPage, document: dict[str, Any]) -> None:
    for (method, path), wanted in page.operations.items():
        operation = document["paths"][path][method.lower()]
        found = [
            Parameter(one["name"], one["in"], one["required"], type_text(one["schema"]))
            for one in operation.get("parameters", [])
        ]
        if "requestBody" in operation:  # OpenAPI 3 gave the body a place of its own
            body = operation["requestBody"]
            found.append(Parameter("body", "body", body["required"], type_text(json_schema(body))))
        assert found == wanted.parameters, path
        assert operation["summary"] == wanted.summary
        answers = {code: type_text(json_schema(answer)) for code, answer in operation["responses"].items()}
        assert answers == wanted.responses, path


def json_schema(described: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body or an answer, which is JSON and nothing else."""
    (content,) = described["content"].items()
    assert content[0] == "application/json"
    schema: dict[str, Any] = content[1]["schema"]
    return schema


def test_schema_names(page: ApiPage, document: dict[str, Any]) -> None:
    ours = set(document["components"]["schemas"])
    assert set(page.models) - ours == set()
    assert ours - set(page.models) == OURS_ALONE


def test_fields_their_order_types_and_required_marks(page: ApiPage, document: dict[str, Any]) -> None:
    for name, model in page.models.items():
        schema = document["components"]["schemas"][name]
        found = {
            field: (type_text(one), field in schema.get("required", ()))
            for field, one in schema.get("properties", {}).items()
        }
        assert found == model.fields, name
        assert list(found) == list(model.fields), name
        assert model.itself in {"", schema["type"]}, name


def test_enum_values_that_the_page_describes(page: ApiPage, document: dict[str, Any]) -> None:
    enums = {name: model.values for name, model in page.models.items() if model.itself == "string"}
    assert sum(map(len, enums.values())) == 19
    for name, values in enums.items():
        known = document["components"]["schemas"][name]["enum"]
        assert set(values) <= set(known), name
        if set(values) == set(known):
            assert values == known, name
