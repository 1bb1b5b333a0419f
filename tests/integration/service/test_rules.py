"""What the contract promises of each RPC, rule by rule, over gRPC and on a real database."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as statuses
from ri.api.imageregistry import jobs_pb2

from image_registry import limits
from image_registry.models import BuildReport, Outcome, PipLibrary, TerminationReason
from image_registry.registry.builds import Builds
from image_registry.storage.database import Database
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service, make_settings

Image = pb.ManagedImage
Code = grpc.StatusCode
BUILT = BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED, "built", (PipLibrary("numpy", "1.0"),))


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


async def delete(service: Service, name: str) -> None:
    await service.images.DeleteImage(pb.DeleteImageRequest(name=name))


async def sync(service: Service, name: str, **fields: Any) -> pb.SyncImageTagResponse:
    answer: pb.SyncImageTagResponse = await service.images.SyncImageTag(pb.SyncImageTagRequest(name=name, **fields))
    return answer


async def cancel(service: Service, job_id: str) -> None:
    await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))


async def listed(service: Service, **fields: Any) -> list[str]:
    return [image.name for image in (await service.images.ListImages(pb.ListImagesRequest(**fields))).images]


async def test_every_method_is_there(service: Service) -> None:
    """With an empty request each one does something or refuses it; none is left for later."""
    for file in (pb.DESCRIPTOR, jobs_pb2.DESCRIPTOR):
        for contract in file.services_by_name.values():
            for method in contract.methods:
                path = f"/{contract.full_name}/{method.name}"
                code = Code.OK
                call: aio.UnaryUnaryMultiCallable[bytes, bytes] = service.channel.unary_unary(path)
                try:
                    await call(b"")
                except aio.AioRpcError as error:
                    code = error.code()
                assert code in {Code.OK, Code.INVALID_ARGUMENT}, path


# --- CreateImage ---------------------------------------------------------------------------------------------


async def test_create_answers_with_the_image_and_its_job(service: Service) -> None:
    wanted = [Image.PipRequirement(name="uvicorn[standard]", version_specifier=">=0.2")]
    packages = [Image.PackageRequirement(name="git", package_type=Image.PACKAGE_TYPE_APT)]
    request = pb.CreateImageRequest(name="web", pip_requirements=wanted, package_requirements=packages)
    answer = await service.images.CreateImage(request)
    assert answer.image == Image(
        name="web",
        rime_tag="v1",
        repo_uri="oci:/images/managed/web",
        status=Image.STATUS_BUILDING_FIRST_TIME,
        pip_requirements=wanted,
        package_requirements=packages,
        base_image=pb.ImageReference(
            name="system-python-3-12", reference_type=pb.ImageReference.REFERENCE_TYPE_MANAGED
        ),
        role_type=Image.ROLE_TYPE_USER_DEFINED,
        python_version="3.12",
    )
    assert answer.image == await service.get("web")
    job = await service.job(answer.job.job_id)
    assert job == answer.job
    assert (job.status, job.termination_reason) == (
        statuses.JOB_STATUS_REQUESTED,
        jobs_pb2.TERMINATION_REASON_NOT_TERMINATED,
    )
    assert not job.HasField("start_time")
    assert job.running_time_secs == 0


async def test_a_taken_name_is_refused_and_launches_nothing(service: Service) -> None:
    await service.create("one")
    refusal = await refused(service.create("one", "pandas", python_version="3.11"))
    assert (refusal.code, refusal.reason) == (Code.ALREADY_EXISTS, "IMAGE_ALREADY_EXISTS")
    assert refusal.details["ResourceInfo"].resource_name == "one"
    assert await listed(service) == ["one", "system-python-3-12"], "no system image for a create that was refused"
    assert len((await service.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 2


async def test_a_faulty_create_is_refused_with_every_fault(service: Service) -> None:
    wanted: list[Any] = [{"name": "numpy", "version_specifier": "latest"}, {"name": "NUMPY"}]
    request = pb.CreateImageRequest(name="A", pip_requirements=wanted, python_version="2.7")
    refusal = await refused(service.images.CreateImage(request))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.fields.keys() == {
        "name",
        "pipRequirements[0].versionSpecifier",
        "pipRequirements[1].name",
        "pythonVersion",
    }
    assert await listed(service) == []


async def test_a_create_with_a_thousand_faults_is_refused_as_one_with_few(service: Service) -> None:
    wanted: list[Any] = [{"name": "-" * 200, "version_specifier": "?" * 200} for _ in range(limits.REQUIREMENTS + 1)]
    refusal = await refused(service.images.CreateImage(pb.CreateImageRequest(name="x", pip_requirements=wanted)))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "more are not listed" in refusal.fields[""]


@pytest.mark.parametrize(
    "service", [make_settings(repository_prefix="team/images", base_packages="ROCKYLINUX")], indirect=True
)
async def test_the_deployment_says_what_is_accepted(service: Service) -> None:
    longest = "a" * (limits.REPOSITORY_NAME - len("team/images/"))
    assert (await service.create(longest)).image.repo_uri == f"oci:/images/team/images/{longest}"
    assert (await refused(service.create(longest + "a"))).fields.keys() == {"name"}
    apt = [Image.PackageRequirement(name="git", package_type=Image.PACKAGE_TYPE_APT)]
    assert (await refused(service.create("b", package_requirements=apt))).fields == {
        "packageRequirements[0].packageType": "must be PACKAGE_TYPE_ROCKYLINUX: the base images of this deployment "
        "take no other"
    }
    yum = [Image.PackageRequirement(name="R-core", package_type=Image.PACKAGE_TYPE_ROCKYLINUX)]
    assert (await service.create("b", package_requirements=yum)).image.package_requirements == yum


@pytest.mark.parametrize("service", [make_settings(default_python="3.11")], indirect=True)
async def test_an_empty_python_version_means_the_default(service: Service) -> None:
    assert (await service.create("a")).image.python_version == "3.11"


# --- GetImage ------------------------------------------------------------------------------------------------


async def test_what_is_not_there_is_not_found(service: Service) -> None:
    for name in ("none", "None", "no image", "system-python-9-9"):
        refusal = await refused(service.get(name))
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "IMAGE_NOT_FOUND")
        assert refusal.details["ResourceInfo"].resource_name == name


async def test_what_can_be_no_name_is_refused(service: Service) -> None:
    for name in ("", "a\x00", "ä", "x" * 5000):
        assert (await refused(service.get(name))).fields.keys() == {"name"}


# --- DeleteImage ---------------------------------------------------------------------------------------------


async def test_delete_removes_the_image_and_its_index(service: Service, sql: psycopg.AsyncConnection[Any]) -> None:
    await service.create("one")
    await service.report("one", "numpy==1.0")
    await delete(service, "one")
    assert (await refused(service.get("one"))).code is Code.NOT_FOUND
    assert (await refused(delete(service, "one"))).code is Code.NOT_FOUND
    assert await listed(service, pip_libraries=[{"name": "numpy"}]) == []
    rows = await sql.execute("select kind, status, repository from jobs where image_name = 'one' order by id")
    assert await rows.fetchall() == [(1, 4, "oci:/images/managed/one"), (2, 5, "oci:/images/managed/one")]


async def test_system_images_are_not_deleted(service: Service) -> None:
    await service.create("one")
    refusal = await refused(delete(service, "system-python-3-12"))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "SYSTEM_IMAGE_PROTECTED")


async def test_an_image_with_children_is_not_deleted(service: Service, sql: psycopg.AsyncConnection[Any]) -> None:
    """No RPC builds on a user's image so far; the rule holds all the same."""
    await service.create("base")
    await service.report("base", "numpy==1.0")
    await sql.execute(
        """insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
        select 'child-' || n, 2, 3, '3.12', 'v1', id, definition from images, generate_series(1, 30) as n
        where name = 'base'"""
    )
    refusal = await refused(delete(service, "base"))
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "IMAGE_HAS_CHILDREN")
    subjects = [one.subject for one in refusal.details["PreconditionFailure"].violations]
    assert subjects[:2] == ["image/child-1", "image/child-10"]
    assert len(subjects) == limits.CHILDREN_NAMED
    assert "child-1" in refusal.message
    assert (await service.get("base")).status == Image.STATUS_READY


