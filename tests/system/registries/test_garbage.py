"""Collecting garbage in a registry, beside a build that runs, and the notes that deletions leave."""

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.credentials import Keyring
from image_registry.builds.oci import layout
from image_registry.builds.oci.push import DeletionNotes, RegistryRepository, tags
from image_registry.builds.oci.registry import RegistryClient
from image_registry.builds.repositories.opening import open_home
from tests.fixtures.docker_registry import DockerRegistry, docker_registry
from tests.fixtures.moody_line import moody_line
from tests.fixtures.product import clean_environment
from tests.system.registries.conftest import Deploy
from tests.unit.builds.images import image_of

__all__ = ["docker_registry"]
IMAGE, CONFIG = image_of()


def collect(dsn: str, folder: Path, host: str, *arguments: str) -> str:
    """Run the command and return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "image_registry", "gc", *arguments],
        env=clean_environment(
            DATABASE_URL=dsn, DATA_DIR=str(folder), REPOSITORY=host, REGISTRY_ENDPOINTS=f"{host}=http://{host}"
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_beside_a_build(deploy: Deploy, docker_registry: DockerRegistry, dsn: str, tmp_path: Path) -> None:
    """It runs while a build is between its owner's mark and its image: nothing of that is taken for garbage."""
    host = docker_registry.host
    keyring = Keyring(endpoints={host: f"http://{host}"})
    with moody_line(host) as line:
        line_keyring = Keyring(endpoints={line.host: f"http://{line.host}"})
        pushing, collected = threading.Event(), threading.Event()

        def hold() -> None:
            pushing.set()
            assert collected.wait(100)

        line.before("PUT", "/managed/vision/manifests/v1", hold)
        async with deploy(line.host) as deployment, deployment.worker(f"{line.host}/managed", line_keyring):
            with RegistryClient(keyring.access(host)) as client:
                for name, owner in (
                    ("orphan", f"{deployment.registry_id}/999999"),
                    ("foreign", "9b2f0f7c-0000-4000-8000-000000000000/1"),
                ):
                    repository = RegistryRepository(client, f"managed/{name}", "managed")
                    repository.push(owner, IMAGE, [], CONFIG, ["v1"])
                outside = RegistryRepository(client, "elsewhere/orphan", "elsewhere")
                outside.push(f"{deployment.registry_id}/999999", IMAGE, [], CONFIG, ["v1"])
                build = asyncio.create_task(deployment.built("vision"))
                assert await asyncio.to_thread(pushing.wait, 100)
                seen = await asyncio.to_thread(collect, dsn, tmp_path, host)
                said = await asyncio.to_thread(collect, dsn, tmp_path, host, "--delete", "--days", "7")
                collected.set()
                job = await build
                assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
                assert tags(client, "managed/orphan") == []
                assert len(tags(client, "managed/foreign")) == 2
                assert len(tags(client, "elsewhere/orphan")) == 2
                assert len(tags(client, "managed/vision")) == 3
    assert f"found    repository    {host}/managed/orphan: its image was deleted" in seen
    assert f"removed  repository    {host}/managed/orphan: its image was deleted" in said
    assert f"kept     repository    {host}/managed/foreign: this registry did not make it" in said
    assert "vision" not in said
    assert "elsewhere" not in said


def test_old_notes_are_forgotten(docker_registry: DockerRegistry, monkeypatch: object) -> None:
    host = docker_registry.host
    home = open_home(f"{host}/managed", Keyring(endpoints={host: f"http://{host}"}))
    with RegistryClient(Keyring(endpoints={host: f"http://{host}"}).access(host)) as client:
        notes = DeletionNotes(client, "managed")
        notes.write("a life")
        notes.write("another life")
        assert list(home.leftovers()) == []
        later = datetime.now(UTC) + timedelta(seconds=layout.NOTE_SECONDS + 60)
        old = notes.old(later)
        assert len(old) == 2
        notes.forget(old[0])
        assert notes.old(later) == old[1:]
        assert [notes.has(owner) for owner in ("a life", "another life")].count(True) == 1
