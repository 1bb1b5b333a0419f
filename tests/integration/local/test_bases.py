"""Which base images a local installation builds on."""

import asyncio
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_registry.host import StartError
from image_registry.local import bases
from image_registry.local.bases import BasePlan, make_base, plan_bases
from image_registry.local.probes import answers_http

NOBODY = "http://127.0.0.1:9/v2/"  # the port of a service that no machine runs any more


class Maker:
    """Makes empty layouts; can be unable to."""

    python_version = "3.11"
    title = "Debian 12 (bookworm)"

    def __init__(self) -> None:
        self.missing: str | None = None
        self.failures: list[str] = []
        self.made = 0

    def obstacle(self) -> str | None:
        return self.missing

    async def make(self, destination: Path, on_line: Callable[[str], None]) -> None:
        on_line("I: installing")
        if self.failures:
            raise StartError(self.failures.pop(0))
        _make_layout(destination)
        self.made += 1


def _make_layout(folder: Path) -> None:
    folder.mkdir()
    (folder / "index.json").touch()


@pytest.fixture
def registry() -> Iterator[str]:
    """A container registry that wants to know who asks, as Docker Hub does."""

    class Unauthorized(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Unauthorized)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v2/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "_LOOK_AGAIN_SECONDS", 0.05)


async def test_official_images_where_a_registry_answers(tmp_path: Path, registry: str) -> None:
    assert await plan_bases(tmp_path, Maker(), registry) == BasePlan(None)


async def test_a_base_of_its_own_where_none_answers(tmp_path: Path) -> None:
    plan = await plan_bases(tmp_path, Maker(), NOBODY)
    assert plan == BasePlan({"3.11": f"oci:{tmp_path}/python-3.11"}, tmp_path / "python-3.11")


async def test_a_base_is_made_once_and_then_used_without_asking(tmp_path: Path, registry: str) -> None:
    maker, said = Maker(), list[str]()
    plan = await plan_bases(tmp_path, maker, NOBODY)
    await make_base(plan, maker, tmp_path / "log", said.append)
    assert await plan_bases(tmp_path, maker, registry) == BasePlan(plan.images)
    assert maker.made == 1
    assert said[0].startswith(
        "no container registry answers, so a base image is made here once: Debian 12 (bookworm) with Python 3.11"
    )
    assert said[-1] == "the base image is made (0 s): builds use Python 3.11 from now on"
    assert (tmp_path / "log").read_text() == "I: installing\n"
    json.loads((tmp_path / "made.json").read_text())


async def test_a_base_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    maker = Maker()
    plan = await plan_bases(tmp_path, maker, NOBODY)
    await make_base(plan, maker, tmp_path / "log", print)
    (tmp_path / "python-3.11" / "index.json").unlink()
    assert (await plan_bases(tmp_path, maker, NOBODY)).pending is not None


async def test_what_is_missing_is_said_once_and_looked_for_again(tmp_path: Path) -> None:
    maker, said = Maker(), list[str]()
    maker.missing = "mmdebstrap is needed"
    making = asyncio.create_task(
        make_base(await plan_bases(tmp_path, maker, NOBODY), maker, tmp_path / "log", said.append)
    )
    await asyncio.sleep(0.3)
    assert said == ["mmdebstrap is needed (nothing can be built until then; looking again every 0 s)"]
    maker.missing = None
    await asyncio.wait_for(making, 30)
    assert maker.made == 1


async def test_a_failure_is_told_and_tried_again(tmp_path: Path) -> None:
    maker, said = Maker(), list[str]()
    maker.failures = ["no packages", "no packages", "disk full"]
    await make_base(await plan_bases(tmp_path, maker, NOBODY), maker, tmp_path / "log", said.append)
    causes = [line for line in said if line.startswith("the base image could not be made")]
    assert [cause.partition(" (")[0] for cause in causes] == [
        "the base image could not be made: no packages",
        "the base image could not be made: disk full",
    ]
    assert maker.made == 1


async def test_a_path_that_settings_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="must not contain a comma"):
        await plan_bases(tmp_path / "a,b", Maker(), NOBODY)


async def test_a_silent_registry_counts_as_none_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not await answers_http(f"http://127.0.0.1:{silent.getsockname()[1]}/v2/", 0.3)
        assert time.monotonic() - started < 10
