"""JSON as the published page and the published clients have it: names, numbers, times, enums, what is always there."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from tests.fixtures.rest import Rest
from tests.fixtures.service import make_settings

ONE_PYTHON = make_settings(base_images={"3.11": "oci:/bases/python3.11:latest"})
WANTED = {
    "name": "vision",
    "pipRequirements": [{"name": "numpy", "versionSpecifier": ">=1"}],
    "packageRequirements": [{"name": "vim", "packageType": "PACKAGE_TYPE_APT"}],
    "pythonVersion": "3.11",
}
pytestmark = pytest.mark.parametrize("rest", [ONE_PYTHON], indirect=True)


async def answer(rest: Rest, method: str, path: str, body: Any = None) -> Any:
    """The JSON of a call that succeeds."""
    response = await rest.http.request(method, path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def test_a_new_image_and_its_job_to_the_letter(rest: Rest) -> None:
    made = await answer(rest, "POST", "/v1/images", WANTED)
    created = datetime.fromisoformat(made["job"].pop("creationTime"))
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    assert re.fullmatch(r"[0-9a-f-]{36}", made["job"].pop("jobId"))
    assert made == {
        "image": {
            "name": "vision",
            "baseImage": {"name": "system-python-3-11", "referenceType": "REFERENCE_TYPE_MANAGED"},
            "roleType": "ROLE_TYPE_USER_DEFINED",
            "childImages": [],
            "rimeTag": "v1",
            "repoUri": "oci:/images/managed/vision",
            "status": "STATUS_BUILDING_FIRST_TIME",
            "packageRequirements": [{"name": "vim", "versionSpecifier": "", "packageType": "PACKAGE_TYPE_APT"}],
            "pipRequirements": [{"name": "numpy", "versionSpecifier": ">=1"}],
            "pipLibraries": [],
            "pythonVersion": "3.11",
        },
        "job": {
            "terminationReason": "TERMINATION_REASON_NOT_TERMINATED",
            "jobType": "JOB_TYPE_IMAGE_BUILDER",
            "status": "JOB_STATUS_REQUESTED",
            "runningTimeSecs": 0,
            "jobProgressStr": "",
            "cancellationRequested": False,
        },
    }


async def test_times_are_rfc_3339_in_utc(rest: Rest) -> None:
    made = await rest.http.post("/v1/images", json=WANTED)
    assert re.search(r'"creationTime":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3,9})?Z"', made.text)


async def test_empty_answers_are_complete(rest: Rest) -> None:
    assert (await rest.http.get("/v1/images")).text == '{"images":[],"nextPageToken":""}'
    assert (await rest.http.post("/v1/images/list", json={})).text == '{"images":[],"nextPageToken":""}'
    assert await answer(rest, "GET", "/v1/jobs") == {"jobs": [], "nextPageToken": "", "hasMore": False}


async def test_the_zero_value_of_an_enum_comes_by_name(rest: Rest) -> None:
    """The base of a system image is a place that the contract has no word for."""
    await rest.service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
    listed = await answer(rest, "GET", "/v1/images")
    assert listed["images"][0]["baseImage"]["referenceType"] == "REFERENCE_TYPE_UNSPECIFIED"


async def test_deleting_and_cancelling_answer_an_empty_object(rest: Rest) -> None:
    job = (await answer(rest, "POST", "/v1/images", WANTED))["job"]["jobId"]
    assert await answer(rest, "POST", f"/v1/jobs/cancel/{job}") == {}
    assert await answer(rest, "POST", f"/v1/jobs/cancel/{job}", {}) == {}
    assert await answer(rest, "DELETE", "/v1/images/vision", {}) == {}


async def test_names_in_camel_case_and_in_snake_case_are_understood(rest: Rest) -> None:
    snake = {
        "name": "vision",
        "pip_requirements": [{"name": "numpy", "version_specifier": ">=1"}],
        "package_requirements": [{"name": "vim", "package_type": "PACKAGE_TYPE_APT"}],
        "python_version": "3.11",
    }
    made = (await answer(rest, "POST", "/v1/images", snake))["image"]
    again = (await answer(rest, "POST", "/v1/images", {**WANTED, "name": "second"}))["image"]
    names = {"name": "vision", "repoUri": made["repoUri"]}
    assert {**again, **names} == made
    for query in ("pageSize=1", "page_size=1"):
        first = await answer(rest, "GET", f"/v1/images?{query}")
        assert [one["name"] for one in first["images"]] == ["second"]
        for token in ("pageToken", "page_token"):
            more = await answer(rest, "GET", f"/v1/images?{query}&{token}={first['nextPageToken']}")
            assert [one["name"] for one in more["images"]] == ["system-python-3-11"]
    for body in ({"pageSize": 1}, {"page_size": 1}):
        assert len((await answer(rest, "POST", "/v1/images/list", body))["images"]) == 1


@pytest.mark.parametrize("size", ["2", 2])
async def test_64_bit_numbers_are_understood_as_text_and_as_numbers(rest: Rest, size: object) -> None:
    await answer(rest, "POST", "/v1/images", WANTED)
    assert len((await answer(rest, "POST", "/v1/images/list", {"pageSize": size}))["images"]) == 2
    largest = await rest.http.post("/v1/images/list", json={"pageSize": "9223372036854775807"})
    assert largest.status_code == 200
    assert (await rest.http.post("/v1/images/list", json={"pageSize": "9223372036854775808"})).status_code == 400


async def test_enums_are_understood_by_name_and_by_number(rest: Rest) -> None:
    for name, kind in (("first", "PACKAGE_TYPE_APT"), ("second", 1)):
        body = {"name": name, "packageRequirements": [{"name": "vim", "packageType": kind}]}
        image = (await answer(rest, "POST", "/v1/images", body))["image"]
        assert image["packageRequirements"][0]["packageType"] == "PACKAGE_TYPE_APT"


async def test_presence_of_a_filters_version(rest: Rest) -> None:
    """Absent and null mean any version; present and empty is an error."""
    await answer(rest, "POST", "/v1/images", WANTED)
    await rest.service.report("vision", "numpy==1.0")
    for one in ({"name": "numpy"}, {"name": "numpy", "version": None}, {"name": "numpy", "version": "1"}):
        listed = await answer(rest, "POST", "/v1/images/list", {"pipLibraries": [one]})
        assert [image["name"] for image in listed["images"]] == ["vision"]
    refused = await rest.http.post("/v1/images/list", json={"pipLibraries": [{"name": "numpy", "version": ""}]})
    assert refused.status_code == 400
    assert refused.json()["message"].startswith("pipLibraries[0].version: ")


async def test_jobs_are_found_by_the_query(rest: Rest) -> None:
    made = (await answer(rest, "POST", "/v1/images", WANTED))["job"]["jobId"]
    await rest.service.report("vision", "numpy==1.0")

    async def found(query: str) -> list[str]:
        return [job["jobId"] for job in (await answer(rest, "GET", f"/v1/jobs?{query}"))["jobs"]]

    assert await found("firstPageQuery.objectId=vision") == [made]
    assert await found("first_page_query.object_id=vision") == [made]
    both = "firstPageQuery.selectedStatuses=JOB_STATUS_SUCCEEDED&firstPageQuery.selectedStatuses=JOB_STATUS_FAILED"
    assert await found(both) == [made]
    assert await found("firstPageQuery.selectedTypes=JOB_TYPE_FILE_SCAN") == []
    assert len(await found("view=JOB_VIEW_FULL")) == 2
    full = await answer(rest, "GET", f"/v1/jobs/{made}?view=JOB_VIEW_FULL")
    assert full["job"]["status"] == "JOB_STATUS_SUCCEEDED"
    assert full["job"]["terminationReason"] == "TERMINATION_REASON_COMPLETED"
    assert full["job"]["jobProgressStr"] != ""


async def test_unknown_fields_of_a_body_are_dropped(rest: Rest) -> None:
    """The gateway drops them, and no option changes that; the reference says so."""
    assert (await answer(rest, "POST", "/v1/images", {**WANTED, "colour": "red"}))["image"]["name"] == "vision"


async def test_internal_reports_of_builds(rest: Rest) -> None:
    await answer(rest, "POST", "/v1/images", WANTED)
    libraries = [{"name": "numpy", "version": "1.0"}]
    report = {"name": "vision", "builtSuccessfully": True, "pipLibraries": libraries}
    assert await answer(rest, "POST", "/internal/images/update-info", report) == {}
    image = (await answer(rest, "GET", "/v1/images/vision"))["image"]
    assert (image["status"], image["pipLibraries"]) == ("STATUS_READY", libraries)


async def test_characters_that_json_and_html_escape_come_back_as_they_were(rest: Rest) -> None:
    await answer(rest, "POST", "/v1/images", WANTED)
    odd = 'a"b\\c/<d>&'
    report = {"name": "vision", "builtSuccessfully": True, "pipLibraries": [{"name": "numpy", "version": odd}]}
    await answer(rest, "POST", "/internal/images/update-info", report)
    assert (await answer(rest, "GET", "/v1/images/vision"))["image"]["pipLibraries"][0]["version"] == odd
