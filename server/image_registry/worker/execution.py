"""The work of one job: a build in a process of its own, or the removal of a repository."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import UUID

from image_registry.builds.credentials import Keyring
from image_registry.builds.faults import UnavailableError, as_failure
from image_registry.builds.lease import Lease, StoppedError, StopSign
from image_registry.builds.oci.reference import RegistryReference, parse_reference
from image_registry.builds.packages.wanted import Confinement, Manager, SystemPackages
from image_registry.builds.plan import (
    BuildFailed,
    BuildPlan,
    BuildResult,
    FailureReason,
    Limits,
    PackageIndex,
    lock_from_json,
)
from image_registry.builds.repositories.home import Home
from image_registry.builds.runner import BuildEvent, run_build, to_the_end
from image_registry.codec import decode_definition
from image_registry.models import (
    BuildReport,
    ImageDefinition,
    JobKind,
    Outcome,
    PackageType,
    PipLibrary,
    StoredImage,
    StoredJob,
    TerminationReason,
)
from image_registry.registry.builds import Builds, Claim, base_is_usable
from image_registry.registry.job_logs import JobLogs
from image_registry.requirements import pip_requirement
from image_registry.telemetry.catalogue import CACHE_LAYERS
from image_registry.worker.loop import PassingFaultError
from image_registry.worker.progress import Progress
from image_registry.worker.stages import Stages

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuilderConfig:
    """Where builds work and what they may use. `registry_id` tells this registry's repositories from others'.

    `obstacle` says why this worker can't install system packages; '': it can, within `confinement`.
    """

    registry_id: UUID
    home: Home
    keyring: Keyring
    cache_dir: Path
    work_dir: Path
    index: PackageIndex
    limits: Limits
    confinement: Confinement = field(default_factory=Confinement)
    obstacle: str = ""


class Executor:
    """Carries out claims; progress and log are published through `builds` and `logs`."""

    def __init__(self, config: BuilderConfig, builds: Builds, logs: JobLogs) -> None:
        self._config = config
        self._builds = builds
        self._logs = logs

    async def __call__(self, claim: Claim, lease: Lease) -> BuildReport:
        """Do the work. Raises PassingFaultError for another attempt; leaves nothing running when cancelled."""
        if claim.job.kind is JobKind.DELETE_REPOSITORY:
            return await self._delete(claim.job, lease)
        if claim.definition is None:
            raise ValueError(f"build job {claim.job.uuid} has no definition")
        if refusal := _refusal(claim.definition, claim.base, self._config.obstacle):
            return BuildReport(Outcome.FAILED, *refusal)
        progress, stages = Progress(self._builds, self._logs, claim.job), Stages()

        def on_event(event: BuildEvent) -> None:
            progress.on_event(event)
            stages.on_event(event)

        moved = ""
        try:
            plan = await asyncio.to_thread(self._plan, claim, claim.definition)
            result = await run_build(plan, on_event, lease)
            if moved := _moved(claim.base_digest, result.base_digest):
                progress.note(f"{moved}: {plan.base}")
        except BaseException as error:
            stages.broke_off(error)
            if isinstance(error, BuildFailed):
                return _failed(error, progress)
            raise
        finally:
            log.info("job %s: attempt %d's processes have ended", claim.job.uuid, claim.job.attempt)
            await to_the_end(progress.close())  # a cancellation that comes now is too late
        return _succeeded(result, moved)

    def _plan(self, claim: Claim, definition: ImageDefinition) -> BuildPlan:
        """What to build, and a repository that is ready for it. Raises BuildFailed."""
        config = self._config
        base = definition.base_image.name if claim.base is None else _pullable(claim.base)
        try:
            config.home.prepare(claim.job.repository)
            registries = tuple(config.keyring.access(host) for host in _hosts(base, config.home.root))
        except ValueError as error:
            raise BuildFailed(FailureReason.INTERNAL, f"The destination is wrong: {error}.") from error
        except (UnavailableError, OSError) as error:
            raise as_failure(error, config.limits) from error
        return BuildPlan(
            image_id=self._owner(claim.job),
            python_version=definition.python_version,
            base=base,
            requirements=tuple(pip_requirement(r.name, r.version_specifier) for r in definition.pip_requirements),
            destination=claim.job.repository,
            destination_root=config.home.root,
            tags=tuple(dict.fromkeys((definition.platform_tag, "latest"))),
            cache_dir=config.cache_dir,
            work_dir=config.work_dir,
            index=config.index,
            registries=registries,
            limits=config.limits,
            lock=lock_from_json(json.loads(claim.lock_file)) if claim.lock_file else None,
            packages=_packages(definition),
            confinement=config.confinement,
        )

    async def _delete(self, job: StoredJob, lease: Lease) -> BuildReport:
        stop = StopSign(lease)
        work = asyncio.ensure_future(
            asyncio.to_thread(self._config.home.delete, job.repository, self._owner(job), stop)
        )
        try:
            removed = await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.stop()
            await _ended(work)  # until then it may remove something, and nobody else may have the job
            raise
        except (UnavailableError, StoppedError, ValueError, OSError) as error:
            cause = error.strerror or error if isinstance(error, OSError) else error
            raise PassingFaultError(f"repository not removed yet: {cause}") from error
        log.info("repository of %s: %s", job.image_name, "removed" if removed else "nothing to remove")
        return BuildReport(Outcome.SUCCEEDED, TerminationReason.COMPLETED)

    def _owner(self, job: StoredJob) -> str:
        return f"{self._config.registry_id}/{job.image_id}"


async def _ended(work: asyncio.Future[bool]) -> None:
    """Wait for the end of work in a thread, however often this task is cancelled meanwhile."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    work.exception()  # whatever it is, the stop is what counts: asyncio needn't complain that nobody looked