async def test_deleting_cancels_a_waiting_build(service: Service) -> None:
    created = await service.create("one")
    await delete(service, "one")
    job = await service.job(created.job.job_id)
    assert (job.status, job.cancellation_requested) == (statuses.JOB_STATUS_CANCELLED, True)
    assert job.job_progress_str == "cancelled: image deleted"


async def test_the_late_result_of_an_old_life_reaches_no_new_one(service: Service, database: Database) -> None:
    builds = Builds(database)
    await service.create("base-first")
    await service.report("system-python-3-12")
    await service.report("base-first")
    old = await service.create("one")
    claim = await builds.claim(agent_id=uuid4(), lease=30)
    assert claim is not None
    assert await builds.start(claim.job) is not None
    await delete(service, "one")
    new = await service.create("one", "pandas")
    assert await builds.claim(agent_id=uuid4(), lease=30) is None, "the repository is the old build's still"
    assert await builds.finish(claim.job, BUILT)
    assert (await service.job(old.job.job_id)).status == statuses.JOB_STATUS_CANCELLED
    image = await service.get("one")
    assert (image.status, list(image.pip_libraries)) == (Image.STATUS_BUILDING_FIRST_TIME, [])
    assert image.pip_requirements[0].name == "pandas"
    clean_up = await builds.claim(agent_id=uuid4(), lease=30)
    assert clean_up is not None
    assert clean_up.job.image_id == claim.job.image_id, "the old repository goes first"
    assert await builds.finish_cleanup(clean_up.job)
    build = await builds.claim(agent_id=uuid4(), lease=30)
    assert build is not None
    assert str(build.job.uuid) == new.job.job_id


