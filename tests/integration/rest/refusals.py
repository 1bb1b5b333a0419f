"""Requests that the service itself refuses, for the tables in docs/rest.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from image_registry.models import Role
from image_registry.registry.keys import Keys
from tests.fixtures.rest import Rest, running_rest
from tests.fixtures.service import make_settings


@dataclass(frozen=True)
class Refused:
    """A request, and in words what is wrong with it. `{job}` stands for the id of a job that has ended."""

    wrong: str
    method: str
    path: str
    body: Any = None
    as_role: str = ""
    request_id: str = ""


NUMPY = {"pipRequirements": [{"name": "numpy"}]}
NO_JOB = "00000000-0000-4000-8000-000000000000"

BY_THE_SERVICE = (
    Refused("several faults", "POST", "/v1/images", {"name": "No", "pythonVersion": "2.7"}),
    Refused(
        "a URL as requirement", "POST", "/v1/images", {"name": "a", "pipRequirements": [{"name": "git+https://x/y"}]}
    ),
    Refused("a package without type", "POST", "/v1/images", {"name": "a", "packageRequirements": [{"name": "vim"}]}),
    Refused("a taken name", "POST", "/v1/images", {"name": "vision", **NUMPY}),
    Refused("an id sent with another body", "POST", "/v1/images", {"name": "b", **NUMPY}, request_id="id-1"),
    Refused("a malformed id", "POST", "/v1/images", {"name": "b", **NUMPY}, request_id="a b"),
    Refused("no such image", "GET", "/v1/images/other"),
    Refused("no such image", "DELETE", "/v1/images/other"),
    Refused("a system image", "DELETE", "/v1/images/system-python-3-11"),
    Refused("a negative page size", "GET", "/v1/images?pageSize=-1"),
    Refused("a forged token", "GET", "/v1/images?pageToken=forged"),
    Refused("an empty version", "POST", "/v1/images/list", {"pipLibraries": [{"name": "numpy", "version": ""}]}),
    Refused("no job's id", "GET", "/v1/jobs/1"),
    Refused("no such job", "GET", f"/v1/jobs/{NO_JOB}"),
    Refused("no such job", "GET", f"/v1/jobs/{NO_JOB}/logs"),
    Refused("a job that has ended", "POST", "/v1/jobs/cancel/{job}"),
    Refused("an image that is not building", "POST", "/internal/images/update-info", {"name": "vision"}),
)
BY_ACCESS = (
    Refused("no key", "GET", "/v1/images"),
    Refused("a wrong key", "GET", "/v1/images", as_role="bad"),
    Refused("a member deletes", "DELETE", "/v1/images/other", as_role="member"),
    Refused("more calls than the key may make", "GET", "/v1/images", as_role="busy"),
)


@asynccontextmanager
async def service_with_an_image(dsn: str, folder: Path) -> AsyncIterator[tuple[Rest, str]]:
    """The product with the image `vision`, READY, created under the id `id-1`, and the id of the job that built it."""
    bases = {"3.11": "oci:/bases/python3.11:latest"}
    async with running_rest(make_settings(base_images=bases), dsn, folder) as rest:
        created = await rest.http.post("/v1/images", json={"name": "vision", **NUMPY}, headers={"x-request-id": "id-1"})
        job = created.json()["job"]["jobId"]
        await rest.service.report("vision", "numpy==1.0")
        yield rest, job


@asynccontextmanager
async def service_with_keys(dsn: str, folder: Path) -> AsyncIterator[tuple[Rest, dict[str, str]]]:
    """The product with access by key, and a key for each role that `Refused.as_role` names."""
    async with running_rest(make_settings(auth="keys", key_requests=1.0), dsn, folder) as rest:
        keys = Keys(rest.service.server.database)
        made = {name: (await keys.create(Role.MEMBER)).secret for name in ("member", "busy")}
        for _ in range(20):  # more than a key may make at once
            await rest.http.get("/v1/images/other", headers={"rime-api-key": made["busy"]})
        yield rest, {**made, "bad": "imgreg_00000000_" + "0" * 64}


async def send(rest: Rest, refused: Refused, *, job: str = "", key: str = "") -> httpx.Response:
    """The answer to a request that is to be refused."""
    headers = {"rime-api-key": key} if key else {}
    if refused.request_id:
        headers["x-request-id"] = refused.request_id
    path = refused.path.replace("{job}", job)
    response = await rest.http.request(refused.method, path, json=refused.body, headers=headers)
    assert response.status_code >= 400, (refused, response.text)
    return response
