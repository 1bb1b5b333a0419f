"""A worker that builds into a registry, and deletes from it: through the service, as users see it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from ri.api.imageregistry import job_status_pb2 as status

from image_registry.builds.credentials import Keyring, Login
from image_registry.builds.repositories.opening import open_home
from image_registry.worker import loop as worker_loop
from tests.fixtures.certificates import Authority
from tests.fixtures.docker_registry import PASSWORD, USER, run_docker_registry
from tests.fixtures.moody_line import moody_line
from tests.fixtures.product import clean_environment
from tests.system.registries.conftest import Deploy, until_removed


async def test_images_live_and_die_in_a_registry(
    deploy: Deploy, tmp_path: Path, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS of a private CA, basic authentication, a path before the prefix; a child is built on its system image."""
    caplog.set_level(logging.DEBUG)
    authority = Authority.make(tmp_path / "authority")
    with run_docker_registry(tmp_path / "registry", auth="basic", tls=authority.issue("registry")) as registry:
        root = f"{registry.host}/team/managed"
        keyring = Keyring(logins={registry.host: Login(USER, PASSWORD)}, ca_bundle=authority.certificate)
        async with deploy(f"{registry.host}/team") as deployment, deployment.worker(root, keyring):
            job = await deployment.built("vision")
            assert job.status == status.JOB_STATUS_SUCCEEDED, job.job_progress_str
            image = await deployment.service.get("vision")
            assert image.repo_uri == f"{root}/vision"
            owners = {found.repository: found.owner for found in open_home(root, keyring).repositories()}
            assert owners.keys() == {f"{root}/vision", f"{root}/{image.base_image.name}"}
            assert all((owner or "").startswith(f"{deployment.registry_id}/") for owner in owners.values())
            assert registry.count("POST", "/vision/blobs/uploads/?mount=", "from=team%2Fmanaged%2Fsystem") > 0

            await deployment.deleted("vision")
            await until_removed(dsn)
            [left] = open_home(root, keyring).repositories()
            assert left.repository == f"{root}/{image.base_image.name}"
            again = await deployment.built("vision")
            assert again.status == status.JOB_STATUS_SUCCEEDED, again.job_progress_str
    assert PASSWORD not in caplog.text
    assert PASSWORD not in job.job_progress_str


async def test_a_deletion_is_tried_until_the_registry_does_it(
    deploy: Deploy, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "LONGEST_DELAY", 0.05)
    monkeypatch.setattr(worker_loop, "LONGEST_PAUSE", 0.05)
    with run_docker_registry(tmp_path / "registry") as registry, moody_line(registry.host) as line:
        root = f"{line.host}/managed"
        keyring = Keyring(endpoints={line.host: f"http://{line.host}"})
        async with deploy(line.host) as deployment, deployment.worker(root, keyring):
            await deployment.built("vision")
            for status_code in (405, 403, 500, 500, 500, 500):
                line.refuse("DELETE", "/managed/vision/manifests/", status_code, Retry_After="0")
            await deployment.deleted("vision")
            await until_removed(dsn)
            assert line.waiting == []
            assert [found.repository for found in open_home(root, keyring).repositories()] != []
            assert registry.tags("managed/vision") == []


async def test_a_password_is_in_no_process_list_and_no_log_of_a_build(deploy: Deploy, tmp_path: Path) -> None:
    with run_docker_registry(tmp_path / "registry", auth="basic") as registry, moody_line(registry.host) as line:
        seen: list[str] = []

        def look() -> None:
            processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
            seen.append(processes.stdout)

        line.before("POST", "/blobs/uploads/", look)
        keyring = Keyring(logins={line.host: Login(USER, PASSWORD)}, endpoints={line.host: f"http://{line.host}"})
        async with deploy(line.host) as deployment, deployment.worker(f"{line.host}/managed", keyring):
            job = await deployment.built("vision")
            line.refuse("PUT", "/manifests/", 418)
            failed = await deployment.built("second")
        assert failed.status == status.JOB_STATUS_FAILED
        assert "418" in failed.job_progress_str
    assert "image_registry.builds.child" in seen[0]
    with psycopg.connect(deployment.database._dsn) as connection:
        logs = " ".join(text for (text,) in connection.execute("select text from job_logs").fetchall())
    assert "push" in logs
    for text in (*seen, logs, job.job_progress_str, failed.job_progress_str):
        assert PASSWORD not in text


def start_worker(dsn: str, folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = clean_environment(DATABASE_URL=dsn, DATA_DIR=str(folder / "data"), **settings)
    environment |= {"DOCKER_CONFIG": str(folder / "docker")}
    return subprocess.run(
        [sys.executable, "-m", "image_registry", "worker"],
        env={name: value for name, value in environment.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_worker_says_what_its_registry_lacks(dsn: str, tmp_path: Path) -> None:
    """One sentence and exit code 1 each: no credentials, wrong ones, an unknown CA, a file that isn't there."""
    authority = Authority.make(tmp_path / "authority")
    with run_docker_registry(tmp_path / "registry", auth="basic", tls=authority.issue("registry")) as registry:
        trusting = {"REPOSITORY": registry.host, "REGISTRY_CA_BUNDLE": str(authority.certificate)}
        nobody = start_worker(dsn, tmp_path, **trusting)
        wrong = start_worker(
            dsn, tmp_path, **trusting, REPOSITORY_USERNAME="me", REPOSITORY_PASSWORD="not the right one"
        )
        untrusted = start_worker(dsn, tmp_path, REPOSITORY=registry.host)
        unreadable = start_worker(
            dsn, tmp_path, REPOSITORY=registry.host, REGISTRY_CA_BUNDLE=os.fspath(tmp_path / "none.pem")
        )
    said = [nobody.stderr, wrong.stderr, untrusted.stderr, unreadable.stderr]
    assert {nobody.returncode, wrong.returncode, untrusted.returncode, unreadable.returncode} == {1}
    assert f"{registry.host}/managed refuses uploads" in said[0]
    assert f"no credentials: the settings name none for {registry.host}; there is no {tmp_path}/docker" in said[0]
    assert "set IMAGE_REGISTRY_REPOSITORY_USERNAME" in said[0]
    assert "credentials of 'me' from the settings" in said[1]
    assert "of no authority that is trusted: name its certificate authority with IMAGE_REGISTRY_REGISTRY_CA" in said[2]
    assert "none.pem can't be read" in said[3]
    for text in said:
        assert text.count("\n") == 1, text
        assert "not the right one" not in text
