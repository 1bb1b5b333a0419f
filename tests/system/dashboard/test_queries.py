"""A real Prometheus scrapes the real parts while they work; every query of the dashboard then shows something."""

import asyncio
import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.host.addresses import free_port
from image_registry.storage import migrations
from tests.fixtures.base_image import TestBase
from tests.fixtures.certificates import Authority
from tests.fixtures.package_index import make_wheel, run_package_index
from tests.fixtures.part import running_part
from tests.fixtures.postgres import clone_database

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
UNPACKED = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "prometheus"
ROUNDS = 4

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def queries() -> Iterator[Any]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")


@dataclass
class Prometheus:
    """A running one; `began` is when."""

    url: str
    began: float

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """What a graph of everything since its start would draw."""
        found = self.ask("/api/v1/query_range", query=expression, start=self.began, end=time.time(), step=1)
        result: list[dict[str, Any]] = found["result"]
        return result


@contextmanager
def running_prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    program = str(UNPACKED) if UNPACKED.exists() else shutil.which("prometheus")
    if program is None:
        pytest.fail("Prometheus is not here: make test-system unpacks Debian's package")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "image-registry", "static_configs": [{"targets": targets}]}],
        "rule_files": [str(MONITORING / "alerts.yaml")],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://{listen}", time.time())
    try:
        wait_until(lambda: all(target["health"] == "up" for target in active(prometheus)) and bool(active(prometheus)))
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def active(prometheus: Prometheus) -> list[dict[str, Any]]:
    """The targets; none while it starts."""
    try:
        return list(prometheus.ask("/api/v1/targets")["activeTargets"])
    except OSError:
        return []


def wait_until(holds: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it took too long"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def prometheus(
    postgres_server: str, debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus, after it has watched the parts at work for some seconds."""
    folder = tmp_path_factory.mktemp("watched")
    authority = Authority.make(folder / "ca")
    certificate, key = authority.issue("image-registry", "DNS:image-registry", days=30)
    address, rest, *admin = (f"127.0.0.1:{free_port()}" for _ in range(5))
    with ExitStack() as running:
        dsn = running.enter_context(clone_database(postgres_server))
        asyncio.run(migrations.migrate(dsn, lambda _: None))
        index = running.enter_context(run_package_index())
        for number in range(ROUNDS):
            index.add(make_wheel(f"trinket{number}", "1.0"))
        common = {
            "DATABASE_URL": dsn,
            "DATA_DIR": str(folder / "data"),
            "BASE_IMAGES": f"{debian_base.python_version}={debian_base.reference}",
            "INDEX_URL": index.url,
            "GRPC_ADDRESS": address,
            "HTTP_ADDRESS": rest,
            "POOL_SIZE": "1",
            "UPSTREAM_CA": str(authority.certificate),
            "TLS_CERTIFICATE": str(certificate),
            "TLS_KEY": str(key),
        }
        for part, where in zip(("serve", "worker", "gateway"), admin, strict=True):
            running.enter_context(running_part(part, ADMIN_ADDRESS=where, **common))
        watching = running.enter_context(running_prometheus(folder, admin))
        for number in range(ROUNDS):
            asyncio.run(work(rest, number))
        yield watching


async def work(rest: str, number: int) -> None:
    """One image that is built, one that can't be, questions about neither, and more at once than the pool takes."""
    async with aio.insecure_channel(rest) as channel:
        stub: Any = ImageRegistryStub(channel)
        for name, library in ((f"good{number}", f"trinket{number}"), (f"bad{number}", "nobody-has-it")):
            await stub.CreateImage(
                pb.CreateImageRequest(name=name, pip_requirements=[{"name": library}]), wait_for_ready=True
            )
        async with asyncio.timeout(120):
            while True:
                image = (await stub.GetImage(pb.GetImageRequest(name=f"good{number}"))).image
                if image.status == pb.ManagedImage.STATUS_READY:
                    break
                await asyncio.sleep(0.2)
        for _ in range(3):
            missing = (stub.GetImage(pb.GetImageRequest(name="nobody")) for _ in range(5))
            await asyncio.gather(*missing, return_exceptions=True)
            await asyncio.gather(*(stub.ListImages(pb.ListImagesRequest()) for _ in range(30)))
            await stub.ListImages(pb.ListImagesRequest(page_size=1000))
            await asyncio.sleep(1)


@pytest.mark.parametrize("expression", list(queries()))
def test_a_panel_shows_something(prometheus: Prometheus, expression: str) -> None:
    drawn = prometheus.series(expression.replace("$__rate_interval", "4s"))
    values = [float(value) for series in drawn for _, value in series["values"]]
    assert any(math.isfinite(value) for value in values), drawn


def test_prometheus_evaluates_every_alert_and_none_fires(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(rules) == (MONITORING / "alerts.yaml").read_text().count("- alert:")
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
