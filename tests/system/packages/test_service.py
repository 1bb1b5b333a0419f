"""System packages that can't be installed, through the service: from CreateImage to the job, its log and the image."""

from pathlib import Path

import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_logs_pb2, jobs_pb2
from ri.api.imageregistry import job_status_pb2 as status
from ri.api.imageregistry.job_logs_pb2_grpc import JobLogsStub

from image_registry.builds.credentials import Keyring
from image_registry.builds.packages.wanted import Confinement
from image_registry.storage import images
from image_registry.storage.database import Database
from tests.fixtures.base_image import TestBase
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service, make_settings, running_service
from tests.system.packages.repositories import AptRepository
from tests.system.packages.test_endings import nothing_is_left
from tests.system.registries.conftest import Deployment

SECONDS = 20.0
NEVER_ENDS = f"Installing the packages took longer than {SECONDS:g} s: a script may never end."
# Package, version, the cause in the job, what the manager or the script itself said.
FAILURES = {
    "unknown": ("nonesuch", "", "Unable to locate package nonesuch", "E: Unable to locate package nonesuch"),
    "impossible": (
        "real",
        "3.0",
        "Version '3.0' for 'real' was not found",
        "E: Version '3.0' for 'real' was not found",
    ),
    "broken": ("real-broken", "", "A package's own script failed: installed real-broken package", "it is Tuesday"),
    "endless": ("real-endless", "", NEVER_ENDS, "begun"),
}


def wanted(name: str, version: str, kind: str = "APT") -> list[pb.ManagedImage.PackageRequirement]:
    package_type = pb.ManagedImage.PackageType.Value(f"PACKAGE_TYPE_{kind}")
    return [pb.ManagedImage.PackageRequirement(name=name, version_specifier=version, package_type=package_type)]


async def log_of(service: Service, job_id: str) -> str:
    """What ReadJobLogs streams."""
    parts = JobLogsStub(service.channel).ReadJobLogs(job_logs_pb2.ReadJobLogsRequest(job_id=job_id))
    return b"".join([part.data async for part in parts]).decode()


@pytest.fixture
def repository(apt: AptRepository) -> AptRepository:
    apt.add("real")
    apt.add("real-broken", script="echo 'it is Tuesday' >&2; exit 3")
    apt.add("real-endless", script="echo begun; setsid sleep 31415 & sleep 31415")
    return apt


async def test_packages_from_the_call_to_the_image(
    dsn: str,
    database: Database,
    repository: AptRepository,
    small_base: TestBase,
    known_bases: Path,
    package_index: PackageIndex,
    tmp_path: Path,
) -> None:
    """A package that is there goes into an image, each that can't be installed fails its job alone, nothing is left."""
    package_index.add(make_wheel("good"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bases").symlink_to(known_bases)
    settings = make_settings(
        base_images={small_base.python_version: small_base.reference}, repository=f"oci:{tmp_path}/images"
    )
    identity = await database.read(images.identity)
    confinement = Confinement(egress_allowed=(repository.location,), seconds=SECONDS)
    async with running_service(settings, dsn) as service:
        refusal = await refused(service.create("other", "good", package_requirements=wanted("real", "", "ROCKYLINUX")))
        assert refusal.reason == "INVALID_REQUEST"
        assert refusal.fields.keys() == {"packageRequirements[0].packageType"}

        deployment = Deployment(service, database, tmp_path, package_index, identity.id)
        jobs = {
            name: (await service.create(name, "good", package_requirements=wanted(*package))).job.job_id
            for name, package in {"works": ("real", ""), **{name: one[:2] for name, one in FAILURES.items()}}.items()
        }
        async with deployment.worker(settings.repository_root, Keyring(), confinement):
            good = await deployment.ended(jobs["works"])
            assert good.status == status.JOB_STATUS_SUCCEEDED, good.job_progress_str
            for name, (_, _, cause, said) in FAILURES.items():
                job = await deployment.ended(jobs[name])
                log = await log_of(service, jobs[name])
                assert job.status == status.JOB_STATUS_FAILED, job.job_progress_str
                assert job.termination_reason == jobs_pb2.TERMINATION_REASON_GENERIC_ERROR, job.job_progress_str
                assert job.job_progress_str.startswith("failed in packages: "), job.job_progress_str
                assert cause in job.job_progress_str
                assert "\n" not in job.job_progress_str
                assert said in log, log
                assert (await service.get(name)).status == pb.ManagedImage.STATUS_FAILED
        assert (await service.get("works")).status == pb.ManagedImage.STATUS_READY
    await nothing_is_left(tmp_path)
