"""Every fault of a request is reported, at once, with its JSON path."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import limits
from image_registry.api import page_queries, validation
from image_registry.api.tokens import PageTokens
from image_registry.api.validation import Accepts
from image_registry.errors import Fault, Reason, RegistryError
from image_registry.models import NewImage, PackageRequirement, PackageType, PipRequirement
from tests.fixtures.budget import examples

ACCEPTS = Accepts(("3.11", "3.12"), "3.12", PackageType.APT, "managed")
Image = pb.ManagedImage


def faults_of(call: Any, *args: Any) -> dict[str, str]:
    with pytest.raises(RegistryError) as caught:
        call(*args)
    assert caught.value.reason is Reason.INVALID_REQUEST
    paths = [fault.field for fault in caught.value.faults]
    assert len(paths) == len(set(paths)), "one fault a field"
    return {fault.field: fault.description for fault in caught.value.faults}


def create(**fields: Any) -> pb.CreateImageRequest:
    return pb.CreateImageRequest(**({"name": "a", "pip_requirements": [{"name": "numpy"}]} | fields))


def faults_of_create(**fields: Any) -> dict[str, str]:
    return faults_of(validation.new_image, create(**fields), ACCEPTS)


def test_a_sound_request_becomes_a_wish() -> None:
    wish = validation.new_image(
        create(
            pip_requirements=[{"name": "uvicorn[standard]", "version_specifier": ">=0.2,<1"}, {"name": "numpy"}],
            package_requirements=[{"name": "git", "version_specifier": "1:2.39", "package_type": 1}],
            python_version="3.11",
        ),
        ACCEPTS,
    )
    assert wish == NewImage(
        "a",
        "3.11",
        (PipRequirement("uvicorn[standard]", ">=0.2,<1"), PipRequirement("numpy")),
        (PackageRequirement("git", "1:2.39", PackageType.APT),),
    )


def test_an_empty_python_version_is_the_default() -> None:
    assert validation.new_image(create(), ACCEPTS).python_version == "3.12"


def test_packages_alone_are_enough() -> None:
    wanted = create(pip_requirements=[], package_requirements=[{"name": "git", "package_type": 1}])
    assert validation.new_image(wanted, ACCEPTS).pip_requirements == ()


def test_all_faults_of_a_create_are_reported_at_once() -> None:
    assert faults_of_create(
        name="Bad Name",
        pip_requirements=[
            {"name": "numpy"},
            {"name": "-e ."},
            {"name": "pandas", "version_specifier": "latest"},
            {"name": "NumPy[extra]", "version_specifier": "=1"},
        ],
        package_requirements=[
            {"name": "git", "package_type": 0},
            {"name": "GIT", "version_specifier": "1 2", "package_type": 1},
            {"name": "git", "package_type": 2},
            {"name": "vim", "package_type": 77},
        ],
        python_version="2.7",
    ) == {
        "name": "must match ^[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*$: lower-case letters and digits from a letter on, in "
        "groups parted by a single - or _",
        "pipRequirements[1].name": "must be a distribution name with optional extras, such as numpy or "
        "uvicorn[standard]; versions go into versionSpecifier, and URLs, paths, options and markers are not taken",
        "pipRequirements[2].versionSpecifier": "must be a PEP 440 specifier such as >=1.2,<2, or a bare version such "
        "as 1.0.2",
        "pipRequirements[3].versionSpecifier": "must be a PEP 440 specifier such as >=1.2,<2, or a bare version such "
        "as 1.0.2",
        "pipRequirements[3].name": "names NumPy again, which pipRequirements[0].name names already: keep one of the "
        "two",
        "packageRequirements[0].packageType": "must be PACKAGE_TYPE_APT: the base images of this deployment take no "
        "other",
        "packageRequirements[1].name": "must be a package name of apt, such as git or libgomp1",
        "packageRequirements[1].versionSpecifier": "must be one exact version in the grammar of apt, such as "
        "1:2.39.5-0+deb12u2",
        "packageRequirements[2].packageType": "must be PACKAGE_TYPE_APT: the base images of this deployment take no "
        "other",
        "packageRequirements[2].name": "names git again, which packageRequirements[0].name names already: keep one of "
        "the two",
        "packageRequirements[3].packageType": "must be PACKAGE_TYPE_APT: the base images of this deployment take no "
        "other",
        "pythonVersion": "must be one of 3.11, 3.12, or empty: this deployment has base images for no other "
        "(IMAGE_REGISTRY_BASE_IMAGES)",
    }


def test_an_image_of_nothing_is_refused() -> None:
    assert faults_of_create(pip_requirements=[]) == {
        "pipRequirements": "must hold at least one requirement, or packageRequirements must"
    }


def test_the_same_library_in_two_spellings_is_an_error() -> None:
    twice = [{"name": "scikit-learn"}, {"name": "Scikit_Learn", "version_specifier": "1"}, {"name": "scikit.learn"}]
    assert faults_of_create(pip_requirements=twice).keys() == {"pipRequirements[1].name", "pipRequirements[2].name"}


@pytest.mark.parametrize("field", ["pip_requirements", "package_requirements"])
def test_lists_are_bounded(field: str) -> None:
    entries: list[dict[str, Any]] = [{"name": f"x{number}"} for number in range(limits.REQUIREMENTS + 1)]
    if field == "package_requirements":
        entries = [entry | {"package_type": 1} for entry in entries]
    path = {"pip_requirements": "pipRequirements", "package_requirements": "packageRequirements"}[field]
    assert faults_of_create(**{field: entries}) == {path: f"must hold at most {limits.REQUIREMENTS} entries"}
    validation.new_image(create(**{field: entries[:-1]}), ACCEPTS)


@pytest.mark.parametrize(
    ("name", "good"),
    [("x", True), ("NoImageHasIt", True), ("", False), ("a\x00", False), ("é", False), ("x" * 257, False)],
)
def test_names_that_are_looked_up(name: str, good: bool) -> None:
    if good:
        assert validation.image_name(name) == name
    else:
        assert faults_of(validation.image_name, name).keys() == {"name"}


JOB = "0198c0de-0000-7000-8000-000000000000"


@pytest.mark.parametrize("text", [JOB, JOB.upper()])
def test_job_ids(text: str) -> None:
    assert str(validation.job_id(text)) == JOB


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        JOB + "\n",
        JOB.replace("-", ""),
        "{" + JOB + "}",
        "urn:uuid:" + JOB,
        JOB[:-1],
        JOB[:-1] + "_",
        "\u0661" * 36,
    ],
)
def test_what_is_no_job_id(text: str) -> None:
    assert faults_of(validation.job_id, text).keys() == {"jobId"}


def test_all_faults_of_a_job_query_are_reported_at_once() -> None:
    request = jobs_pb2.GetJobRequest(job_id="x", view=cast("jobs_pb2.JobView.ValueType", 9))
    assert faults_of(validation.job_query, request).keys() == {"jobId", "view"}


@pytest.mark.parametrize(("view", "full"), [(0, False), (1, False), (2, True)])
def test_views(view: jobs_pb2.JobView.ValueType, full: bool) -> None:
    assert validation.job_query(jobs_pb2.GetJobRequest(job_id=JOB, view=view))[1] == full


def test_all_faults_of_a_build_report_are_reported_at_once() -> None:
    request = pb.UpdateBuildInfoRequest(
        name="",
        pip_libraries=[
            {"name": "numpy", "version": "1.0"},
            {"name": "NumPy", "version": "2.0"},
            {"name": "-x", "version": "1"},
            {"name": "pandas"},
            {"name": "torch", "version": "1\n2"},
        ],
    )
    assert faults_of(validation.reported_libraries, request).keys() == {
        "name",
        "pipLibraries[1].name",
        "pipLibraries[2].name",
        "pipLibraries[3].version",
        "pipLibraries[4].version",
    }


texts = st.text(max_size=30) | st.sampled_from(["numpy", "a", "1.0", ">=1", "git", "3.12", "x" * 300])
pips = st.lists(st.fixed_dictionaries({"name": texts, "version_specifier": texts}), max_size=4)
packages = st.lists(
    st.fixed_dictionaries({"name": texts, "version_specifier": texts, "package_type": st.integers(-3, 5)}), max_size=4
)


@given(name=texts, pip_requirements=pips, package_requirements=packages, python_version=texts)
@examples(200)
def test_whatever_comes_is_a_wish_or_a_list_of_faults(**fields: Any) -> None:
    request = pb.CreateImageRequest(**fields)
    wish, faults = judged(request)
    if wish is not None:
        assert (wish.name, len(wish.pip_requirements)) == (request.name, len(request.pip_requirements))
    for fault in faults:
        assert fault.description.startswith(("must", "names"))
        field = re.sub("([A-Z])", r"_\1", re.split(r"[\[.]", fault.field)[0]).lower()
        number = re.search(r"\[([0-9]+)\]", fault.field)
        assert number is None or int(number[1]) < len(getattr(request, field)), "the path leads to something"


def judged(request: pb.CreateImageRequest) -> tuple[NewImage | None, tuple[Fault, ...]]:
    try:
        return validation.new_image(request, ACCEPTS), ()
    except RegistryError as error:
        return None, error.faults


@given(st.binary(max_size=80))
@examples(200)
def test_whatever_bytes_decode_to_is_judged(data: bytes) -> None:
    tokens = PageTokens(b"secret", "x")
    judged_by: tuple[tuple[Any, Callable[[Any], object]], ...] = (
        (pb.CreateImageRequest, lambda request: validation.new_image(request, ACCEPTS)),
        (pb.UpdateBuildInfoRequest, validation.reported_libraries),
        (pb.ListImagesRequest, lambda request: page_queries.image_query(request, tokens)),
        (jobs_pb2.ListJobsRequest, lambda request: page_queries.job_query(request, tokens)),
        (jobs_pb2.GetJobRequest, validation.job_query),
    )
    for message, judge in judged_by:
        with suppress(RegistryError, DecodeError):
            judge(message.FromString(data))


def test_a_build_report_is_bounded() -> None:
    libraries = [Image.PipLibrary(name=f"x{number}", version="1") for number in range(limits.REPORTED_LIBRARIES + 1)]
    request = pb.UpdateBuildInfoRequest(name="a", pip_libraries=libraries)
    assert faults_of(validation.reported_libraries, request).keys() == {"pipLibraries"}
    del request.pip_libraries[-1]
    assert len(validation.reported_libraries(request)) == limits.REPORTED_LIBRARIES
