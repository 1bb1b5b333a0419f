"""How a command ends: exit codes, and refusals as text. `docs/reference/cli.md` has the table; a test compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # the client is imported by the commands that use it, so that help needn't wait for gRPC
    from image_registry.client import BuildFailedError, CallError


_REMEDIES = {
    "KEY_MISSING": "name the file of your API key with --api-key-file, IMAGE_REGISTRY_API_KEY_FILE or in the "
    "configuration file; operators make a key with `image-registry keys create`",
    "IMAGE_ALREADY_EXISTS": "look at it with `image-registry images get`: it may be what you want; "
    "else choose another name",
    "INVALID_REQUEST": "",  # each line says what would be right
}

# Somebody answers, but in another language: a sign of it in gRPC's words, what it means, what to do.
_MISUNDERSTOOD = (
    (
        "Failed parsing HTTP/2",
        "is no gRPC server: something else listens there",
        "name the product's server with --server host:port; `up --grpc-address host:port` has it listen elsewhere",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "speaks no TLS, with which it was asked",
        "leave --tls out, or say --no-tls where TLS is the default; else something else may listen there",
    ),
)


class ExitCode(IntEnum):
    """What a script can tell from a command's exit code."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    BUILD_FAILED = 5
    NOT_ALLOWED = 6
    ALREADY_EXISTS = 7
    INTERRUPTED = 130


class Failure(click.ClickException):
    """A command ends without its result: one sentence, lines of particulars, what to do, an exit code."""

    def __init__(
        self, message: str, *, code: ExitCode = ExitCode.REFUSED, lines: tuple[str, ...] = (), remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.lines = lines
        self.remedy = remedy

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The code as click asks for it."""
        return int(self.code)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error."""
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", err=file is None, file=file)
        for line in self.lines:
            click.echo(f"  {line}", err=file is None, file=file)
        if self.remedy:
            click.echo(self.remedy, err=file is None, file=file)


@contextmanager
def refusals_told(address: str, *, tls_by_default: bool = False, said: dict[str, str] | None = None) -> Iterator[None]:
    """What the client raises becomes a Failure.

    `said` maps fields of the request (`pipRequirements[0]`) to what the person wrote for them.
    """
    from image_registry.client import BuildFailedError, CallError, RequirementError, WaitTimeoutError  # noqa: PLC0415

    try:
        yield
    except CallError as error:
        raise _call_failure(error, address, tls_by_default, said or {}) from error
    except BuildFailedError as error:
        raise build_failure(error) from error
    except WaitTimeoutError as error:
        name = error.progress.image.name
        remedy = f"follow it with: image-registry images wait {name}"
        raise Failure(str(error), code=ExitCode.UNAVAILABLE, remedy=remedy) from error
    except RequirementError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from error


def build_failure(error: BuildFailedError) -> Failure:
    """A build that made no image: its cause, and what can be done about it."""
    from image_registry.client import BuildCancelledError, TerminationReason  # noqa: PLC0415

    name = error.image.name
    job = error.job
    if isinstance(error, BuildCancelledError):
        remedy = f"build it again with: image-registry images sync {name}"
        return Failure(str(error), code=ExitCode.BUILD_FAILED, remedy=remedy)
    stage, cause = cause_of(error.cause)
    where = f" in {stage}" if stage else ""
    remedy = {
        TerminationReason.GENERIC_ERROR: "the requirements are the cause: delete the image and create it with others",
        TerminationReason.OOMKILLED: "the build needs more memory than it may use: operators set "
        "IMAGE_REGISTRY_BUILD_MEMORY",
    }.get(
        job.termination_reason if job else TerminationReason.UNSPECIFIED,
        f"the system is the cause, not the request: try again with `image-registry images sync {name}`, "
        "and tell the operators if that fails too",
    )
    log = f"its log: image-registry jobs logs {job.job_id}" if job else ""
    return Failure(
        f"the build of {name!r} failed{where}",
        code=ExitCode.BUILD_FAILED,
        lines=tuple(cause.splitlines()),
        remedy="\n".join(filter(None, (remedy, log))),
    )


def cause_of(progress: str) -> tuple[str, str]:
    """The stage and the cause in the last progress line of a failed build."""
    match = re.search(r"(?:^| · )failed(?: in (?P<stage>[\w -]+))?: (?P<cause>.*)", progress, re.DOTALL)
    return (match["stage"] or "", match["cause"]) if match else ("", progress)


def _call_failure(error: CallError, address: str, tls_by_default: bool, said: dict[str, str]) -> Failure:
    from image_registry import client, errors  # noqa: PLC0415

    reason = errors.Reason.__members__.get(error.reason)
    remedy = _REMEDIES.get(error.reason, reason.remedy if reason else "")
    if error.retry_after is not None:
        remedy = f"try again in {max(1, round(error.retry_after))} s"
    match error:
        case client.UnavailableError() if not error.reason:
            return _unreachable(error, address, tls_by_default)
        case client.NotFoundError():
            code = ExitCode.NOT_FOUND
        case client.AlreadyExistsError():
            code = ExitCode.ALREADY_EXISTS
        case client.UnauthenticatedError() | client.PermissionDeniedError():
            code = ExitCode.NOT_ALLOWED
        case client.UnavailableError() | client.ResourceExhaustedError() | client.DeadlineExceededError():
            code = ExitCode.UNAVAILABLE
        case client.UnimplementedError():
            code = ExitCode.REFUSED
            remedy = f"the server at {address} is of another version than this command, or no image registry"
        case _:
            code = ExitCode.REFUSED
    if error.faults:
        count = f"{len(error.faults)} faults" if len(error.faults) > 1 else "a fault"
        faults = tuple(f"{_spot(fault.field, said)}{fault.description}" for fault in error.faults)
        return Failure(f"the request has {count}", code=code, lines=faults, remedy=remedy)
    lines = tuple(f"{block.subject} {block.description}" for block in error.preconditions)
    return Failure(error.message, code=code, lines=lines, remedy=remedy)


def _unreachable(error: CallError, address: str, tls_by_default: bool) -> Failure:
    from image_registry.client.channel import is_loopback  # noqa: PLC0415

    for sign, fault, remedy in _MISUNDERSTOOD:
        if sign in error.message:
            return Failure(f"{address} {fault}", code=ExitCode.UNAVAILABLE, remedy=remedy)
    remedy = "start the product with `image-registry up`, or name its server with --server host:port"
    if tls_by_default and not is_loopback(address):
        remedy += "; it was asked with TLS, as every address but loopback is: for a server without TLS say --no-tls"
    return Failure(f"{address} can't be reached: {error.cause}", code=ExitCode.UNAVAILABLE, remedy=remedy)


def _spot(field: str, said: dict[str, str]) -> str:
    """The field with what the person wrote for it."""
    written = said.get(field) or said.get(field.rpartition(".")[0])
    return f"{field} ({written}): " if written else f"{field}: " if field else ""
