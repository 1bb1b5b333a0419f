"""The process of one build: a plan comes in on standard input, events go out on standard output, a line of JSON each.

    python -P -m image_registry.builds.child [PARENT_PID FOLDER [LEASE_DESCRIPTOR]]

    {"event": "stage", "stage": "resolve", "state": "start"}
    {"event": "stage", "stage": "resolve", "state": "done", "seconds": 0.31}
    {"event": "log", "line": "..."}
    {"event": "result", "result": {...}}                                          the last one, or
    {"event": "failed", "reason": "USER_ERROR", "stage": "resolve", "message": "..."}

Whatever happens, FOLDER is removed and no process is left, also when the parent is killed, and when the parent is
stopped or starved and the lease is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO
from urllib.parse import unquote, urlsplit

from image_registry.builds.cache import make_room
from image_registry.builds.faults import NO_ROOM, as_failure
from image_registry.builds.lease import clock, end_of_lease
from image_registry.builds.packages.control_group import remove_group
from image_registry.builds.packages.identities import remove_tree
from image_registry.builds.pipeline import Build
from image_registry.builds.plan import BuildFailed, BuildPlan, BuildResult, FailureReason, Limits, Stage
from image_registry.builds.processes import die_with_parent

_MOST_CLEANINGS = 100
_LOOK_SECONDS = 0.2


class Events:
    """Writes events; whatever is secret in the plan is blotted out of every text."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._secrets: list[str] = []

    def hide(self, plan: BuildPlan) -> None:
        """Blot out the plan's credentials from now on, the longest first."""
        secrets = {access.password for access in plan.registries}
        for url in map(urlsplit, (plan.index.url, *plan.index.extra_urls)):
            parts = (url.netloc.rpartition("@")[0], url.password, url.username if url.password is None else None)
            secrets |= {text for part in parts if part for text in (part, unquote(part))}
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def stage_began(self, stage: Stage) -> None:
        """See pipeline.Listener."""
        self._write({"event": "stage", "stage": stage, "state": "start"})

    def stage_done(self, stage: Stage, seconds: float) -> None:
        """See pipeline.Listener."""
        self._write({"event": "stage", "stage": stage, "state": "done", "seconds": seconds})

    def line(self, text: str) -> None:
        """See pipeline.Listener."""
        for line in self._clean(text).splitlines():
            self._write({"event": "log", "line": line})

    def result(self, result: BuildResult) -> None:
        """Report success; nothing follows."""
        self._write({"event": "result", "result": json.loads(result.to_json())})

    def failed(self, failure: BuildFailed) -> None:
        """Report failure; nothing follows."""
        message = self._clean(failure.message)
        self._write({"event": "failed", "reason": failure.reason, "stage": failure.stage, "message": message})

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _write(self, event: dict[str, Any]) -> None:
        self._output.write(f"{json.dumps(event)}\n")
        self._output.flush()


def main(arguments: list[str]) -> int:
    """Run the build of the plan on standard input; return 0 for a finished image, 1 for a failure."""
    parent = int(arguments[0]) if arguments else os.getppid()
    with contextlib.suppress(PermissionError):  # the parent has made a session already
        os.setsid()
    folder = Path(arguments[1]) if arguments[1:] else None
    if folder is not None and arguments[2:]:  # before the plan, for which a parent that was stopped lets it wait
        _clean_up_on_signal(folder)
        _watch_lease(int(arguments[2]))
    events = Events(_private_output())
    plan = BuildPlan.from_json(sys.stdin.readline())
    events.hide(plan)
    if folder is None:
        plan.work_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=plan.work_dir))
    _clean_up_on_signal(folder)
    die_with_parent(parent, signal.SIGTERM)
    _limit(plan.limits)
    try:
        return _build(plan, folder, events)
    finally:
        _remove(folder)


def _private_output() -> TextIO:
    """Keep standard output for events; what anything else prints goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _build(plan: BuildPlan, folder: Path, events: Events) -> int:
    build = Build(plan, folder, events)
    try:
        result = build.run()
    except Exception as error:  # noqa: BLE001 (every failure has to be reported, as what it is)
        failure = as_failure(error, plan.limits)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            make_room(plan.cache_dir)
        if failure.reason is FailureReason.INTERNAL:
            events.line("".join(traceback.format_exception(error)))
        events.failed(BuildFailed(failure.reason, failure.message, build.stage))
        return 1
    events.result(result)
    build.tidy()
    return 0


def _limit(limits: Limits) -> None:
    """Bound this process and all that it starts. Raises nothing where a lower hard limit is in force already."""
    for kind, most in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.unpacked_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def _clean_up_on_signal(folder: Path) -> None:
    """End at once when asked to, or when the parent has died, leaving nothing behind."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        _remove(folder)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)


def _watch_lease(descriptor: int) -> None:
    """Look at the lease now and several times a second, and end as if asked to when it is over."""

    def look(*_: object) -> None:
        if clock() > end_of_lease(descriptor):
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    look()


def _remove(folder: Path) -> None:
    """Remove the folder; threads that are still writing into it may make several attempts necessary."""
    remove_group(folder)
    for _ in range(_MOST_CLEANINGS):
        remove_tree(folder)
        if not folder.exists():
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