# --- UpdateBuildInfo -----------------------------------------------------------------------------------------


async def test_a_reported_build_is_recorded(service: Service) -> None:
    created = await service.create("one")
    await service.report("one", "numpy==1.0", "Py_Yaml==6.0+local.1")
    image = await service.get("one")
    assert image.status == Image.STATUS_READY
    assert [(x.name, x.version) for x in image.pip_libraries] == [("numpy", "1.0"), ("Py_Yaml", "6.0+local.1")]
    job = await service.job(created.job.job_id)
    assert (job.status, job.termination_reason) == (
        statuses.JOB_STATUS_SUCCEEDED,
        jobs_pb2.TERMINATION_REASON_COMPLETED,
    )


async def test_a_reported_failure_is_recorded(service: Service) -> None:
    created = await service.create("one")
    await service.report("one", ok=False)
    assert (await service.get("one")).status == Image.STATUS_FAILED
    job = await service.job(created.job.job_id)
    assert (job.status, job.termination_reason) == (
        statuses.JOB_STATUS_FAILED,
        jobs_pb2.TERMINATION_REASON_GENERIC_ERROR,
    )


async def test_a_report_needs_an_image_that_is_being_built(service: Service) -> None:
    assert (await refused(service.report("one"))).code is Code.NOT_FOUND
    await service.create("one")
    await service.report("one")
    refusal = await refused(service.report("one"))
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "IMAGE_NOT_BUILDING")
    assert refusal.details["PreconditionFailure"].violations[0].description == "is READY"


async def test_a_report_that_names_its_job_counts_for_that_one_only(service: Service) -> None:
    old = (await service.create("one")).job.job_id
    await delete(service, "one")
    new = (await service.create("one")).job.job_id
    request = pb.UpdateBuildInfoRequest(name="one", built_successfully=True)
    refusal = await refused(service.images.UpdateBuildInfo(request, metadata=(("rime-job-id", old),)))
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "IMAGE_NOT_BUILDING")
    await service.images.UpdateBuildInfo(request, metadata=(("rime-job-id", new),))
    assert (await service.get("one")).status == Image.STATUS_READY


