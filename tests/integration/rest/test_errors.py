"""Errors over REST: the same status as over gRPC, as JSON that every published client can read."""

from __future__ import annotations

import ast
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_status import rpc_status
from ri.api.imageregistry import image_registry_pb2 as pb

from tests.fixtures.rest import Rest, running_rest
from tests.fixtures.service import make_settings

TYPES = "type.googleapis.com/google.rpc."


@pytest.fixture
async def product(dsn: str, tmp_path: Path) -> AsyncIterator[Rest]:
    """A product with the image `vision`, which is building."""
    async with running_rest(make_settings(), dsn, tmp_path) as running:
        await running.service.create("vision", python_version="3.12")
        yield running


async def refusal(product: Rest, status: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The JSON of a call that is refused; whatever was wrong, it can be read as the published clients read it."""
    response = await product.http.request(method, path, json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()
    assert sorted(error) == ["code", "details", "message"]
    assert ast.literal_eval(response.text) == error
    assert error["details"][0]["@type"] == f"{TYPES}ErrorInfo"
    assert error["details"][0]["domain"] == "image-registry"
    return error


def detail(error: dict[str, Any], kind: str) -> dict[str, Any]:
    """The only detail of a kind, without its type."""
    [found] = [one for one in error["details"] if one["@type"] == TYPES + kind]
    return {name: value for name, value in found.items() if name != "@type"}


async def test_all_faults_at_once_with_fields_as_in_json(product: Rest) -> None:
    body = {
        "name": "No",
        "pipRequirements": [{"name": "numpy"}, {"name": "git+https://x/y"}, {"name": "NumPy"}],
        "packageRequirements": [{"name": "vim"}],
        "pythonVersion": "2.7",
    }
    error = await refusal(product, 400, "POST", "/v1/images", body)
    assert error["code"] == 3
    assert detail(error, "ErrorInfo")["reason"] == "INVALID_REQUEST"
    violations = detail(error, "BadRequest")["fieldViolations"]
    assert [one["field"] for one in violations] == [
        "name",
        "pipRequirements[1].name",
        "pipRequirements[2].name",
        "packageRequirements[0].packageType",
        "pythonVersion",
    ]
    assert all(one["description"] in error["message"] for one in violations)


async def test_not_found(product: Rest) -> None:
    for method in ("GET", "DELETE"):
        error = await refusal(product, 404, method, "/v1/images/other")
        assert error["code"] == 5
        assert detail(error, "ErrorInfo")["reason"] == "IMAGE_NOT_FOUND"
        resource = detail(error, "ResourceInfo")
        assert (resource["resourceType"], resource["resourceName"]) == ("image", "other")
    for path in ("", "/logs"):
        error = await refusal(product, 404, "GET", f"/v1/jobs/00000000-0000-4000-8000-000000000000{path}")
        assert error["code"] == 5


async def test_a_taken_name_is_a_conflict(product: Rest) -> None:
    error = await refusal(product, 409, "POST", "/v1/images", {"name": "vision", "pipRequirements": [{"name": "a"}]})
    assert (error["code"], detail(error, "ErrorInfo")["reason"]) == (6, "IMAGE_ALREADY_EXISTS")


async def test_what_stands_in_the_way_is_named(product: Rest) -> None:
    await product.service.report("vision", "numpy==1.0")
    error = await refusal(product, 400, "POST", "/internal/images/update-info", {"name": "vision"})
    assert error["code"] == 9
    assert detail(error, "PreconditionFailure")["violations"][0]["subject"] == "image/vision"


async def test_a_protected_image_is_forbidden(product: Rest) -> None:
    error = await refusal(product, 403, "DELETE", "/v1/images/system-python-3-12")
    assert error["code"] == 7


@pytest.mark.parametrize("token", ["x", "forged-token", "a" * 20_000])
async def test_tokens_that_the_service_did_not_give_out(product: Rest, token: str) -> None:
    error = await refusal(product, 400, "GET", f"/v1/images?pageToken={token}")
    assert detail(error, "ErrorInfo")["reason"] == "INVALID_PAGE_TOKEN"
    assert detail(error, "BadRequest")["fieldViolations"][0]["field"] == "pageToken"


async def test_a_negative_page(product: Rest) -> None:
    for path in ("images", "jobs"):
        error = await refusal(product, 400, "GET", f"/v1/{path}?pageSize=-1")
        assert detail(error, "BadRequest")["fieldViolations"][0]["field"] == "pageSize"


async def test_strange_names_are_not_found_or_refused_but_never_a_fault(product: Rest) -> None:
    for name in ("%20", "%0A", "%C3%A9", "%F0%9F%98%80", "a" * 300, "'; drop table images", "<script>", "..%20"):
        response = await product.http.get(f"/v1/images/{name}")
        assert response.status_code in {400, 404}, (name, response.text)
        assert ast.literal_eval(response.text) == response.json()


async def test_an_unforeseen_exception_shows_an_id_and_nothing_else(
    product: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def SerializeToString(self) -> bytes:  # noqa: N802
            raise RuntimeError("secret")

    monkeypatch.setattr("image_registry.registry.images.Images.get", lambda *_: Broken())
    response = await product.http.get("/v1/images/vision")
    assert response.status_code == 500
    error = response.json()
    assert error["code"] == 13
    assert "secret" not in response.text
    assert detail(error, "ErrorInfo")["metadata"]["requestId"] in error["message"]


async def test_a_server_that_is_away_is_503_with_a_time(product: Rest) -> None:
    await product.service.server.grpc.stop(None)
    response = await product.http.post("/v1/images", json={})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert json.loads(response.text)["code"] == 14


async def test_native_grpc_and_rest_give_the_same_status(product: Rest) -> None:
    error = await refusal(product, 404, "GET", "/v1/images/other")
    with pytest.raises(aio.AioRpcError) as caught:
        await product.service.images.GetImage(pb.GetImageRequest(name="other"))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert (status.code, status.message) == (error["code"], error["message"])
    assert [one.type_url for one in status.details] == [one["@type"] for one in error["details"]]
