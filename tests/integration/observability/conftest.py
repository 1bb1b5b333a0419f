"""The product's processes under observation: an image is built over REST, and what everybody said of it is kept."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from image_registry.host.addresses import free_port
from image_registry.models import Role
from image_registry.registry.keys import Keys
from image_registry.storage import migrations
from image_registry.storage.database import Database
from tests.fixtures.base_image import TestBase
from tests.fixtures.collector import Collector, running_collector
from tests.fixtures.package_index import make_wheel, run_package_index
from tests.fixtures.part import Part, running_part
from tests.fixtures.postgres import clone_database

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLERS_SPAN = "00f067aa0ba902b7"
INDEX_PASSWORD = "index-secret"


@dataclass
class Observed:
    """Everything there is to see of one build. `answers` are status and headers of the calls, by name."""

    server: Part
    worker: Part
    gateway: Part
    collector: Collector
    http: str
    grpc: str
    key: str
    admin: dict[str, str]
    answers: dict[str, tuple[int, dict[str, str]]]
    job: dict[str, Any]

    def call(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """A REST call with the key."""
        return call(f"{self.http}{path}", body, **({"rime-api-key": self.key} | headers))

    def scrape(self, part: str) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://{self.admin[part]}/metrics", timeout=30) as answer:
            return str(answer.read().decode())


def call(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    """A request with a JSON body (None: a GET); status, headers and body of the answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, data, named), timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(answer.read() or b"null")


@pytest.fixture(scope="module")
def observed(
    postgres_server: str, debian_base: TestBase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """Server, worker and gateway with keys, logs in JSON, metrics and traces; one image is created and built."""
    folder = tmp_path_factory.mktemp("observed")
    with ExitStack() as running:
        dsn = running.enter_context(clone_database(postgres_server))
        key = asyncio.run(_prepare(dsn))
        collector = running.enter_context(running_collector())
        index = running.enter_context(run_package_index())
        index.add(make_wheel("trinket", "1.0"))
        index.user, index.password = "reader", INDEX_PASSWORD
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("grpc", "http", "server", "worker")}
        common = {
            "DATABASE_URL": dsn,
            "DATA_DIR": str(folder),
            "BASE_IMAGES": f"{debian_base.python_version}={debian_base.reference}",
            "INDEX_URL": index.url.replace("://", f"://reader:{INDEX_PASSWORD}@"),
            "GRPC_ADDRESS": ports["grpc"],
            "HTTP_ADDRESS": ports["http"],
            "AUTH": "keys",
            "ACCESS_LOG": "all",
            "OTLP_ENDPOINT": collector.url,
        }
        parts = {
            "server": running.enter_context(running_part("serve", ADMIN_ADDRESS=ports["server"], **common)),
            "worker": running.enter_context(running_part("worker", ADMIN_ADDRESS=ports["worker"], **common)),
            "gateway": running.enter_context(running_part("gateway", **common)),
        }
        seen = Observed(**parts, collector=collector, http=f"http://{ports['http']}", grpc=ports["grpc"], key=key,
                        admin={"server": ports["server"], "worker": ports["worker"]}, answers={}, job={})  # fmt: skip
        asyncio.run(_build(seen))
        yield seen


async def _prepare(dsn: str) -> str:
    await migrations.migrate(dsn, lambda _: None)
    db = Database(dsn, size=1, wait=5, statement_timeout=10)
    await db.open()
    try:
        return (await Keys(db).create(Role.MEMBER, name="observed")).secret
    finally:
        await db.close()


async def _build(seen: Observed) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(lambda: call(f"{seen.http}/healthz")[0]) != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    traced = {"traceparent": f"00-{TRACE}-{CALLERS_SPAN}-01", "x_request_id": "the-create"}
    wanted = {"name": "seen", "pipRequirements": [{"name": "trinket"}]}
    status, headers, body = await asyncio.to_thread(lambda: seen.call("/v1/images", wanted, **traced))
    assert status == 200, body
    seen.answers["create"] = (status, headers)
    status, headers, _ = await asyncio.to_thread(lambda: seen.call("/v1/images/absent", x_request_id="the-miss"))
    seen.answers["miss"] = (status, headers)
    status, headers, _ = await asyncio.to_thread(lambda: call(f"{seen.http}/v1/images/seen", rime_api_key="nonsense"))
    seen.answers["refused"] = (status, headers)
    async with asyncio.timeout(150):
        while True:
            answer = await asyncio.to_thread(lambda: seen.call(f"/v1/jobs/{body['job']['jobId']}?view=JOB_VIEW_FULL"))
            seen.job = answer[2]["job"]
            if seen.job["status"] in {"JOB_STATUS_SUCCEEDED", "JOB_STATUS_FAILED"}:
                break
            await asyncio.sleep(0.1)
    assert seen.job["status"] == "JOB_STATUS_SUCCEEDED", seen.job
