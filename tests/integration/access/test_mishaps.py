"""What nobody foresaw, around keys and the audit log: nothing leaks, nothing is lost or written twice, all goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry import app
from image_registry.models import Role
from image_registry.registry import audit
from image_registry.registry.audit import AuditTrail
from image_registry.registry.caller import UNCHECKED
from image_registry.storage.database import Connection, Database
from tests.fixtures.keyed import person
from tests.fixtures.service import Service, make_settings


@pytest.mark.parametrize("service", [make_settings(auth="keys")], indirect=True)
async def test_an_unforeseen_error_while_a_key_is_looked_up_is_internal(service: Service) -> None:
    stranger = await person(service, Role.MEMBER)
    await execute(service.server.database, "alter table api_keys rename to lost")
    with pytest.raises(aio.AioRpcError) as refused:
        await service.images.GetImage(pb.GetImageRequest(name="x"), metadata=stranger.metadata)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "api_keys" not in str(refused.value)
    assert str(refused.value.trailing_metadata()["x-request-id"]) in str(refused.value.details())


async def test_audit_rows_are_written_again_after_an_unforeseen_error(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "PAUSE", 0.1)
    async with AuditTrail(database) as trail:
        await execute(database, "alter table audit_log rename to lost")
        note(trail, "first")
        await until(lambda: logged("audit entries can't be written", caplog))
        await execute(database, "alter table lost rename to audit_log")
        note(trail, "second")
        await until(lambda: written(database, "first", "second"))


async def test_a_stop_during_a_write_writes_nothing_twice(database: Database, dsn: str) -> None:
    trail = AuditTrail(database)
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("lock table audit_log in access exclusive mode")
        for number in range(20):
            note(trail, str(number))
        await until(lambda: held_up(dsn))
        stop = asyncio.create_task(trail.close())
        await asyncio.sleep(0.2)
        await other.rollback()
        await stop
    assert await written(database, *map(str, range(20)))


async def test_a_stop_without_its_table_is_a_stop(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    trail = AuditTrail(database)
    await execute(database, "alter table audit_log rename to lost")
    note(trail, "one")
    await trail.close()
    assert "1 audit entries are in the log alone" in caplog.text


async def test_health_is_looked_at_again_after_an_unforeseen_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HEALTH_INTERVAL", 0.05)
    ping, mishaps = Database.ping, [psycopg.InternalError("unforeseen")]

    async def stumbling(self: Database) -> None:
        if mishaps:
            raise mishaps.pop()
        await ping(self)

    monkeypatch.setattr(Database, "ping", stumbling)
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    seen = [(await asyncio.wait_for(watch.read(), 10)).status for _ in range(3)]
    status = health_pb2.HealthCheckResponse
    assert seen == [status.SERVING, status.NOT_SERVING, status.SERVING]


def note(trail: AuditTrail, target: str) -> None:
    trail.note(UNCHECKED, what="CreateImage", target=target, result="OK")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.02)


async def logged(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return text in caplog.text


async def written(database: Database, *targets: str) -> bool:
    """Whether there are rows of these targets, one of each."""

    async def work(conn: Connection) -> bool:
        rows = await (await conn.execute("select target from audit_log order by target")).fetchall()
        return [row["target"] for row in rows] == sorted(targets)

    return await database.read(work)


async def held_up(dsn: str) -> bool:
    """Whether somebody waits for the lock."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        waiting = await conn.execute(
            "select from pg_locks l join pg_database d on d.oid = l.database"
            " where not l.granted and d.datname = current_database()"
        )
        return await waiting.fetchone() is not None


async def execute(database: Database, statement: str) -> None:
    async def work(conn: Connection) -> None:
        await conn.execute(statement)

    await database.write(work)
