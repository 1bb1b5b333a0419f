"""What passes the gateway, in both directions."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from tests.integration.gateway.conftest import Proxied

pytestmark = pytest.mark.asyncio(loop_scope="module")
LARGE = [("grpc.max_receive_message_length", -1)]


async def test_nothing_is_left_out_of_an_answer(shared: Proxied) -> None:
    empty = await shared.http.get("/v1/images")
    assert empty.json() == {"images": [], "nextPageToken": ""}
    image = (await shared.http.get("/v1/images/x")).json()["image"]
    assert image["status"] == "STATUS_UNSPECIFIED"
    assert image["roleType"] == "ROLE_TYPE_UNSPECIFIED"
    assert (image["pipLibraries"], image["childImages"], image["pythonVersion"]) == ([], [], "")


async def test_an_answer_is_plain_json(shared: Proxied) -> None:
    answer = await shared.http.get("/v1/images/x")
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.headers) == {"content-type", "content-length", "date", "server", "x-request-id"}


async def test_both_spellings_are_understood(shared: Proxied) -> None:
    for body in ({"packageRequirements": [{"name": "x"}]}, {"package_requirements": [{"name": "x"}]}):
        assert (await shared.http.post("/v1/images", json=body)).status_code == 200
        assert shared.upstream.images.requests[-1].package_requirements[0].name == "x"
    for query in ("pageSize=3&pageToken=a%2Fb", "page_size=3&page_token=a%2Fb"):
        assert (await shared.http.get(f"/v1/images?{query}")).status_code == 200
        assert (shared.upstream.images.requests[-1].page_size, shared.upstream.images.requests[-1].page_token) == (
            3,
            "a/b",
        )


async def test_nested_and_repeated_parameters(shared: Proxied) -> None:
    query = "firstPageQuery.selectedStatuses=JOB_STATUS_RUNNING&first_page_query.selected_statuses=JOB_STATUS_PENDING"
    assert (await shared.http.get(f"/v1/jobs?{query}&view=JOB_VIEW_FULL")).status_code == 200
    assert len(shared.upstream.jobs.requests[-1].first_page_query.selected_statuses) == 2


async def test_both_bindings_of_the_list(shared: Proxied) -> None:
    body = {"pageSize": "2", "pipLibraries": [{"name": "numpy", "version": "1.0"}]}
    answer = await shared.http.post("/v1/images/list", json=body)
    assert len(answer.json()["images"]) == 2
    assert shared.upstream.images.requests[-1].pip_libraries[0].version == "1.0"


async def test_a_large_list_arrives_whole(shared: Proxied) -> None:
    answer = await shared.http.get("/v1/images?pageSize=1000")
    images = answer.json()["images"]
    assert (len(images), {len(image["pipLibraries"]) for image in images}) == (1000, {300})


async def test_a_large_create_answer_arrives_whole(shared: Proxied) -> None:
    answer = await shared.http.post("/v1/images", json={"name": "large"})
    assert answer.status_code == 200
    assert len(answer.content) > 20_000_000


async def test_errors_keep_their_details(shared: Proxied) -> None:
    answer = await shared.http.get("/v1/images/missing")
    detail = {"reason": "IMAGE_NOT_FOUND", "domain": "image-registry", "metadata": {}}
    expected = {
        "code": 5,
        "message": "no image has the name 'missing'",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **detail}],
    }
    assert (answer.status_code, answer.json()) == (404, expected)
    assert not any(name.startswith("grpc-") for name in answer.headers)


async def test_the_servers_own_unavailable_is_what_callers_see(shared: Proxied) -> None:
    answer = await shared.http.get("/v1/images/unavailable")
    assert answer.status_code == 503
    assert answer.json()["details"][0]["retryDelay"] == "1s"
    assert answer.headers["retry-after"] == "1"


async def test_the_key_passes_and_nothing_else_can_be_pretended(shared: Proxied) -> None:
    pretended = {
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "evil.example",
        "x-forwarded-client-cert": "Subject=admin",
        "forwarded": "for=203.0.113.9",
        "x-real-ip": "203.0.113.9",
        "x-envoy-original-path": "/evil",
        "x-envoy-external-address": "203.0.113.9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-expected-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
    }
    answer = await shared.http.get(
        "/v1/images/x", headers={"rime-api-key": "secret-key", "x-request-id": "my-id", **pretended}
    )
    assert answer.status_code == 200
    seen = shared.upstream.images.metadata
    assert (seen["rime-api-key"], seen["x-request-id"]) == ("secret-key", "my-id")
    assert "x-request-id-generated" not in seen
    assert answer.headers["x-request-id"] == "my-id"
    assert not [(name, value) for name, value in pretended.items() if seen.get(name) == value]


async def test_the_server_learns_the_time_limit(shared: Proxied) -> None:
    await shared.http.get("/v1/images/x")
    assert shared.upstream.images.remaining is not None
    assert 3 < shared.upstream.images.remaining <= 4
    await shared.http.get("/v1/images/x", headers={"grpc-timeout": "500m"})
    assert shared.upstream.images.remaining < 0.6


async def test_a_caller_who_hangs_up_ends_the_call(shared: Proxied) -> None:
    shared.upstream.images.cancelled.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(shared.http.get("/v1/images/slow"), 0.3)
    await asyncio.wait_for(shared.upstream.images.cancelled.wait(), 1.5)


async def test_keep_alive_after_a_refusal(shared: Proxied) -> None:
    """A connection that carries a refused request can still be used."""
    for _ in range(3):
        assert (await shared.http.post("/v1/images", content=b"{")).status_code == 400
        assert (await shared.http.get("/v1/images/x")).status_code == 200


async def test_health(shared: Proxied) -> None:
    answer = await shared.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "SERVING"})
    assert (await shared.http.head("/healthz")).status_code == 200
    assert (await shared.http.get("/healthz?verbose")).status_code == 200


async def test_native_grpc_on_the_same_port(shared: Proxied) -> None:
    async with aio.insecure_channel(str(shared.address), options=LARGE) as channel:
        stub: Any = ImageRegistryStub(channel)
        assert (await stub.GetImage(pb.GetImageRequest(name="x"))).image.name == "x"
        answer = await stub.ListImages(pb.ListImagesRequest(page_size=1000))
        assert len(answer.images) == 1000
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.GetImage(pb.GetImageRequest(name="missing"))
        status: Any = rpc_status.from_call(refused.value)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (refused.value.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND")


async def test_a_grpc_request_may_be_larger_than_a_rest_body(shared: Proxied) -> None:
    """The server itself limits what it takes."""
    requirement = pb.ManagedImage.PipRequirement(name="x" * 1000)
    async with aio.insecure_channel(str(shared.address)) as channel:
        stub: Any = ImageRegistryStub(channel)
        request = pb.CreateImageRequest(name="y", pip_requirements=[requirement] * 2000)
        assert len((await stub.CreateImage(request)).image.pip_requirements) == 2000


async def test_grpc_refusals_stay_grpc(shared: Proxied) -> None:
    async with aio.insecure_channel(str(shared.address)) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes]
        for method in ("/rime.Unknown/GetImage", "/", "/v1/images"):
            call = channel.unary_unary(method)
            with pytest.raises(aio.AioRpcError) as refused:
                await call(b"")
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "{" not in (refused.value.details() or "")
        call = channel.unary_unary("/rime.ImageRegistry/Unknown")
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_grpc_deadlines_are_the_callers(shared: Proxied) -> None:
    async with aio.insecure_channel(str(shared.address)) as channel:
        stub: Any = ImageRegistryStub(channel)
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.GetImage(pb.GetImageRequest(name="slow"), timeout=0.3)
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await stub.GetImage(pb.GetImageRequest(name="x"))
        assert (shared.upstream.images.remaining or 0) > 3000


async def test_streams_in_both_directions(shared: Proxied) -> None:
    """Reflection answers while the caller's side is still open; a health watch never ends by itself."""
    async with aio.insecure_channel(str(shared.address)) as channel:
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("grpc.Channel", channel))
        call = reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await asyncio.wait_for(call.read(), 30)
        assert "rime.ImageRegistry" in [service.name for service in answer.list_services_response.service]
        call.cancel()
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await asyncio.wait_for(watch.read(), 30)).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_access_log_has_no_secrets(shared: Proxied, access_log: Path) -> None:
    await shared.http.get("/v1/images/logged?view=1&token=secret-token", headers={"rime-api-key": "secret-key"})
    await shared.http.get("/v1/images/logged2", headers={"x-request-id": "the-id"})
    text = await _wait_for(access_log, '"/v1/images/logged2"')
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    line = next(line for line in lines if line["path"] == "/v1/images/logged2")
    assert (line["method"], line["status"], line["request_id"]) == ("GET", 200, "the-id")
    assert line["grpc_status"] == "OK"


async def _wait_for(file: Path, part: str) -> str:
    """Wait until a file that another process writes holds `part`; return all of it."""

    def read() -> str:
        for _ in range(150):
            if part in (text := file.read_text()):
                return text
            time.sleep(0.1)
        raise TimeoutError(f"{part} is not in {file}")

    return await asyncio.to_thread(read)
