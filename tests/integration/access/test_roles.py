"""Every method of every served service, for every role, and for keyless, bad, expired and revoked keys."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from ri.api.imageregistry import image_finder_pb2, image_lock_pb2, image_watch_pb2, job_logs_pb2, jobs_pb2
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry import app
from image_registry.api.access import RULES
from image_registry.models import Role
from image_registry.registry.keys import Keys
from tests.fixtures.service import Service, make_settings, running_service

PROOFS = ("none", "bad", "expired", "revoked", "member", "admin", "system")
ANYBODY = frozenset(PROOFS)
EVERY_ROLE = frozenset({"member", "admin", "system"})
MEMBERS = frozenset({"member", "admin"})
# Written again here, on purpose: who may call what is the contract, not whatever the table says.
EXPECTED = {
    "/rime.ImageRegistry/CreateImage": MEMBERS,
    "/rime.ImageRegistry/GetImage": EVERY_ROLE,
    "/rime.ImageRegistry/ListImages": EVERY_ROLE,
    "/rime.ImageRegistry/DeleteImage": {"admin"},
    "/rime.ImageRegistry/EnsureImageExistence": {"system"},
    "/rime.ImageRegistry/SyncImageTag": {"system"},
    "/rime.ImageRegistry/UpdateBuildInfo": {"system"},
    "/rime.JobReader/GetJob": EVERY_ROLE,
    "/rime.JobReader/ListJobs": EVERY_ROLE,
    "/rime.JobReader/CancelJob": MEMBERS,
    "/rime.JobLogs/ReadJobLogs": EVERY_ROLE,
    "/rime.ImageWatch/WatchImage": EVERY_ROLE,
    "/rime.ImageLocks/GetImageLock": EVERY_ROLE,
    "/rime.ImageFinder/FindImages": EVERY_ROLE,
    "/grpc.health.v1.Health/Check": ANYBODY,
    "/grpc.health.v1.Health/Watch": ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": EVERY_ROLE,
}
REASONS = {"none": "KEY_MISSING", "bad": "KEY_INVALID", "expired": "KEY_EXPIRED", "revoked": "KEY_REVOKED"}


@dataclass
class Walk:
    """A service that checks keys, and a key of each kind."""

    service: Service
    keys: dict[str, str] = field(default_factory=dict)

    def metadata(self, proof: str) -> list[tuple[str, str]]:
        return [("rime-api-key", self.keys[proof])] if proof != "none" else []


@pytest.fixture
async def walk(dsn: str) -> AsyncIterator[Walk]:
    async with running_service(make_settings(auth="keys", key_requests=0), dsn) as service:
        keys = Keys(service.server.database)
        made = {role.value: (await keys.create(role)).secret for role in Role}
        made["expired"] = (await keys.create(Role.ADMIN, expires_at=datetime.now(UTC) - timedelta(seconds=1))).secret
        revoked = await keys.create(Role.ADMIN)
        await keys.revoke(revoked.stored.prefix)
        yield Walk(service, made | {"revoked": revoked.secret, "bad": "imgreg_00000000_" + "0" * 64})


def test_every_method_of_every_served_service_has_a_row() -> None:
    """A new method fails here until somebody has decided who may call it, in the table and in this test."""
    assert _served() <= set(EXPECTED), "say in EXPECTED who may call the new method"
    assert _served() <= set(RULES), "give the new method a row in image_registry.api.access.RULES"


async def test_who_may_call(walk: Walk) -> None:
    for method, proof in itertools.product(sorted(EXPECTED), PROOFS):
        code, reason = await _call(walk.service.channel, method, walk.metadata(proof))
        if proof in EXPECTED[method]:
            assert code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}, (method, proof)
        elif proof in REASONS:
            assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, REASONS[proof]), (method, proof)
        else:
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED"), (method, proof)


async def test_a_method_that_is_served_without_a_row_is_refused(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "/rime.ImageRegistry/GetImage"
    monkeypatch.delitem(RULES, method)
    for role in EVERY_ROLE:
        assert await _call(walk.service.channel, method, walk.metadata(role)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ROLE_NOT_ALLOWED",
        )


async def test_a_method_that_does_not_exist(walk: Walk) -> None:
    unknown = "/rime.ImageRegistry/DropEverything"
    assert (await _call(walk.service.channel, unknown, []))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert (await _call(walk.service.channel, unknown, walk.metadata("admin")))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_the_check_comes_before_existence_and_before_validation(walk: Walk) -> None:
    delete = walk.service.images.DeleteImage
    for name in ("missing", "", "NOT A NAME"):
        with pytest.raises(aio.AioRpcError) as caught:
            await delete(pb.DeleteImageRequest(name=name), metadata=walk.metadata("member"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_two_keys_are_no_key(walk: Walk) -> None:
    both = [*walk.metadata("admin"), *walk.metadata("member")]
    assert await _call(walk.service.channel, "/rime.ImageRegistry/ListImages", both) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "KEY_INVALID",
    )


async def test_without_the_check_everybody_may_do_everything(service: Service) -> None:
    for method in sorted(_served()):
        code, reason = await _call(service.channel, method, [("rime-api-key", "whatever")])
        assert code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}, (method, reason)


async def test_an_unauthenticated_body_is_not_read(walk: Walk) -> None:
    """Four megabytes that never end: the refusal comes all the same, at once."""
    call: Any = walk.service.channel.stream_unary("/rime.ImageRegistry/CreateImage")(metadata=())
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def _served() -> set[str]:
    own = (pb, jobs_pb2, job_logs_pb2, image_watch_pb2, image_lock_pb2, image_finder_pb2)
    ours = [module.DESCRIPTOR for module in (*own, health_pb2, reflection_pb2)]
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in ours
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert {name.split("/")[1] for name in methods} >= set(app.SERVICES), "a served service is missing in this test"
    return methods


async def _call(channel: Any, method: str, metadata: list[tuple[str, str]]) -> tuple[grpc.StatusCode, str]:
    """Call with an empty message (for what has a stream of requests: none at all) and say how it ended."""
    if method.endswith("ServerReflectionInfo"):
        call: Any = channel.stream_stream(method)([], metadata=metadata, timeout=5)
    elif method.endswith(("Watch", "WatchImage", "ReadJobLogs")):
        call = channel.unary_stream(method)(b"", metadata=metadata, timeout=5)
    else:
        call = channel.unary_unary(method)(b"", metadata=metadata, timeout=5)
    if method.endswith("Health/Watch"):
        assert await call.read() == health_pb2.HealthCheckResponse(status=1).SerializeToString()
        call.cancel()
        return grpc.StatusCode.OK, ""
    try:
        if hasattr(call, "read"):
            await call.read()
        else:
            await call
    except aio.AioRpcError as error:
        return error.code(), _reason(error)
    return await call.code(), ""


def _reason(error: aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return info.reason if status is not None and status.details[0].Unpack(info) else ""
