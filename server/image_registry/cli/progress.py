"""A build that somebody waits for, on the screen: live in a terminal, a line for each change elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Protocol, Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from image_registry.client import JobMetadata, JobStatus, WaitProgress

HEARTBEAT = 15.0  # seconds after which a plain display repeats a line, to show that it is alive; doubled each time
LONGEST_HEARTBEAT = 60.0
_DONE = re.compile(r"(?P<name>[\w -]+) (?P<seconds>\d+(?:\.\d+)?) s")
_STAMP = re.compile(r"^\d\d:\d\d:\d\d(?:\.\d+)? ")
_STAGE_LINE = re.compile(r"\w+: done in |failed(?: in \w+)?: ")


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is to show: a headline, stages that are done with their seconds, the stage under way, other words."""

    headline: str
    done: tuple[tuple[str, str], ...] = ()
    current: str = ""
    words: str = ""


def picture(progress: WaitProgress) -> Picture:
    """What a progress comes to in words."""
    if progress.outage:
        return Picture(f"the service is away, still waiting: {progress.outage}")
    job = progress.job
    if job is None:
        return Picture("building" if progress.image.is_building else str(progress.image.status).lower())
    if job.status is JobStatus.REQUESTED and progress.base is not None:
        base = stages(progress.base_job)
        where = "being built" if progress.base_job and progress.base_job.status is JobStatus.RUNNING else "queued"
        return Picture(f"waits for its base image {progress.base.name} ({where})", base.done, base.current, base.words)
    said = stages(job)
    words = "" if job.status is JobStatus.FAILED else said.words  # the cause is told in full when the waiting ends
    return Picture(_headline(job, words), said.done, said.current, words)


def stages(job: JobMetadata | None) -> Picture:
    """The stages out of a job's progress line; a line of another form is shown as it is."""
    done: list[tuple[str, str]] = []
    rest = (job.job_progress_str if job else "").split(" · ")
    while rest and (match := _DONE.fullmatch(rest[0])):
        done.append((match["name"], match["seconds"]))
        rest = rest[1:]
    if len(rest) == 1 and rest[0].endswith(" …"):
        current = rest[0].removesuffix(" …")
        return Picture("", tuple(done), "" if done and done[-1][0] == current else current)
    return Picture("", tuple(done), words=" · ".join(rest))


def _headline(job: JobMetadata, words: str) -> str:
    if job.cancellation_requested and not job.is_finished:
        return "being cancelled"
    match job.status:
        case JobStatus.REQUESTED:
            return "waits for another attempt" if words else "waits for a worker"
        case JobStatus.PENDING:
            return "a worker prepares it"
        case JobStatus.RUNNING:
            return "building"
        case JobStatus.RECONCILING:
            return "its worker was lost, another one takes over"
        case _:
            return str(job.status).lower()


class Display(Protocol):
    """Shows one build from `with` to its end."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, progress: WaitProgress) -> None:
        """Take in how the build stands."""

    def log_line(self, line: str) -> None:
        """Take in a line of the build's log."""


def display(name: str, stream: IO[str] | None = None) -> Display:
    """A display on standard error, or on `stream`: live if that is a terminal, plain otherwise."""
    console = Console(file=stream or sys.stderr, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(name, console)
    return PlainDisplay(name, console.file)


class PlainDisplay:
    """A line for every change, with the seconds since the beginning; log lines are left out."""

    def __init__(self, name: str, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._said = ""
        self._said_at = self._began
        self._patience = HEARTBEAT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, progress: WaitProgress) -> None:
        """Print a line if something changed, or nothing was printed for a while."""
        shown = picture(progress)
        parts = [shown.headline, *(f"{stage} {seconds} s" for stage, seconds in shown.done)]
        parts += [f"{shown.current} …"] if shown.current else []
        parts += [shown.words] if shown.words else []
        line = " · ".join(parts)
        now = self._clock()
        if line != self._said:
            self._patience = HEARTBEAT
        elif now - self._said_at < self._patience:
            return
        else:
            self._patience = min(self._patience * 2, LONGEST_HEARTBEAT)
        self._stream.write(f"{now - self._began:6.1f} s  {self._name}: {line}\n")
        self._stream.flush()
        self._said, self._said_at = line, now

    def log_line(self, line: str) -> None:
        """Leave it out: `jobs logs` prints logs."""


class LiveDisplay:
    """Stages with ticks and seconds, a running clock, and the last line of the log."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._began = time.monotonic()
        self._stage = ("", self._began)
        self._picture = Picture("…")
        self._ended = False
        self._log_line = ""
        self._job_id = ""
        plain = console.options.ascii_only
        self._tick = "+" if plain else "✓"
        self._spinner = Spinner("line" if plain else "dots", style="cyan")
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=10, redirect_stdout=sys.stdout.isatty()
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._picture = Picture("not watched any more", self._picture.done)
        self._log_line = ""
        self._stage = ("", time.monotonic())
        self._ended = True
        self._live.stop()

    def update(self, progress: WaitProgress) -> None:
        """Show this from the next refresh on."""
        self._picture = picture(progress)
        job = progress.base_job or progress.job
        if job is not None and job.job_id != self._job_id:
            self._job_id, self._log_line = job.job_id, ""
        if self._picture.current != self._stage[0]:
            self._stage = (self._picture.current, time.monotonic())

    def log_line(self, line: str) -> None:
        """Show the line until the next one comes; what stages took is shown already."""
        text = _STAMP.sub("", line).strip()
        if text and not _STAGE_LINE.match(text):
            self._log_line = text

    def _render(self) -> RenderableType:
        seconds = time.monotonic() - self._began
        headline = Text.assemble((self._name, "bold"), "  ", self._picture.headline, (f"  {_clock(seconds)}", "dim"))
        idle = not self._stage[0] and not self._ended
        table = Table.grid(padding=(0, 1))
        for stage, took in self._picture.done:
            table.add_row(Text(f" {self._tick}", "green"), stage, Text(f"{took} s", "dim", justify="right"))
        if self._stage[0]:
            running = Text(f"{time.monotonic() - self._stage[1]:.1f} s", "dim", justify="right")
            table.add_row(Padding(self._spinner, (0, 0, 0, 1)), self._stage[0], running)
        below = self._picture.words or self._log_line
        lines: list[RenderableType] = [Columns([headline, self._spinner]) if idle else headline, table]
        if below:
            lines.append(Text(f"   {below}", "dim", no_wrap=not self._picture.words, overflow="ellipsis"))
        return Group(*lines)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
