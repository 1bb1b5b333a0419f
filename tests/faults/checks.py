"""What must hold once everything has calmed down."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from image_registry.models import ImageStatus, JobStatus, TerminationReason
from tests.faults.cluster import Cluster
from tests.faults.parts import CHILD, processes_of
from tests.faults.repositories import Repositories
from tests.faults.traffic import Expected
from tests.fixtures.rootfs import Rootfs, unpack_image


def rows(dsn: str, query: str) -> list[dict[str, Any]]:
    """Rows of the database, as dicts."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def check_books(dsn: str, expected: dict[str, Expected]) -> list[str]:
    """Every acknowledged create and delete is there, and every image's status has a reason of its own."""
    jobs = rows(dsn, "select * from jobs order by id")
    over = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    faults = [f"job {job['uuid']} of {job['image_name']} is not over" for job in jobs if job["status"] not in over]
    images = {row["name"]: row for row in rows(dsn, "select * from images where role = 2")}
    last = {job["image_name"]: job for job in jobs if job["kind"] == 1}
    acknowledged = {str(job["uuid"]) for job in jobs}
    for name, image in expected.items():
        faults += [f"the acknowledged job {job} of {name} is gone" for job in image.jobs if job not in acknowledged]
        if image.present != (name in images):
            faults.append(f"{name}: acknowledged present={image.present}, found {name in images}")
        elif image.present:
            faults += _faults_of(name, image, ImageStatus(images[name]["status"]), last[name])
    return faults + [f"{name} was never asked for" for name in images if name not in expected]


def _faults_of(name: str, image: Expected, status: ImageStatus, job: dict[str, Any]) -> list[str]:
    said = f"{name} is {status.name}: {TerminationReason(job['termination_reason']).name}, {job['progress']}"
    if image.cancelled:
        return [] if status in {ImageStatus.FAILED, ImageStatus.READY} else [said]
    if image.buildable:
        return [] if status is ImageStatus.READY else [said]
    right = status is ImageStatus.FAILED and job["termination_reason"] == TerminationReason.GENERIC_ERROR
    return [] if right else [said]


def check_remains(cluster: Cluster, dsn: str) -> list[str]:
    """No orphan process, folder of a build, temporary file, or repository."""
    builds = [line for line in processes_of(str(cluster.folder)).values() if CHILD in line or "/uv" in line]
    faults = [f"orphan process: {line}" for line in builds]
    for worker in cluster.workers:
        faults += [f"orphan folder: {path}" for path in worker.work_dir.glob("*")]
        faults += [f"orphan temporary file: {path}" for path in (worker.folder / "tmp").glob("*")]
    known = {row["name"] for row in rows(dsn, "select name from images")}
    return faults + cluster.repositories.remains(known)


def check_pulls(cluster: Cluster, dsn: str) -> tuple[int, list[str]]:
    """Every READY image can be pulled: manifest and blobs are what their digests say, and the recorded digest is it."""
    ready = rows(dsn, f"select name, digest from images where status = {ImageStatus.READY}")
    faults = []
    for row in ready:
        name = row["name"]
        try:
            tags = cluster.repositories.tags(name)
            if tags.get("latest") != row["digest"]:
                faults.append(f"{name}: recorded {row['digest']}, latest is {tags.get('latest')}")
            manifest = json.loads(cluster.repositories.blob(name, row["digest"]).read_text())
            for entry in (manifest["config"], *manifest["layers"]):
                cluster.repositories.blob(name, entry["digest"])
        except (OSError, ValueError, AssertionError, StopIteration) as error:
            faults.append(f"{name} can't be pulled: {error}")
    return len(ready), faults


def check_runs(cluster: Cluster, expected: dict[str, Expected], dsn: str, sample: int) -> int:
    """Unpack images and import their libraries with the images' own Python; returns how many were run."""
    if os.geteuid() != 0:
        return 0
    base = unpack_image(cluster.base.layout, "", cluster.folder / "rootfs-base")
    ready = rows(dsn, f"select name from images where role = 2 and status = {ImageStatus.READY} order by name")
    for row in ready[:sample]:
        rootfs = _on_base(cluster.repositories, row["name"], base, cluster.folder / f"rootfs-{row['name']}")
        names = ", ".join(expected[row["name"]].libraries)
        assert rootfs.run("python", "-B", "-c", f"import {names}; print('runs')") == "runs\n"
        shutil.rmtree(rootfs.path)
    return len(ready[:sample])


def _on_base(repositories: Repositories, name: str, base: Rootfs, path: Path) -> Rootfs:
    """The image's own layers on a copy of the base that shares its files."""
    subprocess.run(["cp", "--archive", "--link", str(base.path), str(path)], check=True)
    manifest = json.loads(repositories.blob(name, repositories.tags(name)["latest"]).read_text())
    config = json.loads(repositories.blob(name, manifest["config"]["digest"]).read_text())
    for layer in manifest["layers"][len(base.config["rootfs"]["diff_ids"]) :]:
        with gzip.open(repositories.blob(name, layer["digest"])) as archive:
            command = ["tar", "--extract", f"--directory={path}", "--keep-directory-symlink"]
            subprocess.run(command, input=archive.read(), check=True)
    return Rootfs(path, config)
