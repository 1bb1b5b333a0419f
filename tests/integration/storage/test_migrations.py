"""From every earlier schema, with data in it, to this one; and what the commands and the server say about schemas."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry.codec import encode_definition
from image_registry.host.addresses import free_port
from image_registry.models import ImageDefinition, ImageReference, PipLibrary, ReferenceType, RoleType
from image_registry.storage import migrations
from image_registry.storage.database import describe_dsn
from tests.fixtures.postgres import clone_database
from tests.fixtures.product import clean_environment
from tests.fixtures.server_process import ServerProcess
from tests.fixtures.service import make_settings, running_service

VERSIONS = [step.version for step in migrations.known()]
JOB = "0198c0de-0000-7000-8000-000000000001"


@dataclass(frozen=True)
class Data:
    """What a version could hold for the first time: statements that write it, and what must be found in the end."""

    write: Callable[[psycopg.Connection], None]
    check: Callable[[psycopg.Connection], None]


def write_images(conn: psycopg.Connection) -> None:
    system = ImageDefinition(
        "system-python-3-12",
        RoleType.SYSTEM,
        "3.12",
        ImageReference("oci:/bases/3.12", ReferenceType.UNSPECIFIED),
        "oci:/images/managed/system-python-3-12",
        "v1",
    )
    user = ImageDefinition(
        "vision",
        RoleType.USER_DEFINED,
        "3.12",
        ImageReference("system-python-3-12", ReferenceType.MANAGED),
        "oci:/images/managed/vision",
        "v1",
        pip_libraries=(PipLibrary("numpy", "1.26.4"),),
    )
    insert = """insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
        values (%s, %s, %s, '3.12', 'v1', %s, %s) returning id"""
    values = [system.name, 1, 3, None, encode_definition(system)]
    base = conn.execute(insert, values).fetchone()
    assert base is not None
    conn.execute(insert, [user.name, 2, 3, base[0], encode_definition(user)])
    conn.execute("insert into image_libraries (library, image_name, version) values ('numpy', 'vision', '1.26.4')")
    conn.execute(
        """insert into jobs (uuid, kind, image_id, image_name, repository, definition, status, termination_reason,
            attempt, started_at, finished_at)
        select %s, 1, id, name, 'oci:/images/managed/vision', definition, 4, 3, 1, now(), now()
        from images where name = 'vision'""",
        [JOB],
    )


def check_images(conn: psycopg.Connection) -> None:
    assert conn.execute("select name, status from images order by name").fetchall() == [
        ("system-python-3-12", 3),
        ("vision", 3),
    ]
    assert conn.execute("select image_name, status, attempt from jobs").fetchall() == [("vision", 4, 1)]
    assert conn.execute("select library, image_name, version from image_libraries").fetchall() == [
        ("numpy", "vision", "1.26.4")
    ]


def write_logs(conn: psycopg.Connection) -> None:
    conn.execute("insert into job_logs select id, 1, 'resolved' from jobs")
    conn.execute("update jobs set log_parts = 1, log_bytes = 8")


def check_logs(conn: psycopg.Connection) -> None:
    assert conn.execute("select text, log_parts from job_logs join jobs on id = job_id").fetchall() == [("resolved", 1)]


def write_access(conn: psycopg.Connection) -> None:
    conn.execute("insert into api_keys (prefix, hash, role) values ('abc', sha256('x'), 'admin')")
    conn.execute("update images set creator = 'abc' where name = 'vision'")
    conn.execute("insert into audit_log values (default, now(), 'abc', 'admin', 'CreateImage', 'vision', 'OK', '')")


def check_access(conn: psycopg.Connection) -> None:
    assert conn.execute("select prefix, role, change from api_keys").fetchall() == [("abc", "admin", 1)]
    assert conn.execute("select name from images where creator = 'abc'").fetchall() == [("vision",)]
    assert conn.execute("select what, target from audit_log").fetchall() == [("CreateImage", "vision")]


def write_requests(conn: psycopg.Connection) -> None:
    conn.execute("insert into create_requests select 'abc', 'id', sha256('x'), definition, uuid, now() from jobs")


def check_requests(conn: psycopg.Connection) -> None:
    assert conn.execute("select request_id, job_uuid::text from create_requests").fetchall() == [("id", JOB)]


def write_large_definition(conn: psycopg.Connection) -> None:
    libraries = [pb.ManagedImage.PipLibrary(name=f"library-{number}", version="1.0") for number in range(200)]
    more = pb.ManagedImage(pip_libraries=libraries).SerializeToString()
    conn.execute("update images set definition = definition || %s where name = 'vision'", [more])


def check_large_definition(conn: psycopg.Connection) -> None:
    sizes = "select pg_column_compression(definition), octet_length(definition) from images where name = 'vision'"
    ((compression, size),) = conn.execute(sizes).fetchall()
    assert compression is None
    assert size > 3_000


def write_base(conn: psycopg.Connection) -> None:
    conn.execute("update images set base_digest = 'sha256:1' where name = 'vision'")


def check_base(conn: psycopg.Connection) -> None:
    assert conn.execute("select name, base_digest from images order by name").fetchall() == [
        ("system-python-3-12", ""),
        ("vision", "sha256:1"),
    ]


def write_counts(conn: psycopg.Connection) -> None:
    conn.execute("update images set library_count = 1 where name = 'vision'")


def check_counts(conn: psycopg.Connection) -> None:
    assert conn.execute("select name, library_count from images order by name").fetchall() == [
        ("system-python-3-12", 0),
        ("vision", 1),
    ]


def write_trace(conn: psycopg.Connection) -> None:
    conn.execute("update jobs set traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'")


def check_trace(conn: psycopg.Connection) -> None:
    assert conn.execute("select substr(traceparent, 4, 6) from jobs").fetchall() == [("4bf92f",)]


def write_capabilities(conn: psycopg.Connection) -> None:
    conn.execute("insert into workers (agent_id, packages) values (%s, true)", [JOB])
    conn.execute("update jobs set needs_packages = true")


def check_capabilities(conn: psycopg.Connection) -> None:
    assert conn.execute("select agent_id::text, packages from workers").fetchall() == [(JOB, True)]
    assert conn.execute("select needs_packages from jobs").fetchall() == [(True,)]


def write_log(conn: psycopg.Connection) -> None:
    conn.execute("update image_libraries set version = version")


def check_log(conn: psycopg.Connection) -> None:
    logged = "select distinct name, libraries, versions from library_log join images on images.id = image_id"
    assert conn.execute(logged).fetchall() == [("vision", ["numpy"], ["1.26.4"])]


def check_steps(conn: psycopg.Connection) -> None:
    wanted = [(step.version, step.compatible_from) for step in migrations.known()]
    assert conn.execute("select version, compatible_from from schema_migrations order by 1").fetchall() == wanted


def check_keys(conn: psycopg.Connection) -> None:
    conn.execute("update images set definition = definition where definition_key is null")
    keys = "select distinct octet_length(definition_key), definition_key = sha256(definition) ||"
    assert conn.execute(keys + " int4send(octet_length(definition)) from images").fetchall() == [(36, True)]


def write_bits(conn: psycopg.Connection) -> None:
    conn.execute("insert into library_bits values ('numpy', '*', 0, ('x' || repeat('20', 2048))::bit(16384))")


def check_bits(conn: psycopg.Connection) -> None:
    assert conn.execute("select library, get_bit(bits, 2) from library_bits").fetchall() == [("numpy", 1)]


def nothing(_: psycopg.Connection) -> None:
    """A version that could hold no more than the one before."""


# A new migration gets a row here: what can be written from then on, as the next versions must find it.
DATA = {
    1: Data(write_images, check_images),
    2: Data(write_logs, check_logs),
    3: Data(write_access, check_access),
    4: Data(nothing, nothing),
    5: Data(write_requests, check_requests),
    6: Data(write_large_definition, check_large_definition),
    7: Data(write_base, check_base),
    8: Data(write_counts, check_counts),
    9: Data(write_trace, check_trace),
    10: Data(write_capabilities, check_capabilities),
    11: Data(nothing, nothing),
    12: Data(write_log, check_log),
    13: Data(nothing, check_steps),
    14: Data(nothing, check_keys),
    15: Data(write_bits, check_bits),
    16: Data(nothing, nothing),
}


@pytest.fixture
def empty(postgres_server: str) -> Iterator[str]:
    with clone_database(postgres_server) as dsn:
        yield dsn


def migrate(dsn: str, **limits: int) -> list[str]:
    steps: list[str] = []
    assert asyncio.run(migrations.migrate(dsn, steps.append, **limits)) == len(steps)
    return steps


def test_migrations_are_numbered_without_gaps_and_each_has_data_in_this_test() -> None:
    assert list(range(1, len(VERSIONS) + 1)) == VERSIONS
    assert sorted(DATA) == VERSIONS


@pytest.mark.parametrize("version", [0, *VERSIONS])
def test_every_earlier_schema_with_data_becomes_this_one(empty: str, version: int) -> None:
    assert len(migrate(empty, up_to=version)) == version
    with psycopg.connect(empty) as conn:
        for known in range(1, version + 1):
            DATA[known].write(conn)
    assert len(migrate(empty)) == len(VERSIONS) - version
    assert asyncio.run(migrations.check(empty)) == []
    with psycopg.connect(empty) as conn:
        for known in range(1, version + 1):
            DATA[known].check(conn)
    if version:
        asyncio.run(serve_what_was_migrated(empty))


async def serve_what_was_migrated(dsn: str) -> None:
    async with running_service(make_settings(), dsn) as service:
        assert (await service.get("vision")).pip_libraries[0].version == "1.26.4"
        wanted = pb.ListImagesRequest(pip_libraries=[{"name": "numpy", "version": "1.26.4"}])
        assert [one.name for one in (await service.images.ListImages(wanted)).images] == ["vision"]
        assert (await service.job(JOB)).status
        assert len((await service.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 1
        synced = await service.images.SyncImageTag(pb.SyncImageTagRequest(name="vision", force=True))
        assert synced.image.status == pb.ManagedImage.STATUS_REBUILDING


def test_bitmaps_of_another_kind_are_made_anew(empty: str) -> None:
    migrate(empty, up_to=14)
    with psycopg.connect(empty) as conn:
        conn.execute("insert into library_bitmaps values ('numpy', '*', 0, decode(repeat('ff', 2048), 'hex'))")
        conn.execute("update library_survey set after_library = 'numpy', rounds = 3")
    migrate(empty)
    with psycopg.connect(empty) as conn:
        assert conn.execute("select to_regclass('library_bitmaps'), count(*) from library_bits").fetchall() == [
            (None, 0)
        ]
        assert conn.execute("select after_library, rounds from library_survey").fetchall() == [("", 0)]


def test_migrating_again_changes_nothing(empty: str) -> None:
    migrate(empty)
    assert migrate(empty) == []


async def test_several_migrations_at_once_wait_for_each_other(empty: str) -> None:
    applied = await asyncio.gather(*(migrations.migrate(empty, lambda _: None) for _ in range(4)))
    assert sorted(applied) == [0, 0, 0, len(VERSIONS)]


def test_a_migration_that_fails_leaves_the_schema_before_it(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(empty)
    broken = migrations.Migration(VERSIONS[-1] + 1, "broken", "create table half (); select 1 / 0")
    sound = migrations.known()
    monkeypatch.setattr(migrations, "known", lambda: [*sound, broken])
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty)
    with psycopg.connect(empty) as conn:
        assert conn.execute("select to_regclass('half')").fetchone() == (None,)
    assert asyncio.run(migrations.check(empty)) == [f"{broken.version:04} broken"]


def command(dsn: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "image_registry", *arguments],
        env=clean_environment(DATABASE_URL=dsn),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_commands_say_how_the_schema_stands(empty: str) -> None:
    code, out, _ = command(empty, "migrate", "--check")
    assert code == 1
    assert "missing: 0001 initial" in out
    code, _, err = command(empty, "serve", "--grpc-address", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "run `image-registry migrate`" in err
    assert command(empty, "migrate")[0] == 0
    code, out, _ = command(empty, "migrate", "--check")
    assert (code, out) == (0, "the schema is current\n")


def later(*compatible_from: int | None) -> list[migrations.Migration]:
    """Steps of releases to come, each adding a table, and saying from which schema on releases work with it."""
    return [
        migrations.Migration(
            VERSIONS[-1] + number,
            f"later_{number}",
            f"create table later_{number} ()" + ("" if oldest is None else f";\n-- compatible from: {oldest}\n"),
        )
        for number, oldest in enumerate(compatible_from, 1)
    ]


def migrate_by_a_later_release(dsn: str, *compatible_from: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        steps = [*migrations.known(), *later(*compatible_from)]
        patch.setattr(migrations, "known", lambda: steps)
        assert migrate(dsn) == [f"migration {step.version:04} {step.name}" for step in later(*compatible_from)]
        assert asyncio.run(migrations.check(dsn)) == []


NEWEST = VERSIONS[-1]


@pytest.mark.parametrize(
    ("compatible_from", "refused"),
    [
        ([None], NEWEST + 1),
        ([NEWEST, NEWEST + 1], NEWEST + 2),
        ([None, NEWEST], NEWEST + 1),
    ],
)
def test_a_schema_of_a_newer_version_is_refused_in_one_sentence(
    dsn: str, compatible_from: list[int | None], refused: int
) -> None:
    migrate_by_a_later_release(dsn, *compatible_from)
    with pytest.raises(migrations.MigrationError):
        asyncio.run(migrations.check(dsn))
    for arguments in (
        ["serve", "--grpc-address", f"127.0.0.1:{free_port()}"],
        ["worker"],
        ["migrate"],
        ["migrate", "--check"],
    ):
        code, out, err = command(dsn, *arguments)
        assert (code, out) == (1, "")
        assert err == (
            f"error: the database has schema version {refused}, this version of image-registry knows up to "
            f"{NEWEST}: run the newer version, or restore a backup from before the upgrade\n"
        )


def test_a_newer_schema_that_says_so_is_worked_with(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn) as conn:
        write_images(conn)
    migrate_by_a_later_release(dsn, NEWEST, NEWEST - 1)
    assert command(dsn, "migrate") == (0, f"{describe_dsn(dsn)} is current, 0 migrations applied\n", "")
    assert command(dsn, "migrate", "--check") == (0, "the schema is current\n", "")
    asyncio.run(serve_what_was_migrated(dsn))
    server = ServerProcess(dsn)
    server.start()
    server.terminate()
    worker = subprocess.Popen(
        [sys.executable, "-m", "image_registry", "worker"],
        env=clean_environment(DATABASE_URL=dsn, DATA_DIR=str(tmp_path), REPOSITORY=f"oci:{tmp_path}/images"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with worker:
        lines = iter(worker.stdout.readline, "") if worker.stdout else iter(())
        begun = any("takes jobs" in line for line in lines)
        worker.terminate()
    assert begun


def test_an_unreachable_database_is_one_sentence_without_the_password(unused_tcp_port: int) -> None:
    dsn = f"postgresql://me:secret@127.0.0.1:{unused_tcp_port}/x"
    for arguments in (["migrate"], ["migrate", "--check"]):
        code, out, err = command(dsn, *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: the database 127.0.0.1:{unused_tcp_port}/x can't be used: ")
        assert err.endswith("failed: Connection refused\n")
        assert err.count("\n") == 1
        assert "secret" not in err
