"""`image-registry gc`: what belongs to no image is found, and nothing else."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.builds.cache import Cache, Layer
from image_registry.builds.layer import wheel_layer_key
from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.oci.manifest import Descriptor, digest_of
from tests.fixtures.product import clean_environment
from tests.fixtures.service import Service, make_settings, running_service
from tests.unit.builds.images import image_of

OLD = 8 * 86400.0
PYTHON = "3.12"


@dataclass
class Installation:
    """The folders of one worker, and the database beside them."""

    folder: Path
    dsn: str

    @property
    def root(self) -> Path:
        return self.folder / "images" / "managed"

    def owner(self, name: str) -> str:
        """The owner of an image's repository."""
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute("select r.id, i.id from registry r, images i where i.name = %s", [name]).fetchone()
        assert row is not None
        return f"{row[0]}/{row[1]}"

    def push(self, name: str, owner: str) -> None:
        """Put an image into a repository."""
        image, config = image_of()
        LayoutRepository(self.root / name, self.root).push(owner, image, [], config, ["latest"])

    def collect(self, *arguments: str) -> str:
        """Run the command and return what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "image_registry", "gc", *arguments],
            env=clean_environment(DATABASE_URL=self.dsn, DATA_DIR=str(self.folder)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> set[str]:
        """Everything there is on disk."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def installation(dsn: str, tmp_path: Path) -> Installation:
    (tmp_path / "images/managed").mkdir(parents=True)
    for name in ("work", "cache/blobs", "cache/layers", "cache/locks"):
        (tmp_path / name).mkdir(parents=True)
    return Installation(tmp_path, dsn)


@pytest.fixture
async def service(dsn: str, tmp_path: Path) -> AsyncIterator[Service]:
    """The service, whose images go to the installation's folder."""
    async with running_service(make_settings(repository=f"oci:{tmp_path}/images"), dsn) as running:
        yield running


def age(path: Path, seconds: float = OLD) -> None:
    """Make a file or folder look as if it was not touched for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
async def vision(service: Service, installation: Installation) -> str:
    """An image that is there, with its repository; returns its owner."""
    await service.create("vision")
    installation.push("vision", installation.owner("vision"))
    return installation.owner("vision")


async def test_repositories(service: Service, installation: Installation, vision: str) -> None:
    registry = vision.partition("/")[0]
    await service.create("doomed")
    owner = installation.owner("doomed")
    installation.push("doomed", owner)
    await service.images.DeleteImage(pb.DeleteImageRequest(name="doomed"))  # its deletion job waits for a worker
    installation.push("orphan", f"{registry}/999999")
    installation.push("team/other", "9b2f0f7c-0000-4000-8000-000000000000/1")
    installation.push("strange", f"{registry}/x")
    for name in ("begun", "abandoned"):
        (installation.root / name / "blobs" / "sha256").mkdir(parents=True)
    age(installation.root / "abandoned")
    (installation.root / ".trash" / "old").mkdir(parents=True)
    age(installation.root / ".trash" / "old")
    age(installation.root / "vision")

    before = installation.files()
    said = installation.collect()
    assert installation.files() == before
    root = f"oci:{installation.root}"
    assert said.splitlines() == [
        f"found    repository    {root}/abandoned: no image was ever finished in it",
        f"found    repository    {root}/orphan: its image was deleted",
        "found    note          .trash/old: a removed repository",
        f"kept     repository    {root}/strange: this registry did not make it",
        f"kept     repository    {root}/team/other: this registry did not make it",
        "2 repositories, 1 note, 0.0 MB; nothing was removed: run it with --delete for that",
    ]
    assert installation.collect("--delete").count("removed  ") == 3
    left = {path.name for path in installation.root.iterdir() if not path.name.startswith(".")}
    assert left == {"vision", "doomed", "team", "strange", "begun"}
    assert "nothing belongs to no image" in installation.collect()


def write_layer(installation: Installation, content: bytes, key: str) -> Path:
    """Put a layer into the cache as a build does it; returns its blob."""
    own = installation.folder / "own"
    own.mkdir(exist_ok=True)
    digest = digest_of(content)

    def make(path: Path) -> Layer:
        path.write_bytes(content)
        blob = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest, len(content))
        return Layer(blob, digest, (), 0, (), (), 0)

    Cache(installation.folder / "cache", own, print).layer(key, make)
    return installation.folder / "cache" / "blobs" / digest.removeprefix("sha256:")


async def test_cached_layers(service: Service, installation: Installation, vision: str) -> None:
    wheel = hashlib.sha256(b"wheel").hexdigest()
    needed = write_layer(installation, b"a layer of an image", wheel_layer_key(wheel, PYTHON))
    unneeded = write_layer(installation, b"a layer of nobody" * 100_000, "0" * 64)
    recent = write_layer(installation, b"a layer of a build under way", "1" * 64)
    for blob in (needed, unneeded):
        age(blob)
    with psycopg.connect(installation.dsn) as conn:
        lock = json.dumps({"context": "c", "libraries": [{"sha256": wheel}]})
        conn.execute("update images set lock = %s where name = 'vision'", [lock])
    assert "1 cached layer, 1.7 MB; nothing was removed" in installation.collect()
    assert "1 cached layer, 1.7 MB; removed" in installation.collect("--delete")
    assert [blob.exists() for blob in (needed, unneeded, recent)] == [True, False, True]
    notes = {path.name for path in (installation.folder / "cache" / "layers").iterdir()}
    assert notes == {wheel_layer_key(wheel, PYTHON), "1" * 64}
    assert f"found    cached layer  {recent}" in installation.collect("--days", "0")


async def test_folders_of_killed_builds(service: Service, installation: Installation) -> None:
    dead, alive = (installation.folder / "work" / name for name in ("build-dead", "build-alive"))
    for folder in (dead, alive):
        folder.mkdir()
        (folder / ".lock").touch()
    (dead / "half").write_bytes(bytes(2_000_000))
    with (alive / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = installation.collect("--delete")
    assert f"removed  folder        {dead}: its build was killed, 2.0 MB" in said
    assert str(alive) not in said
    assert not dead.exists()
    assert alive.exists()


async def test_logs_of_images_that_are_gone(service: Service, installation: Installation, vision: str) -> None:
    for name in ("gone", "lately"):
        await service.create(name)
        await service.images.DeleteImage(pb.DeleteImageRequest(name=name))
    with psycopg.connect(installation.dsn) as conn:
        conn.execute("insert into job_logs select id, 1, 'text' from jobs where kind = 1")
        conn.execute("update jobs set log_parts = 1, log_bytes = 4 where kind = 1")
        conn.execute("update jobs set finished_at = now() - interval '8 days' where image_name = 'gone' and kind = 1")
    said = installation.collect("--delete")
    assert "the image gone was deleted" in said
    assert "1 log, 0.0 MB; removed" in said
    with psycopg.connect(installation.dsn) as conn:
        left = conn.execute("select image_name from job_logs join jobs on id = job_id order by 1").fetchall()
        assert ("gone",) not in left
        assert ("lately",) in left
        assert ("vision",) in left
        assert conn.execute("select count(*) from jobs where log_parts = 0 and kind = 1").fetchone() == (1,)


async def test_an_empty_installation(service: Service, dsn: str, tmp_path: Path) -> None:
    assert Installation(tmp_path / "none", dsn).collect() == "nothing belongs to no image\n"
