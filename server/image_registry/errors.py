"""Every way the service says no: one exception, one catalogue of reasons.

Nothing here knows gRPC; `api/status.py` turns a `RegistryError` into a `google.rpc.Status`. The catalogue is
printed as `docs/reference/errors.md` by `python -m image_registry.errors`, and a test keeps the page equal to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

DOMAIN = "image-registry"
FAULTS_IN_MESSAGE = 5


class Kind(Enum):
    """What sort of refusal it is; the value is the canonical status code (google.rpc.Code)."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: Kind
    when: str
    remedy: str


@unique
class Reason(Enum):
    """The machine-readable reason in `ErrorInfo.reason`; names are part of the contract."""

    INVALID_REQUEST = _Entry(
        Kind.INVALID_ARGUMENT,
        "One or more fields break a rule; `BadRequest` lists all of them.",
        "Correct each listed field; its description says what would be right.",
    )
    MALFORMED_REQUEST = _Entry(
        Kind.INVALID_ARGUMENT,
        "The bytes of the request are not an encoding of its message.",
        "Encode the request with code that was generated from the published protos.",
    )
    UNKNOWN_METHOD = _Entry(
        Kind.UNIMPLEMENTED,
        "The service has no method of this name.",
        "Compare the client's protos with those of this service; server reflection lists the methods.",
    )
    INVALID_PAGE_TOKEN = _Entry(
        Kind.INVALID_ARGUMENT,
        "The page token is damaged, forged, of another listing, or stands beside a different filter.",
        "Pass `next_page_token` back unchanged, or start again without a token.",
    )
    IMAGE_NOT_FOUND = _Entry(Kind.NOT_FOUND, "No image has this name.", "List the images and use a name from there.")
    JOB_NOT_FOUND = _Entry(Kind.NOT_FOUND, "No job has this id.", "List the jobs and use an id from there.")
    JOB_LOG_NOT_FOUND = _Entry(
        Kind.NOT_FOUND,
        "The job has no log: it wrote none yet, or its log has expired.",
        "Look at the job itself: its status says whether a log is still to come.",
    )
    INVALID_SIGNATURE = _Entry(
        Kind.PERMISSION_DENIED,
        "The signed address of a log is damaged, or no longer valid.",
        "Read the job again: its `archived_job_logs.url` is newly signed.",
    )
    IMAGE_ALREADY_EXISTS = _Entry(
        Kind.ALREADY_EXISTS,
        "Another image has this name.",
        "Get the image: it may be what you want. Otherwise choose another name or delete it first.",
    )
    REQUEST_ID_REUSED = _Entry(
        Kind.FAILED_PRECONDITION,
        "The `x-request-id` of a CreateImage was sent with another request before.",
        "Send a new id with each new request, and the same id only with a repetition of the same request.",
    )
    SYSTEM_IMAGE_PROTECTED = _Entry(
        Kind.PERMISSION_DENIED,
        "A system image was to be deleted.",
        "System images belong to the platform; delete images of your own only.",
    )
    IMAGE_HAS_CHILDREN = _Entry(
        Kind.FAILED_PRECONDITION,
        "The image to delete is the base of other images; `PreconditionFailure` names them.",
        "Delete the images that are built on it first.",
    )
    IMAGE_HAS_NO_LOCK = _Entry(
        Kind.FAILED_PRECONDITION,
        "The lock of an image was asked for that no build of this service has made yet.",
        "Wait until its build has succeeded; what a builder outside the service made has no lock.",
    )
    IMAGE_NOT_BUILDING = _Entry(
        Kind.FAILED_PRECONDITION,
        "A build result was reported for an image that is not building.",
        "Nothing to do: the build was cancelled, or its result was already recorded.",
    )
    JOB_FINISHED = _Entry(
        Kind.FAILED_PRECONDITION,
        "A job that has succeeded or failed was to be cancelled.",
        "Nothing to do: the job is over.",
    )
    KEY_MISSING = _Entry(
        Kind.UNAUTHENTICATED,
        "The call has no API key, and this deployment asks for one.",
        "Send the key as the metadata or header `rime-api-key`; operators make one with `image-registry keys create`.",
    )
    KEY_INVALID = _Entry(
        Kind.UNAUTHENTICATED,
        "The API key is not one of this deployment.",
        "Check that the key is complete and of this deployment; ask its operators for a new one.",
    )
    KEY_EXPIRED = _Entry(
        Kind.UNAUTHENTICATED, "The API key is past its expiry.", "Ask the operators of the deployment for a new key."
    )
    KEY_REVOKED = _Entry(
        Kind.UNAUTHENTICATED, "The API key was revoked.", "Ask the operators of the deployment for a new key."
    )
    KEY_NOT_FOUND = _Entry(
        Kind.NOT_FOUND,
        "No API key has the prefix that is to be revoked.",
        "`image-registry keys list` shows all prefixes.",
    )
    ROLE_NOT_ALLOWED = _Entry(
        Kind.PERMISSION_DENIED,
        "The caller's role does not include this method.",
        "Use a key of one of the roles that the message names.",
    )
    NOT_THE_CREATOR = _Entry(
        Kind.PERMISSION_DENIED,
        "A member was to cancel a job that another caller launched.",
        "Cancel jobs with the key that launched them, or with one of the role `admin`.",
    )
    RATE_LIMITED = _Entry(
        Kind.RESOURCE_EXHAUSTED,
        "The caller sends more requests per second than its limit.",
        "Wait as long as `RetryInfo` says, then send more slowly.",
    )
    QUEUE_LIMIT = _Entry(
        Kind.RESOURCE_EXHAUSTED,
        "The caller has as many unfinished builds as its limit allows.",
        "Wait until some of them are over, or cancel them.",
    )
    IMAGE_LIMIT = _Entry(
        Kind.RESOURCE_EXHAUSTED,
        "The caller has as many images as its limit allows.",
        "Have images deleted that are no longer needed, or the limit raised.",
    )
    DEADLINE_EXCEEDED = _Entry(
        Kind.DEADLINE_EXCEEDED,
        "The client's deadline, or the service's own limit for a statement, passed first.",
        "Try again with a longer deadline; read the state first if the call was a write.",
    )
    OVERLOADED = _Entry(
        Kind.RESOURCE_EXHAUSTED,
        "More calls are waiting for the database than the service lets wait.",
        "Try again after the delay in `RetryInfo`.",
    )
    DATABASE_UNAVAILABLE = _Entry(
        Kind.UNAVAILABLE,
        "The database does not answer, or the connection to it broke.",
        "Try again after the delay in `RetryInfo`; read the state first if the call was a write.",
    )
    INTERNAL = _Entry(
        Kind.INTERNAL,
        "Something that nobody foresaw.",
        "Give the operators the request id of the message; the log has the rest under it.",
    )

    @property
    def kind(self) -> Kind:
        """The sort of refusal."""
        return self.value.kind

    @property
    def when(self) -> str:
        """One sentence: what happened."""
        return self.value.when

    @property
    def remedy(self) -> str:
        """One sentence: what the caller can do."""
        return self.value.remedy


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that breaks a rule: its JSON path (`pipRequirements[2].name`) and what would be right."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Resource:
    """The thing an error is about (`ResourceInfo`), or that stands in the way (`PreconditionFailure`)."""

    type: str
    name: str
    description: str = ""


