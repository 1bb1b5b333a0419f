"""Base images: resolved to a digest once for each build, recorded, and seen when they move."""

import json
import shutil
from pathlib import Path

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.storage.database import Database
from tests.fixtures import package_index as wheels
from tests.fixtures.package_index import make_wheel
from tests.fixtures.service import make_settings, running_service
from tests.integration.builds.test_platforms import BASES, write_base
from tests.integration.cli.test_doctor import doctor
from tests.integration.worker.test_endings import building, ended

pytestmark = pytest.mark.timeout(180)


def recorded(dsn: str) -> dict[str, tuple[str, str]]:
    """The digest, and that of its base, of each image."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select name, digest, base_digest from images").fetchall()
    return {name: (digest, base) for name, digest, base in rows}


def log_of(dsn: str, job_id: str) -> str:
    with psycopg.connect(dsn) as connection:
        query = "select l.text from job_logs l join jobs j on j.id = l.job_id where j.uuid = %s order by l.part"
        return "".join(text for (text,) in connection.execute(query, [job_id]).fetchall())


async def test_a_base_that_moves(
    dsn: str, database: Database, tmp_path: Path, package_index: wheels.PackageIndex
) -> None:
    package_index.add(make_wheel("good"))
    base = tmp_path / "base"
    reference = write_base(base, {**BASES["glibc"]("3.11"), "etc/release": "1"})
    settings = make_settings(base_images={"3.11": reference}, repository=f"oci:{tmp_path}/repositories")
    told = {"base_images": f"3.11={reference}", "database_url": dsn, "data_dir": tmp_path}
    async with running_service(settings, dsn) as service, building(database, tmp_path, package_index):
        created = await service.create("one", "good")
        first = await ended(service, created.job.job_id)
        assert first.status == status.JOB_STATUS_SUCCEEDED, first.job_progress_str
        before = recorded(dsn)
        system = before["system-python-3-11"]
        assert before["one"][1] == system[0]
        assert "moved" not in first.job_progress_str
        report = await doctor(server=service.address, **told)
        assert report.line("moved bases") == "ok      moved bases  every system image stands on its base as it is now"

        shutil.rmtree(base)
        write_base(base, {**BASES["glibc"]("3.11"), "etc/release": "2"})
        index = json.loads((base / "index.json").read_text())
        report = await doctor(server=service.address, **told)
        assert report.line("moved bases").startswith("note    moved bases  system-python-3-11 stands on sha256:")
        assert "→ rebuild: `image-registry images sync system-python-3-11 --force`" in report.text

        synced = await service.images.SyncImageTag(pb.SyncImageTagRequest(name="system-python-3-11", force=True))
        second = await ended(service, synced.job.job_id)
        after = recorded(dsn)["system-python-3-11"]
        moved = f"the base moved from {system[1]} to {after[1]}"
        assert system[1] != after[1]
        assert second.job_progress_str.endswith(f" · {moved}")
        assert f"{moved}: {reference}" in log_of(dsn, synced.job.job_id)
        assert f"base {after[1]}" in log_of(dsn, synced.job.job_id)
        assert index["manifests"][0]["digest"] != after[1]  # of the platform's manifest, not of the index
        report = await doctor(server=service.address, **told)
        assert report.line("moved bases").startswith("ok ")
