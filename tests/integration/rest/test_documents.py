"""What the gateway serves by itself: /openapi.json, /docs, and commands on it that work."""

from __future__ import annotations

import shlex
from pathlib import Path

import httpx
import pytest

from image_registry.openapi.document import build
from image_registry.openapi.examples import PARAMETERS
from image_registry.openapi.page import LOCAL_ADDRESS, commands
from tests.fixtures.rest import Rest

DOCS = Path(__file__).parents[3] / "docs"
SERVED = {"/openapi.json": ("openapi.json", "application/json"), "/docs": ("openapi.html", "text/html; charset=utf-8")}

# What the page's commands can't do with an image that nobody has really built, or that is gone.
REFUSED = {
    "JobReader_CancelJob": "is over",
    "JobLogs_ReadJobLogs": "no log",
    "ImageLocks_GetImageLock": "no image named",
}


@pytest.mark.parametrize("path", SERVED)
async def test_served_as_they_are_kept(rest: Rest, path: str) -> None:
    file, kind = SERVED[path]
    await rest.service.server.grpc.stop(None)  # nobody else is needed
    for address in (path, f"{path}?from=a-bookmark"):
        answer = await rest.http.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.content == (DOCS / file).read_bytes()
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
    head = await rest.http.head(path)
    assert (head.status_code, head.headers["content-type"], head.content) == (200, kind, b"")


@pytest.mark.parametrize("path", SERVED)
async def test_read_and_nothing_else(rest: Rest, path: str) -> None:
    refused = await rest.http.post(path, json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert refused.json() == {"code": 12, "message": "this path answers GET, HEAD", "details": []}
    assert (await rest.http.get(f"{path}/")).status_code == 404


async def test_health_is_still_health(rest: Rest) -> None:
    answer = await rest.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "SERVING"})


async def test_the_commands_on_the_page_work_in_order(rest: Rest) -> None:
    """As a reader would paste them; a job's id is that of the job just made."""
    made = commands(build())
    order = [
        "ImageRegistry_CreateImage",
        "ImageRegistry_GetImage",
        "JobReader_GetJob",
        "ImageRegistry_UpdateBuildInfo",
        "ImageRegistry_ListImages",
        "ImageRegistry_ListImages2",
        "ImageFinder_FindImages",
        "JobReader_ListJobs",
        "ImageRegistry_DeleteImage",
    ]
    assert set(made) - set(order) == set(REFUSED)
    job = PARAMETERS["jobId"]
    found = []
    for operation in order:
        response = await as_curl(rest, made[operation].replace(PARAMETERS["jobId"], job))
        assert response.status_code == 200, (operation, response.text)
        if operation == "ImageRegistry_CreateImage":
            job = response.json()["job"]["jobId"]
        found += [image["name"] for image in response.json().get("images", []) if operation.endswith("2")]
    assert found == ["vision"]
    for operation, message in REFUSED.items():
        refused = await as_curl(rest, made[operation].replace(PARAMETERS["jobId"], job))
        assert message in refused.json()["message"]


async def as_curl(rest: Rest, command: str) -> httpx.Response:
    """Do what curl would, for the options that our commands have."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words.pop(0) == "curl"
    address, method, body = "", "", None
    headers = {}
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                body = words.pop(0)
            case word:
                address = word
    return await rest.http.request(
        method or ("POST" if body else "GET"), address.removeprefix(LOCAL_ADDRESS), content=body, headers=headers
    )
