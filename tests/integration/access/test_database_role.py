"""The database role of serve and worker: enough for everything they do, and no right beyond its tables."""

import asyncio
import secrets
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import app
from image_registry.cli.keys import keys as keys_command
from image_registry.cli.migrate import migrate
from image_registry.host import StartError
from image_registry.models import BuildReport, Outcome, PipLibrary, Role, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.registry.keys import Keys
from image_registry.registry.library_bitmaps import tend
from image_registry.storage import create_requests, library_bitmaps, migrations
from image_registry.storage.database import Database
from tests.fixtures.keyed import Person
from tests.fixtures.service import make_settings, running_service


def test_migrating_as_that_role_is_refused_in_a_sentence(restricted: str) -> None:
    done = CliRunner().invoke(migrate, env={"IMAGE_REGISTRY_DATABASE_URL": restricted})
    assert isinstance(done.exception, StartError)
    assert str(done.exception).endswith("can't be used: permission denied for schema public")


@pytest.fixture
def restricted(dsn: str) -> Iterator[str]:
    """The database as a role that has got nothing but `migrate --grant-to`."""
    role, password = f"serve_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(dsn, autocommit=True) as owner:
        name = sql.Identifier(role)
        owner.execute(sql.SQL("create role {} login password {}").format(name, sql.Literal(password)))
        asyncio.run(migrations.grant(dsn, role))
        asyncio.run(migrations.grant(dsn, role))  # idempotent
        host = dsn.partition("@")[2]
        yield f"postgresql://{role}:{password}@{host}"
        owner.execute(sql.SQL("drop owned by {} cascade").format(name))
        owner.execute(sql.SQL("drop role {}").format(name))


_AUDITED = ["EnsureImageExistence", "CreateImage", "CreateImage", "CancelJob", "SyncImageTag", "DeleteImage"]


async def test_it_is_enough_for_everything_that_is_served_and_built(
    dsn: str, restricted: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_bitmaps, "POPULAR", 0)
    people = {role: (await Keys(database).create(role)).secret for role in Role}
    settings = make_settings(auth="keys", key_requests=0)
    async with running_service(settings, restricted) as service:
        member, admin, system = (Person(service, people[role]) for role in (Role.MEMBER, Role.ADMIN, Role.SYSTEM))
        await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest(), metadata=system.metadata)
        await _build_everything(service.server.database)
        created = await member.create("one", request_id="id-1")
        assert (await member.create("one", request_id="id-1")) == created
        await member.cancel(created.job.job_id)
        await service.images.SyncImageTag(pb.SyncImageTagRequest(name="one", force=True), metadata=system.metadata)
        await _build_everything(service.server.database)
        await service.images.GetImage(pb.GetImageRequest(name="one"), metadata=member.metadata)
        filters: list[Any] = [{"name": "numpy", "version": "1"}]
        listed = await service.images.ListImages(pb.ListImagesRequest(pip_libraries=filters), metadata=member.metadata)
        assert "one" in {image.name for image in listed.images}
        await service.jobs.ListJobs(jobs_pb2.ListJobsRequest(), metadata=member.metadata)
        await admin.delete("one")
        await _build_everything(service.server.database)
        logs = JobLogs(service.server.database, retention=0)
        assert await logs.expire() > 0
        await service.server.database.write(lambda conn: create_requests.expire(conn, 0))
    with psycopg.connect(dsn) as owner:
        audited = owner.execute("select what, result from audit_log where who <> 'operator' order by id").fetchall()
        bitmaps = owner.execute("select library, version from library_bits order by 1, 2").fetchall()
        used = owner.execute("select count(*) from api_keys where last_used_at is not null").fetchone()
    assert audited == [(what, "OK") for what in _AUDITED]
    assert used == (3,)
    assert bitmaps == [("numpy", "*"), ("numpy", "1")]


async def _build_everything(db: Database) -> None:
    builds, logs = Builds(db), JobLogs(db, retention=60)
    while claim := await builds.claim(agent_id=uuid4(), lease=30):
        await builds.start(claim.job)
        await builds.renew(claim.job, 30)
        await builds.set_progress(claim.job, "working")
        if claim.definition is None:
            await builds.finish_cleanup(claim.job)
            continue
        await logs.append(claim.job, "text\n")
        report = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, libraries=(PipLibrary("numpy", "1.0"),))
        assert await builds.finish(claim.job, report)
    await builds.report_worker(uuid4(), packages=True)
    await builds.judge_waiting(silence=30, patience=600)
    await builds.reconcile()
    await tend(db, long_log=1)


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (a int)",
        "drop table images",
        "alter table images add column a int",
        "alter table audit_log disable trigger all",
        "drop trigger audit_log_append_only on audit_log",
        "update audit_log set who = ''",
        "delete from audit_log",
        "truncate audit_log",
        "select * from audit_log",
        "insert into api_keys (prefix, hash, role, change) values ('imgreg_00000000', sha256(''), 'admin', 9)",
        "update api_keys set role = 'admin'",
        "update api_keys set revoked_at = null",
        "delete from api_keys",
        "delete from jobs",
        "delete from schema_migrations",
        "update status_transitions set to_status = 1",
        "select * from pg_authid",
        "copy images to program 'cat'",
        "select pg_read_file('/etc/passwd')",
        "create role another superuser",
        "create schema mine",
        "set role postgres",
    ],
)
def test_it_has_no_right_beyond_that(restricted: str, statement: str) -> None:
    with psycopg.connect(restricted) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_every_table_has_its_line(dsn: str) -> None:
    """A migration that adds a table fails here until grants.sql says who may do what with it."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    text = (files("image_registry.storage") / "grants.sql").read_text()
    assert [name for (name,) in tables if name not in text] == []


def test_it_can_not_make_keys(restricted: str) -> None:
    result = CliRunner().invoke(
        keys_command, ["create", "--role", "admin"], env={"IMAGE_REGISTRY_DATABASE_URL": restricted}
    )
    assert isinstance(result.exception, StartError)
    assert "may not change keys" in str(result.exception)


def test_a_role_that_does_not_exist(dsn: str) -> None:
    with pytest.raises(migrations.MigrationError, match="nobody"):
        asyncio.run(migrations.grant(dsn, 'nobody"; drop table images; --'))


async def test_the_schema_is_checked_with_it(restricted: str) -> None:
    await app.check_schema(restricted)
