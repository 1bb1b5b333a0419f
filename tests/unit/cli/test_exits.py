"""Exit codes and refusals as text."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from image_registry.cli.exits import ExitCode, Failure, build_failure, cause_of, refusals_told
from image_registry.client import (
    AlreadyExistsError,
    BuildCancelledError,
    BuildFailedError,
    CallError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldFault,
    ImageRegistryClient,
    ImageRegistryError,
    ImageStatus,
    InternalError,
    InvalidArgumentError,
    JobMetadata,
    JobStatus,
    ManagedImage,
    NotFoundError,
    PermissionDeniedError,
    Precondition,
    RequirementError,
    ResourceExhaustedError,
    TerminationReason,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    WaitProgress,
    WaitTimeoutError,
)

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
IMAGE = ManagedImage(name="vision", status=ImageStatus.FAILED)


def told(error: Exception, address: str = "127.0.0.1:1", **context: object) -> Failure:
    with pytest.raises(Failure) as caught, refusals_told(address, **context):  # type: ignore[arg-type]
        raise error
    return caught.value


def failed(progress: str, reason: TerminationReason) -> BuildFailedError:
    job = JobMetadata(job_id="1", status=JobStatus.FAILED, job_progress_str=progress, termination_reason=reason)
    return BuildFailedError(IMAGE, job)


def test_the_page_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in ExitCode]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("none"), 3),
        (AlreadyExistsError("taken"), 7),
        (UnauthenticatedError("no key"), 6),
        (PermissionDeniedError("role"), 6),
        (UnavailableError("away", reason="DATABASE_UNAVAILABLE"), 4),
        (UnavailableError("refused"), 4),
        (ResourceExhaustedError("busy"), 4),
        (DeadlineExceededError("late"), 4),
        (InternalError("oops"), 1),
        (UnimplementedError("what?"), 1),
        (FailedPreconditionError("no"), 1),
        (InvalidArgumentError("bad"), 1),
        (CallError("cancelled"), 1),
        (RequirementError("x", "is no good"), 2),
        (BuildFailedError(IMAGE, None), 5),
        (BuildCancelledError(IMAGE, None), 5),
        (WaitTimeoutError(WaitProgress(image=IMAGE, job=None, elapsed=3.0)), 4),
    ],
)
def test_every_refusal_has_its_code(error: ImageRegistryError, code: int) -> None:
    assert told(error).exit_code == code


def test_every_fault_is_a_line_with_what_was_written() -> None:
    faults = (FieldFault("name", "must be short"), FieldFault("pipRequirements[1].versionSpecifier", "must be PEP 440"))
    error = InvalidArgumentError("all of it", reason="INVALID_REQUEST", faults=faults)
    failure = told(error, said={"pipRequirements[1]": "requirements.txt:7"})
    assert failure.message == "the request has 2 faults"
    assert failure.lines == (
        "name: must be short",
        "pipRequirements[1].versionSpecifier (requirements.txt:7): must be PEP 440",
    )
    assert failure.remedy == "", "the lines say it"


def test_what_stands_in_the_way_is_named() -> None:
    blocks = (Precondition("IMAGE_HAS_CHILDREN", "image/b", "is built on it"),)
    assert told(FailedPreconditionError("no", preconditions=blocks)).lines == ("image/b is built on it",)


REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
    "Failed to connect to remote host: Connection refused"
)


def test_an_unreachable_server_is_named_with_the_cause_alone() -> None:
    failure = told(UnavailableError(REFUSED), tls_by_default=True)
    assert failure.message == "127.0.0.1:1 can't be reached: Connection refused"
    assert "--no-tls" not in failure.remedy
    assert "--no-tls" in told(UnavailableError(REFUSED), "x.example:1", tls_by_default=True).remedy


@contextmanager
def another_program() -> Iterator[str]:
    """Something that answers whoever speaks to it in words of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as caller:
                        caller.recv(4096)
                        caller.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ("tls", "message", "remedy"),
    [
        (False, "is no gRPC server: something else listens there", "--server host:port"),
        (True, "speaks no TLS, with which it was asked", "leave --tls out"),
    ],
)
def test_something_else_on_the_port(tls: bool, message: str, remedy: str) -> None:
    with (
        another_program() as address,
        pytest.raises(Failure) as caught,
        refusals_told(address),
        ImageRegistryClient(address, tls=tls, timeout=5) as client,
    ):
        client.is_serving()
    assert caught.value.message == f"{address} {message}"
    assert remedy in caught.value.remedy
    assert "start the product" not in caught.value.remedy
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("progress", "stage", "cause"),
    [
        ("resolve 0.1 s · failed in fetch: the index\nis · away", "fetch", "the index\nis · away"),
        ("failed: lost", "", "lost"),
        ("reported FAILED by its builder", "", "reported FAILED by its builder"),
    ],
)
def test_the_cause_out_of_a_jobs_last_line(progress: str, stage: str, cause: str) -> None:
    assert cause_of(progress) == (stage, cause)


def test_a_failed_build_tells_cause_remedy_and_log() -> None:
    failure = build_failure(failed("failed in resolve: no nump\nat all", TerminationReason.GENERIC_ERROR))
    assert failure.message == "the build of 'vision' failed in resolve"
    assert failure.lines == ("no nump", "at all")
    assert "create it with others" in failure.remedy
    assert "image-registry jobs logs 1" in failure.remedy
    assert "BUILD_MEMORY" in build_failure(failed("x", TerminationReason.OOMKILLED)).remedy
    assert "images sync vision" in build_failure(failed("x", TerminationReason.INTERNAL_ERROR)).remedy
