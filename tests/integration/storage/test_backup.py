"""docs/operations/backup.md: what is dumped or archived comes back, and the service goes on with it."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.local.data_dir import DataDir
from image_registry.local.postgres import EmbeddedPostgres
from image_registry.local.postgres_programs import account_for_postgres, find_programs
from image_registry.models import Role
from image_registry.storage import migrations
from tests.fixtures.keyed import Person, person
from tests.fixtures.postgres import clone_database
from tests.fixtures.product import clean_environment
from tests.fixtures.service import Service, make_settings, running_service


def program(name: str, *arguments: str) -> None:
    """Run a program of Postgres; the version is that of the server."""
    argv = [str(find_programs(None) / name), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def conninfo(dsn: str) -> str:
    return f"--dbname={dsn}"


async def names(service: Service, caller: Person) -> list[str]:
    page = await service.images.ListImages(pb.ListImagesRequest(), metadata=caller.metadata)
    return [image.name for image in page.images]


@asynccontextmanager
async def keyed(dsn: str) -> AsyncIterator[Service]:
    async with running_service(make_settings(auth="keys"), dsn) as service:
        yield service


async def test_a_restored_dump_is_the_service_again(dsn: str, postgres_server: str, tmp_path: Path) -> None:
    """Images, jobs, keys, and page tokens that callers still hold."""
    dump = tmp_path / "image_registry.dump"
    async with keyed(dsn) as service:
        member = await person(service, Role.MEMBER)
        for name in ("alpha", "beta"):
            job_id = (await member.create(name)).job.job_id
        first = await service.images.ListImages(pb.ListImagesRequest(page_size=1), metadata=member.metadata)
        await asyncio.to_thread(program, "pg_dump", "--format=custom", f"--file={dump}", conninfo(dsn))
        await member.create("after-the-dump")
    with clone_database(postgres_server) as restored:
        await asyncio.to_thread(
            program, "pg_restore", "--exit-on-error", "--single-transaction", conninfo(restored), str(dump)
        )
        assert await migrations.check(restored) == []
        async with keyed(restored) as service:
            again = Person(service, member.key)
            assert await names(service, again) == ["alpha", "beta", "system-python-3-12"]
            rest = pb.ListImagesRequest(page_size=10, page_token=first.next_page_token)
            page = await service.images.ListImages(rest, metadata=again.metadata)
            assert [image.name for image in page.images] == ["beta", "system-python-3-12"]
            assert (await again.job(job_id)).job_id == job_id
            await again.create("after-the-restore")


async def test_repositories_that_are_not_restored_are_told(dsn: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    async with running_service(make_settings(repository=f"oci:{root}"), dsn) as service:
        for name in ("there", "gone"):
            await service.create(name)
            await service.report("system-python-3-12") if name == "there" else None
            await service.report(name, "numpy==1.0")
        (root / "managed" / "there").mkdir(parents=True)
        (root / "managed" / "there" / "index.json").write_text("{}")
        report = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_registry", "doctor", "--server", service.address),
            env=clean_environment(REPOSITORY=f"oci:{root}", DATABASE_URL=dsn),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(report.communicate(), 60)
    assert "BROKEN  repositories 2 of 3 built images are lost: gone, system-python-3-12\n" in output.decode()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that the account of Postgres can reach and write to."""
    with tempfile.TemporaryDirectory(prefix="image-registry-archive-") as folder:
        give(Path(folder))
        yield Path(folder)


def give(folder: Path) -> None:
    """Let the account of Postgres have it, with all that is in it."""
    if account := account_for_postgres():
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


async def promoted(dsn: str) -> None:
    """Until it takes writes: it answers reads a moment earlier, while it still recovers."""
    async with asyncio.timeout(60), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while (await (await connection.execute("select pg_is_in_recovery()")).fetchone()) == (True,):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_any_moment_since_the_base_backup_can_be_had_again(tmp_path: Path, shared_folder: Path) -> None:
    """Point-in-time recovery: to just before somebody deleted what they shouldn't have."""
    archive = shared_folder / "wal"
    archive.mkdir()
    give(archive)
    damaged = EmbeddedPostgres(tmp_path / "damaged")
    await damaged.start()
    try:
        with psycopg.connect(damaged.dsn, autocommit=True) as connection:
            connection.execute("alter system set archive_mode = on")
            connection.execute(f"alter system set archive_command = 'cp %p {archive}/%f'")
        await damaged.stop()
        await damaged.start()
        await migrations.migrate(damaged.dsn, lambda _: None)
        async with keyed(damaged.dsn) as service:
            admin = await person(service, Role.ADMIN)
            await admin.create("before-the-backup")
            backup = tmp_path / "base"
            source = damaged.dsn
            await asyncio.to_thread(
                program,
                "pg_basebackup",
                f"--pgdata={backup}",
                "--checkpoint=fast",
                "--wal-method=none",
                conninfo(source),
            )
            await admin.create("after-the-backup")
            with psycopg.connect(damaged.dsn, autocommit=True) as connection:
                connection.execute("select pg_create_restore_point('before_the_accident')")
            await admin.delete("before-the-backup")
            await admin.delete("after-the-backup")
    finally:
        await damaged.stop()  # archives the last segment, too

    mended = EmbeddedPostgres(tmp_path / "mended")
    folder = DataDir(tmp_path / "mended").create().postgres
    shutil.copy2(DataDir(tmp_path / "damaged").postgres / "password", folder / "password")
    shutil.move(backup, folder / "cluster")
    (folder / "cluster" / "recovery.signal").touch()
    with (folder / "cluster" / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n"
            "recovery_target_name = 'before_the_accident'\nrecovery_target_action = promote\n"
        )
    give(folder / "cluster")
    try:
        await mended.start()
        await promoted(mended.dsn)
        async with keyed(mended.dsn) as service:
            again = Person(service, admin.key)
            there = ["after-the-backup", "before-the-backup", "system-python-3-12"]
            assert await names(service, again) == there
            await again.delete("after-the-backup")
            assert await names(service, again) == there[1:]
    finally:
        await mended.stop()
