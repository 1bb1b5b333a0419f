"""What requests for pages ask, the rules of tokens beside filters, and all faults at once."""

from typing import Any

import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import limits
from image_registry.api.page_queries import ImageQuery, JobQuery, image_query, job_query
from image_registry.api.tokens import PageTokens
from image_registry.errors import Reason, RegistryError
from image_registry.models import JobStatus, LibraryFilter

IMAGES, JOBS = PageTokens(b"secret", "images"), PageTokens(b"secret", "jobs")
Filter = pb.ListImagesRequest.PipLibraryFilter


def images(*filters: dict[str, str], **fields: Any) -> ImageQuery:
    return image_query(pb.ListImagesRequest(pip_libraries=[Filter(**one) for one in filters], **fields), IMAGES)


def jobs(**fields: Any) -> JobQuery:
    return job_query(jobs_pb2.ListJobsRequest(**fields), JOBS)


def refusal(call: Any, *args: Any, **fields: Any) -> tuple[Reason, set[str]]:
    with pytest.raises(RegistryError) as caught:
        call(*args, **fields)
    return caught.value.reason, {fault.field for fault in caught.value.faults}


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**63 - 1, 1000)])
def test_page_sizes(asked: int, given: int) -> None:
    assert images(page_size=asked).size == given
    assert jobs(page_size=asked).size == given


@pytest.mark.parametrize("size", [-1, -(2**63)])
def test_negative_page_sizes(size: int) -> None:
    assert refusal(images, page_size=size) == (Reason.INVALID_REQUEST, {"pageSize"})
    assert refusal(jobs, page_size=size) == (Reason.INVALID_REQUEST, {"pageSize"})
    with pytest.raises(RegistryError, match="must not be negative: 0 is 50, more than 1,000 are cut to that"):
        images(page_size=size)


def test_filters_are_brought_into_one_form() -> None:
    one = images({"name": "Scikit_Learn", "version": "1.0"}, {"name": "numpy"}, {"name": "NumPy"})
    two = images({"name": "numpy"}, {"name": "scikit-learn", "version": "1.0.0"})
    assert one == two
    assert one.filters == (LibraryFilter("numpy"), LibraryFilter("scikit-learn", "1"))


def test_an_absent_version_is_not_an_empty_one() -> None:
    assert images({"name": "numpy"}).filters == (LibraryFilter("numpy", None),)
    assert refusal(images, {"name": "numpy", "version": ""}) == (Reason.INVALID_REQUEST, {"pipLibraries[0].version"})


def test_local_versions_are_kept_apart() -> None:
    assert images({"name": "torch", "version": "2.0+CU118"}).filters == (LibraryFilter("torch", "2+cu118"),)


def test_all_faults_of_a_list_are_reported_at_once() -> None:
    filters = ({"name": ""}, {"name": "numpy", "version": ">=1"}, {"name": "x y", "version": ""})
    assert refusal(images, *filters, page_size=-1, page_token="forged") == (
        Reason.INVALID_REQUEST,
        {
            *("pageSize", "pageToken", "pipLibraries[0].name", "pipLibraries[1].version"),
            *("pipLibraries[2].name", "pipLibraries[2].version"),
        },
    )


def test_filters_are_bounded() -> None:
    names = [{"name": f"x{number}"} for number in range(limits.FILTERS + 1)]
    assert refusal(images, *names) == (Reason.INVALID_REQUEST, {"pipLibraries"})
    assert len(images(*names[:-1]).filters) == limits.FILTERS


def test_a_token_carries_its_filter() -> None:
    first = images({"name": "numpy", "version": "1.0"}, {"name": "pandas"})
    token = first.token(IMAGES, "vision")
    second = images(page_token=token, page_size=7)
    assert second == ImageQuery("vision", 7, first.filters)


def test_a_filter_beside_a_token_must_mean_the_same() -> None:
    token = images({"name": "numpy", "version": "1.0"}, {"name": "Py_Yaml"}).token(IMAGES, "a")
    assert images({"name": "py-yaml"}, {"name": "NUMPY", "version": "1.0.0"}, page_token=token).after == "a"
    for other in ([{"name": "numpy"}], [{"name": "numpy", "version": "1.0"}], [{"name": "x"}]):
        assert refusal(images, *other, page_token=token) == (Reason.INVALID_PAGE_TOKEN, {"pageToken"})


def test_a_filter_beside_the_token_of_an_unfiltered_list_is_refused() -> None:
    token = images().token(IMAGES, "a")
    assert refusal(images, {"name": "numpy"}, page_token=token) == (Reason.INVALID_PAGE_TOKEN, {"pageToken"})


def test_tokens_of_one_listing_are_foreign_to_the_other() -> None:
    assert refusal(images, page_token=jobs().token(JOBS, 7)) == (Reason.INVALID_PAGE_TOKEN, {"pageToken"})
    assert refusal(jobs, page_token=images().token(IMAGES, "a")) == (Reason.INVALID_PAGE_TOKEN, {"pageToken"})


def test_a_job_query() -> None:
    wanted = jobs_pb2.ListJobsRequest.Query(selected_statuses=[2, 5, 2], selected_types=[2], object_id="vision")
    query = jobs(first_page_query=wanted, view=2, page_size=3)
    assert query == JobQuery(None, 3, True, (JobStatus.RUNNING, JobStatus.REQUESTED), (2,), "vision")
    assert not query.finds_nothing
    assert jobs(page_token=query.token(JOBS, 12)) == JobQuery(12, 50, False, query.statuses, (2,), "vision")


def test_types_of_other_services_find_nothing() -> None:
    assert jobs(first_page_query={"selected_types": [1, 5]}).finds_nothing
    assert not jobs(first_page_query={"selected_types": [1, 2]}).finds_nothing


def test_all_faults_of_a_job_list_are_reported_at_once() -> None:
    query = {"selected_statuses": [0, 2, 77], "selected_types": [0, 4, 2], "object_id": ""}
    assert refusal(jobs, first_page_query=query, page_size=-5, view=9) == (
        Reason.INVALID_REQUEST,
        {
            *("pageSize", "view", "firstPageQuery.selectedStatuses[0]", "firstPageQuery.selectedStatuses[2]"),
            *("firstPageQuery.selectedTypes[0]", "firstPageQuery.selectedTypes[1]", "firstPageQuery.objectId"),
        },
    )
    assert refusal(jobs, page_token="forged", page_size=-1) == (Reason.INVALID_REQUEST, {"pageSize", "pageToken"})
    assert refusal(jobs, page_token="forged") == (Reason.INVALID_PAGE_TOKEN, {"pageToken"})


def test_job_lists_are_bounded() -> None:
    many = [2] * (limits.QUERY_VALUES + 1)
    assert refusal(jobs, first_page_query={"selected_statuses": many, "selected_types": many}) == (
        Reason.INVALID_REQUEST,
        {"firstPageQuery.selectedStatuses", "firstPageQuery.selectedTypes"},
    )
