"""Who created what is recorded, and decides who may cancel."""

import json
import logging
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_logs_pb2, job_status_pb2
from ri.api.imageregistry.job_logs_pb2_grpc import JobLogsStub

from image_registry.models import Role
from image_registry.registry import audit
from image_registry.registry.caller import UNCHECKED
from image_registry.registry.keys import Keys
from image_registry.storage.database import Connection, Database
from tests.fixtures.keyed import person, reason
from tests.fixtures.service import Service, make_settings

keyed = pytest.mark.parametrize("service", [make_settings(auth="keys", key_requests=0)], indirect=True)


@keyed
async def test_members_cancel_what_they_launched_and_admins_everything(service: Service) -> None:
    one, other, admin = [await person(service, role) for role in (Role.MEMBER, Role.MEMBER, Role.ADMIN)]
    first = (await one.create("first")).job.job_id
    second = (await one.create("second")).job.job_id
    with pytest.raises(aio.AioRpcError) as caught:
        await other.cancel(first)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason(caught.value) == "NOT_THE_CREATOR"
    assert (await other.job(first)).status == job_status_pb2.JOB_STATUS_REQUESTED
    await one.cancel(first)
    await admin.cancel(second)
    for job in (first, second):
        assert (await other.job(job)).status == job_status_pb2.JOB_STATUS_CANCELLED
    creators = await _rows(service.server.database, "select name, creator from images order by name")
    assert creators == [("first", one.prefix), ("second", one.prefix), ("system-python-3-12", "")]


@keyed
async def test_nobody_but_an_admin_cancels_what_the_service_or_the_platform_launched(service: Service) -> None:
    member, system, admin = [await person(service, role) for role in (Role.MEMBER, Role.SYSTEM, Role.ADMIN)]
    await member.create("mine")
    await service.images.UpdateBuildInfo(
        pb.UpdateBuildInfoRequest(
            name="mine", built_successfully=True, pip_libraries=[{"name": "numpy", "version": "1"}]
        ),
        metadata=system.metadata,
    )
    rebuilt = await service.images.SyncImageTag(
        pb.SyncImageTagRequest(name="mine", force=True), metadata=system.metadata
    )
    builds = await _rows(service.server.database, "select uuid::text from jobs where creator <> %s", member.prefix)
    assert rebuilt.job.job_id in {row[0] for row in builds}
    for (job,) in builds:
        with pytest.raises(aio.AioRpcError) as caught:
            await member.cancel(job)
        assert reason(caught.value) == "NOT_THE_CREATOR"
        await admin.cancel(job)


@keyed
async def test_a_signed_link_stands_in_for_a_key(service: Service) -> None:
    logs = JobLogsStub(service.channel)
    job = (await (await person(service, Role.MEMBER)).create("one")).job.job_id

    async def ended(**fields: Any) -> str:
        with pytest.raises(aio.AioRpcError) as caught:
            await logs.ReadJobLogs(job_logs_pb2.ReadJobLogsRequest(job_id=job, **fields)).read()
        return reason(caught.value)

    assert await ended() == "KEY_MISSING"
    assert await ended(expires=9999999999) == "KEY_MISSING"
    assert await ended(expires=9999999999, signature="forged") == "INVALID_SIGNATURE"


@keyed
async def test_who_did_what_is_a_line_and_a_row(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    member, admin = await person(service, Role.MEMBER), await person(service, Role.ADMIN)
    await member.create("one")
    for who, name in ((member, "one"), (admin, "missing"), (admin, "one\nforged line" + "x" * 1000), (admin, "one")):
        try:
            await who.delete(name)
        except aio.AioRpcError:
            continue
    with pytest.raises(aio.AioRpcError):
        await service.images.DeleteImage(pb.DeleteImageRequest(name="one"))
    await member.list_images()
    await service.server.audit.close()
    rows = await _rows(service.server.database, "select who, role, what, target, result from audit_log order by id")
    long_name = "one\N{REPLACEMENT CHARACTER}forged line" + "x" * 240 + "…"
    expected = [
        ("operator", "", "CreateKey", member.prefix, "OK"),
        ("operator", "", "CreateKey", admin.prefix, "OK"),
        (member.prefix, "member", "CreateImage", "one", "OK"),
        (member.prefix, "member", "DeleteImage", "one", "ROLE_NOT_ALLOWED"),
        (admin.prefix, "admin", "DeleteImage", "missing", "IMAGE_NOT_FOUND"),
        (admin.prefix, "admin", "DeleteImage", long_name, "INVALID_REQUEST"),
        (admin.prefix, "admin", "DeleteImage", "one", "OK"),
    ]
    assert [(*row[:3], str(row[3])[:250], row[4]) for row in rows] == [(*r[:3], r[3][:250], r[4]) for r in expected]
    assert {len(row[3]) for row in rows} <= {*range(257)}
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "image_registry.audit"]
    assert [(x["who"], x["audit"], x["result"]) for x in lines] == [(r[0], r[2], r[4]) for r in expected[2:]]
    assert any("refused" in r.getMessage() and "needs an API key" in r.getMessage() for r in caplog.records)
    for secret in (member.key, admin.key):
        assert secret not in caplog.text


async def test_what_is_noted_while_rows_are_written_waits_for_the_next_write(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a busy server would write all the time, a few rows in each transaction."""
    monkeypatch.setattr(audit, "INTERVAL", 3600)
    async with audit.AuditTrail(database) as trail:
        for number in range(50):
            trail.note(UNCHECKED, what="CreateImage", target=f"image-{number}", result="OK")
            await database.read(lambda conn: conn.execute("select 1"))
    rows = await _rows(database, "select target, xmin::text from audit_log order by id")
    assert [target for target, _ in rows] == [f"image-{number}" for number in range(50)]
    assert len({transaction for _, transaction in rows}) == 2


async def test_the_audit_log_is_only_ever_added_to(database: Database) -> None:
    await Keys(database).create(Role.ADMIN)
    for change in ("update audit_log set who = 'nobody'", "delete from audit_log", "truncate audit_log"):

        async def attempt(conn: Connection, change: str = change) -> None:
            await conn.execute(change)

        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            await database.write(attempt)
    assert len(await _rows(database, "select 1 from audit_log")) == 1


async def _rows(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
    async def work(conn: Connection) -> list[tuple[Any, ...]]:
        found = await (await conn.execute(statement, values)).fetchall()
        return [tuple(row.values()) for row in found]

    return await database.read(work)