@dataclass(eq=False)
class RegistryError(Exception):
    """A refusal with a reason from the catalogue and one clear sentence for the caller.

    `faults` become `BadRequest`, `resource` becomes `ResourceInfo`, `blockers` become `PreconditionFailure`,
    `quota` (whose, and which) becomes `QuotaFailure`, `retry_after` (seconds) becomes `RetryInfo`,
    `metadata` goes into `ErrorInfo`.
    """

    reason: Reason
    message: str
    faults: tuple[Fault, ...] = ()
    resource: Resource | None = None
    blockers: tuple[Resource, ...] = ()
    quota: Resource | None = None
    retry_after: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def invalid(faults: list[Fault]) -> RegistryError:
    """The error for a request with `faults`, all of them reported at once; its message names the first few."""
    listed = "; ".join(f"{fault.field}: {fault.description}" for fault in faults[:FAULTS_IN_MESSAGE])
    if len(faults) > FAULTS_IN_MESSAGE:
        listed += f"; and {len(faults) - FAULTS_IN_MESSAGE} more"
    return RegistryError(Reason.INVALID_REQUEST, listed, faults=tuple(faults))


def image_not_found(name: str) -> RegistryError:
    """The error for a name that no image has."""
    return RegistryError(Reason.IMAGE_NOT_FOUND, f"there is no image named {name!r}", resource=Resource("image", name))


def job_not_found(job_id: str) -> RegistryError:
    """The error for an id that no job has."""
    return RegistryError(Reason.JOB_NOT_FOUND, f"there is no job {job_id!r}", resource=Resource("job", job_id))


def catalogue_page() -> str:
    """The catalogue as the Markdown page `docs/reference/errors.md`."""
    rows = "\n".join(f"| `{r.name}` | {r.kind.name} | {r.when} | {r.remedy} |" for r in Reason)
    return f"""# Errors

<!-- Written by `make generate` from server/image_registry/errors.py; edit that. -->

Every error is a `google.rpc.Status`: a code, a message for people, and details for programs. Over gRPC it is in the
trailer `grpc-status-details-bin`, over REST it is the JSON body. The details always hold an `ErrorInfo` with the
domain `{DOMAIN}` and one of the reasons below. Where it fits there are `BadRequest` (field paths as in JSON, all
faults at once, as many as an answer holds), `ResourceInfo`, `PreconditionFailure`, `QuotaFailure` or `RetryInfo`.
Values in details are strings and numbers only.

| reason | code | when | what to do |
| --- | --- | --- | --- |
{rows}

Two refusals come from the gRPC library, before the service sees the call, and have no details: RESOURCE_EXHAUSTED for a
request above the [limit](limits.md) of its size, and what a client's own library reports (a passed deadline, a
server that can't be reached).
"""


if __name__ == "__main__":
    print(catalogue_page(), end="")  # noqa: T201