def _hosts(*references: str) -> list[str]:
    """The registries that these references name, each once."""
    found = []
    for reference in references:
        with suppress(ValueError):  # the build says what is wrong with it
            parsed = parse_reference(reference)
            if isinstance(parsed, RegistryReference) and parsed.host not in found:
                found.append(parsed.host)
    return found


def _pullable(base: StoredImage) -> str:
    """The reference of a managed base's last good build."""
    return f"{decode_definition(base.definition).repo_uri}:latest"


def _packages(definition: ImageDefinition) -> SystemPackages | None:
    if not definition.package_requirements:
        return None
    manager = {PackageType.APT: Manager.APT, PackageType.ROCKYLINUX: Manager.YUM}
    return SystemPackages(
        manager=manager[definition.package_requirements[0].package_type],
        packages=tuple((wanted.name, wanted.version) for wanted in definition.package_requirements),
    )


def _refusal(
    definition: ImageDefinition, base: StoredImage | None, obstacle: str
) -> tuple[TerminationReason, str] | None:
    """Why this worker won't even start the build: reason and cause."""
    if base is not None and not base_is_usable(base):
        return TerminationReason.INTERNAL_ERROR, f"the base image {base.name} could not be built: see its job"
    if definition.package_requirements and obstacle:
        return TerminationReason.INTERNAL_ERROR, f"this worker can't install system packages: {obstacle}"
    return None


def _failed(failure: BuildFailed, progress: Progress) -> BuildReport:
    text = progress.failed(failure.message)
    if failure.reason is FailureReason.RETRYABLE:
        raise PassingFaultError(text) from failure
    reason = {
        FailureReason.USER_ERROR: TerminationReason.GENERIC_ERROR,
        FailureReason.OUT_OF_MEMORY: TerminationReason.OOMKILLED,
    }.get(failure.reason, TerminationReason.INTERNAL_ERROR)
    return BuildReport(Outcome.FAILED, reason, text)


def _moved(before: str, now: str) -> str:
    """What to say about a base that is another one than at the last build."""
    return f"the base moved from {before} to {now}" if before and before != now else ""


def _succeeded(result: BuildResult, moved: str) -> BuildReport:
    CACHE_LAYERS.add("hit", amount=result.layers_reused)
    CACHE_LAYERS.add("miss", amount=result.layers_made)
    stages = " · ".join(f"{stage.value} {seconds:.1f} s" for stage, seconds in result.stages)
    return BuildReport(
        Outcome.SUCCEEDED,
        TerminationReason.COMPLETED,
        progress=f"{stages} · {len(result.libraries)} libraries · {result.digest}" + (f" · {moved}" if moved else ""),
        libraries=tuple(PipLibrary(library.name, library.version) for library in result.libraries),
        digest=result.digest,
        base_digest=result.base_digest,
        lock_file=json.dumps(asdict(result.lock)),
    )