async def test_a_rebuild_replaces_the_libraries_that_are_found(
    service: Service, sql: psycopg.AsyncConnection[Any]
) -> None:
    await service.create("one")
    await service.report("one", "numpy==1.0", "old==1")
    await sync(service, "one", force=True)
    assert await listed(service, pip_libraries=[{"name": "old"}]) == ["one"], "the last good build counts meanwhile"
    await service.report("one", "numpy==2.0", "new==1")
    for name, version, found in (("numpy", "2", True), ("numpy", "1", False), ("old", "1", False), ("new", "1", True)):
        wanted = [{"name": name, "version": version}]
        assert (await listed(service, pip_libraries=wanted) == ["one"]) == found
    rows = await sql.execute("select library, version from image_libraries order by library")
    assert await rows.fetchall() == [("new", "1"), ("numpy", "2")]


# --- ListImages' filters -------------------------------------------------------------------------------------


CONTENTS = {
    "alpha": ("scikit-learn==1.0", "torch==2.0+cu118"),
    "beta": ("Scikit_Learn==1.0.0", "torch==2.0"),
    "gamma": ("scikit.learn==1.1rc1", "odd==2004d-custom"),
}
FOUND: list[tuple[list[tuple[str, str | None]], list[str]]] = [
    ([("SCIKIT.learn", None)], ["alpha", "beta", "gamma"]),
    ([("scikit-learn", "1")], ["alpha", "beta"]),
    ([("scikit-learn", "1.0.0.0")], ["alpha", "beta"]),
    ([("scikit-learn", "1.1.RC1")], ["gamma"]),
    ([("torch", "2")], ["alpha", "beta"]),
    ([("torch", "2.0+CU118")], ["alpha"]),
    ([("torch", "2.0+cpu")], []),
    ([("scikit-learn", None), ("torch", None)], ["alpha", "beta"]),
    ([("scikit-learn", "1.0"), ("torch", "2.0.0+cu118")], ["alpha"]),
    ([("scikit-learn", "1.0"), ("scikit-learn", "1.1rc1")], []),
    ([("odd", None)], ["gamma"]),
    ([("scikit", None)], []),
]


async def test_filters_compare_names_and_versions_as_pypi_does(service: Service) -> None:
    for name, libraries in CONTENTS.items():
        await service.create(name, python_version="3.11")
        await service.report(name, *libraries)
    for filters, found in FOUND:
        wanted = [{"name": name} | ({} if version is None else {"version": version}) for name, version in filters]
        assert await listed(service, pip_libraries=wanted) == found, filters


# --- SyncImageTag --------------------------------------------------------------------------------------------


async def test_sync_of_an_image_that_is_up_to_date_does_nothing(service: Service) -> None:
    await service.create("one")
    await service.report("one", "numpy==1.0")
    answer = await sync(service, "one")
    assert answer.image.status == Image.STATUS_READY
    assert not answer.HasField("job")


async def test_a_forced_sync_rebuilds_and_keeps_the_last_good_build(service: Service) -> None:
    await service.create("one")
    await service.report("one", "numpy==1.0")
    answer = await sync(service, "one", force=True)
    assert answer.image.status == Image.STATUS_REBUILDING
    assert answer.image.pip_libraries[0].name == "numpy"
    assert answer.job.status == statuses.JOB_STATUS_REQUESTED
    again = await sync(service, "one", force=True)
    assert again.job == answer.job, "the job that is under way"


async def test_sync_during_the_first_build_answers_with_that_job(service: Service) -> None:
    created = await service.create("one")
    answer = await sync(service, "one", force=True)
    assert (answer.image.status, answer.job.job_id) == (Image.STATUS_BUILDING_FIRST_TIME, created.job.job_id)


