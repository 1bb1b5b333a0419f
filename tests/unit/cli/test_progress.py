"""What is shown of a build under way."""

import io
from typing import Any

import pytest

from image_registry.cli.progress import HEARTBEAT, PlainDisplay, display, picture, stages
from image_registry.client import ImageStatus, JobMetadata, JobStatus, ManagedImage, WaitProgress

IMAGE = ManagedImage(name="vision", status=ImageStatus.BUILDING_FIRST_TIME)
BASE = ManagedImage(name="system-python-3-11", status=ImageStatus.BUILDING_FIRST_TIME)


def job(status: JobStatus, progress: str = "", **fields: Any) -> JobMetadata:
    return JobMetadata(job_id="1", status=status, job_progress_str=progress, **fields)


def seen(status: JobStatus, progress: str = "", **fields: Any) -> WaitProgress:
    return WaitProgress(image=IMAGE, job=job(status, progress, **fields), elapsed=0)


@pytest.mark.parametrize(
    ("progress", "done", "current", "words"),
    [
        ("", (), "", ""),
        ("resolve …", (), "resolve", ""),
        ("resolve 0.6 s · fetch …", (("resolve", "0.6"),), "fetch", ""),
        ("resolve 0.6 s · resolve …", (("resolve", "0.6"),), "", ""),
        ("resolve 0.6 s · fetch 12 s · 4 libraries · sha256:aa", (("resolve", "0.6"), ("fetch", "12")), "",
         "4 libraries · sha256:aa"),
        ("resolve 1.0 s · failed in fetch: a · b", (("resolve", "1.0"),), "", "failed in fetch: a · b"),
        ("of a version that says it otherwise", (), "", "of a version that says it otherwise"),
    ],
)  # fmt: skip
def test_stages_out_of_a_progress_line(progress: str, done: Any, current: str, words: str) -> None:
    found = stages(job(JobStatus.RUNNING, progress))
    assert (found.done, found.current, found.words) == (done, current, words)


@pytest.mark.parametrize(
    ("progress", "headline"),
    [
        (seen(JobStatus.REQUESTED), "waits for a worker"),
        (seen(JobStatus.REQUESTED, "the index is away"), "waits for another attempt"),
        (seen(JobStatus.PENDING), "a worker prepares it"),
        (seen(JobStatus.RUNNING), "building"),
        (seen(JobStatus.RUNNING, cancellation_requested=True), "being cancelled"),
        (seen(JobStatus.RECONCILING), "its worker was lost, another one takes over"),
        (seen(JobStatus.SUCCEEDED), "succeeded"),
        (seen(JobStatus.CANCELLED, cancellation_requested=True), "cancelled"),
        (WaitProgress(image=IMAGE, job=None, elapsed=0), "building"),
        (
            WaitProgress(image=IMAGE, job=None, elapsed=0, outage="refused"),
            "the service is away, still waiting: refused",
        ),
    ],
)
def test_headlines(progress: WaitProgress, headline: str) -> None:
    assert picture(progress).headline == headline


def test_while_the_base_is_built_its_stages_are_shown() -> None:
    waiting = WaitProgress(
        image=IMAGE, job=job(JobStatus.REQUESTED), elapsed=0, base=BASE, base_job=job(JobStatus.RUNNING, "resolve …")
    )
    shown = picture(waiting)
    assert shown.headline == "waits for its base image system-python-3-11 (being built)"
    assert shown.current == "resolve"
    queued = WaitProgress(image=IMAGE, job=job(JobStatus.REQUESTED), elapsed=0, base=BASE)
    assert picture(queued).headline == "waits for its base image system-python-3-11 (queued)"


def test_a_plain_display_prints_changes_and_now_and_then_a_sign_of_life() -> None:
    now = 100.0
    stream = io.StringIO()
    with PlainDisplay("vision", stream, clock=lambda: now) as screen:
        screen.update(seen(JobStatus.REQUESTED))
        screen.update(seen(JobStatus.REQUESTED))
        now += 2.5
        screen.update(seen(JobStatus.RUNNING, "resolve 0.6 s · fetch …"))
        screen.log_line("not shown")
        now += HEARTBEAT
        screen.update(seen(JobStatus.RUNNING, "resolve 0.6 s · fetch …"))
        now += HEARTBEAT
        screen.update(seen(JobStatus.RUNNING, "resolve 0.6 s · fetch …"))
        now += HEARTBEAT
        screen.update(seen(JobStatus.RUNNING, "resolve 0.6 s · fetch …"))
        screen.update(seen(JobStatus.SUCCEEDED, "resolve 0.6 s · 4 libraries"))
    assert stream.getvalue().splitlines() == [
        "   0.0 s  vision: waits for a worker",
        "   2.5 s  vision: building · resolve 0.6 s · fetch …",
        "  17.5 s  vision: building · resolve 0.6 s · fetch …",
        "  47.5 s  vision: building · resolve 0.6 s · fetch …",
        "  47.5 s  vision: succeeded · resolve 0.6 s · 4 libraries",
    ]


def test_what_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(display("vision", io.StringIO()), PlainDisplay)
