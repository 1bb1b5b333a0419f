"""`doctor`: what it finds, what it advises, its exit code."""

import asyncio
import os
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from image_registry.client import ImageRegistryClient
from image_registry.gateway.config import ListenerTls
from image_registry.host.addresses import free_port
from image_registry.local.postgres import find_running
from image_registry.registry.library_bitmaps import tend
from image_registry.storage.database import Database
from tests.fixtures.certificates import Authority
from tests.fixtures.postgres import clone_database
from tests.fixtures.product import running_product
from tests.fixtures.rest import Rest
from tests.fixtures.service import Service
from tests.integration.gateway.conftest import proxied
from tests.integration.gateway.test_states import eventually, status_is


@dataclass
class Report:
    """What `doctor` printed: a line for each part, and the whole."""

    code: int
    text: str

    def line(self, part: str) -> str:
        return next(line for line in self.text.splitlines() if line[8:].startswith(part))

    def remedy(self, part: str) -> str:
        lines = self.text.splitlines()
        return lines[lines.index(self.line(part)) + 1].strip()


async def doctor(*arguments: str, **environment: object) -> Report:
    cleaned = {key: value for key, value in os.environ.items() if not key.startswith("IMAGE_REGISTRY_")}
    settings = {f"IMAGE_REGISTRY_{key.upper()}": str(value) for key, value in environment.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "image_registry", "doctor", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=cleaned | settings,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Report(process.returncode, out.decode())


@pytest.fixture
def base(tmp_path: Path) -> str:
    """The reference of a base image as far as `doctor` looks at it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    return f"oci:{folder}:latest"


async def test_all_is_well(rest: Rest, dsn: str, base: str, tmp_path: Path) -> None:
    await rest.service.create("vision")
    report = await doctor(
        server=rest.service.address,
        http_address=rest.address,
        database_url=dsn,
        base_images=f"3.11={base}",
        data_dir=tmp_path,
    )
    assert report.code == 0, report.text
    assert report.line("server") == f"ok      server       {rest.service.address} is serving"
    assert report.line("access") == "ok      access       calls are answered, 2 images"
    assert "2 builds have been waiting for a few seconds" in report.line("worker")
    assert report.line("gateway") == f"ok      gateway      http://{rest.address} answers"
    assert report.line("database").endswith("answers, its schema is current")
    assert report.line("bitmaps") == "-       bitmaps      no worker has looked at all libraries yet for popular ones"
    assert report.line("base images") == "ok      base images  configured: Python 3.11"
    assert report.line("repository") == f"ok      repository   {tmp_path}/images/managed can be written to"
    assert report.line("moved bases") == "-       moved bases  no system image with a recorded base yet"
    assert "password" not in report.text


async def test_nothing_is_there(tmp_path: Path) -> None:
    report = await doctor(
        server=f"127.0.0.1:{free_port()}",
        http_address=f"127.0.0.1:{free_port()}",
        base_images=f"3.11=oci:{tmp_path}/nowhere",
        data_dir=tmp_path,
        system_packages="off",
    )
    assert report.code == 1
    assert "system packages are switched off" in report.line("packages")
    assert [report.line(part)[:6] for part in ("server", "gateway", "database", "base images")] == ["BROKEN"] * 4
    cure = "→ start the product with `image-registry up`"
    assert [report.remedy(part)[: len(cure)] for part in ("server", "gateway", "database")] == [cure] * 3
    assert report.remedy("gateway") == cure
    assert "→ make them reachable, or correct IMAGE_REGISTRY_BASE_IMAGES" in report.text
    assert report.text.endswith("error: 4 of 10 checks found something broken\n")


async def test_a_server_that_keeps_its_data_elsewhere(service: Service, base: str, tmp_path: Path) -> None:
    report = await doctor(
        server=service.address,
        http_address=f"127.0.0.1:{free_port()}",
        base_images=f"3.11={base}",
        data_dir=tmp_path,
        system_packages="off",
    )
    assert report.line("database").endswith(
        f"`up` runs in {tmp_path}; the server that answers keeps its data elsewhere"
    )
    assert "IMAGE_REGISTRY_DATA_DIR or --data-dir" in report.remedy("database")
    assert report.remedy("gateway").startswith("→ start it: `image-registry gateway`")


async def test_bitmaps_that_nobody_keeps_up_to_date(
    service: Service, dsn: str, database: Database, tmp_path: Path
) -> None:
    async def line() -> str:
        report = await doctor(server=service.address, database_url=dsn, data_dir=tmp_path, system_packages="off")
        return report.line("bitmaps")

    await service.create("vision", "numpy")
    await service.report("vision", "numpy==1.26.4")
    while await tend(database, long_log=2):
        pass
    assert await line() == "ok      bitmaps      up to date but for 1 builds; workers enter them when they are 500"
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into library_log (image_id, libraries, versions, logged_at)"
            " select 1, '{}', '{}', now() - interval '5 minutes' from generate_series(1, 499)"
        )
    assert (await line()).startswith("note    bitmaps      500 finished builds have been waiting for 30")
    await tend(database)
    assert await line() == "ok      bitmaps      up to date but for 0 builds; workers enter them when they are 500"


async def test_a_database_without_the_schema(postgres_server: str, base: str, tmp_path: Path) -> None:
    with clone_database(postgres_server) as empty:
        report = await doctor(
            server=f"127.0.0.1:{free_port()}",
            http_address=f"127.0.0.1:{free_port()}",
            base_images=f"3.11={base}",
            database_url=empty,
            data_dir=tmp_path,
        )
    assert "migrations (first: 0001 initial)" in report.line("database")
    assert "→ run `image-registry migrate`" in report.text


async def test_a_database_that_is_away(base: str, tmp_path: Path) -> None:
    report = await doctor(
        server=f"127.0.0.1:{free_port()}",
        http_address=f"127.0.0.1:{free_port()}",
        base_images=f"3.11={base}",
        database_url=f"postgresql://me:secret@127.0.0.1:{free_port()}/x",
        data_dir=tmp_path,
    )
    assert report.line("database").startswith("BROKEN")
    assert report.line("database").endswith("failed: Connection refused")
    assert report.line("bitmaps") == "-       bitmaps      can't be told without the database and its schema"
    assert "error connecting" not in report.text
    assert "secret" not in report.text


async def test_a_registry_for_images_that_is_away(base: str, tmp_path: Path) -> None:
    registry = f"127.0.0.1:{free_port()}"
    report = await doctor(
        server=f"127.0.0.1:{free_port()}",
        http_address=f"127.0.0.1:{free_port()}",
        base_images=f"3.11={base}",
        data_dir=tmp_path,
        repository=registry,
        repository_username="me",
        repository_password="secret",
        registry_endpoints=f"{registry}=http://{registry}",
    )
    assert report.line("repository").startswith(f"BROKEN  repository   {registry} can't be reached")
    assert "→ start it, or correct IMAGE_REGISTRY_REPOSITORY" in report.text
    assert "secret" not in report.text


async def test_builds_that_nobody_takes(service: Service, base: str, dsn: str) -> None:
    await service.create("vision")
    with psycopg.connect(dsn) as connection:
        connection.execute("update jobs set created_at = now() - interval '1 hour'")
    report = await doctor(server=service.address, base_images=f"3.11={base}", database_url=dsn)
    assert report.line("worker").startswith("BROKEN  worker       2 builds wait, the longest for 36")
    assert "→ start one: `image-registry worker`" in report.text


async def test_builds_that_wait_for_a_base_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` can't make one, which `doctor`, with another PATH, can't see by itself."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    data = tmp_path / "data"
    with running_product(data, "--no-gateway") as up, ImageRegistryClient(up.grpc_address) as client:
        client.create_image("vision", ["numpy"])
        dsn = find_running(data)
        assert dsn is not None
        with psycopg.connect(dsn) as connection:
            connection.execute("update jobs set created_at = now() - interval '2 minutes'")
        monkeypatch.setenv("PATH", path)
        report = await doctor(server=up.grpc_address, data_dir=data, system_packages="off")
    assert report.code == 1
    assert report.line("worker").startswith("BROKEN  worker       2 builds wait, the longest for 12")
    assert "and the base images" in report.remedy("worker")
    assert report.line("base images").startswith(
        "note    base images  none is made yet: builds wait until `up` has made"
    )
    assert "the output of `up` says what it lacks" in report.remedy("base images")


async def test_a_server_elsewhere_is_looked_at_from_outside_only() -> None:
    report = await doctor("--server", "registry.invalid:443", "--timeout", "2")
    assert report.code == 1
    assert report.line("server").startswith("BROKEN")
    assert "--no-tls" in report.text
    assert "on the server's own machine" in report.line("the rest")


async def test_a_faulty_setting_is_one_sentence() -> None:
    report = await doctor(server=f"127.0.0.1:{free_port()}", pool_size="many")
    assert report.code == 1
    assert "IMAGE_REGISTRY_POOL_SIZE" in report.text
    assert "Traceback" not in report.text


async def test_a_gateway_with_tls_is_asked_by_tls_and_its_certificate_looked_at(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("gateway")
    async with proxied(tls=ListenerTls(certificate, key)) as running:
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        async with httpx.AsyncClient(base_url=f"https://{running.address}", verify=trust, trust_env=False) as client:
            await eventually(lambda: status_is(client, "/healthz", 200))
        tls = {"http_tls_certificate": certificate, "http_tls_key": key}
        report = await doctor(http_address=running.address, data_dir=tmp_path, system_packages="off", **tls)
        assert report.line("gateway") == f"ok      gateway      https://{running.address} answers"
        assert report.line("certificates").startswith(f"note    certificates {certificate} (IMAGE_REGISTRY_HTTP_TLS_")
        strict = await doctor(
            http_address=running.address,
            data_dir=tmp_path,
            system_packages="off",
            http_tls_client_ca=authority.certificate,
            **tls,
        )
    assert "wants a certificate of its callers" in strict.line("gateway")