async def test_a_failed_image_is_rebuilt(service: Service) -> None:
    await service.create("one")
    await service.report("one", ok=False)
    assert (await sync(service, "one")).image.status == Image.STATUS_REBUILDING
    await service.report("one", "numpy==1.0")
    assert (await service.get("one")).status == Image.STATUS_READY


async def test_sync_of_nothing(service: Service) -> None:
    assert (await refused(sync(service, "one"))).code is Code.NOT_FOUND


# --- jobs ----------------------------------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_at_once_and_cancelling_is_idempotent(service: Service) -> None:
    created = await service.create("one")
    for _ in range(2):
        await cancel(service, created.job.job_id)
    job = await service.job(created.job.job_id)
    assert (job.status, job.cancellation_requested) == (statuses.JOB_STATUS_CANCELLED, True)
    assert (await service.get("one")).status == Image.STATUS_FAILED


async def test_a_cancelled_rebuild_leaves_the_status_before(service: Service) -> None:
    await service.create("one")
    await service.report("one", "numpy==1.0")
    answer = await sync(service, "one", force=True)
    await cancel(service, answer.job.job_id)
    assert (await service.get("one")).status == Image.STATUS_READY
    await sync(service, "one", force=True)
    await service.report("one", ok=False)
    answer = await sync(service, "one")
    await cancel(service, answer.job.job_id)
    assert (await service.get("one")).status == Image.STATUS_FAILED


async def test_a_finished_job_is_not_cancelled(service: Service) -> None:
    for name, ok in (("one", True), ("two", False)):
        created = await service.create(name)
        await service.report(name, ok=ok)
        refusal = await refused(cancel(service, created.job.job_id))
        assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "JOB_FINISHED")


async def test_a_job_that_is_not_there(service: Service) -> None:
    missing = "0198c0de-0000-7000-8000-000000000000"
    for call in (service.job(missing), cancel(service, missing)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "JOB_NOT_FOUND")


async def test_removals_of_repositories_are_no_jobs_for_callers(
    service: Service, sql: psycopg.AsyncConnection[Any]
) -> None:
    await service.create("one")
    await delete(service, "one")
    rows = await (await sql.execute("select uuid from jobs where kind = 2")).fetchall()
    assert len(rows) == 1
    assert (await refused(service.job(str(rows[0][0])))).code is Code.NOT_FOUND
    assert (await refused(cancel(service, str(rows[0][0])))).code is Code.NOT_FOUND
    jobs = (await service.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert len(jobs) == 2


async def test_jobs_are_listed_by_status_type_and_image(service: Service) -> None:
    made = {name: (await service.create(name)).job.job_id for name in ("one", "two", "three")}
    await service.report("one")
    await service.report("two", ok=False)

    async def found(**query: Any) -> list[str]:
        request = jobs_pb2.ListJobsRequest(first_page_query=jobs_pb2.ListJobsRequest.Query(**query))
        names = {job_id: name for name, job_id in made.items()}
        return [names.get(job.job_id, "system") for job in (await service.jobs.ListJobs(request)).jobs]

    assert await found() == ["three", "two", "one", "system"]
    assert await found(selected_statuses=[statuses.JOB_STATUS_SUCCEEDED]) == ["one"]
    ended = [statuses.JOB_STATUS_FAILED, statuses.JOB_STATUS_SUCCEEDED, statuses.JOB_STATUS_CANCELLED]
    assert await found(selected_statuses=ended) == ["two", "one"]
    assert await found(selected_types=[jobs_pb2.JOB_TYPE_IMAGE_BUILDER]) == ["three", "two", "one", "system"]
    assert await found(selected_types=[jobs_pb2.JOB_TYPE_FILE_SCAN]) == []
    assert await found(object_id="two") == ["two"]
    assert await found(object_id="two", selected_statuses=ended) == ["two"]
    assert await found(object_id="two", selected_statuses=[statuses.JOB_STATUS_RUNNING]) == []
    assert await found(object_id="none") == []
