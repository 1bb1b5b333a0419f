"""What the manager and the scripts print, to the last line, however slowly the build's log takes it."""

import time

import pytest

from image_registry.builds.plan import BuildFailed, FailureReason
from image_registry.builds.runner import BuildEvent, LogLine, run_build
from tests.system.packages.conftest import PackageBuilder
from tests.system.packages.repositories import AptRepository

LINES = 600
SECONDS_A_LINE = 0.005  # so that every pipe on the way is full when the script ends
_TALK = f"n=0; while [ $n -lt {LINES} ]; do n=$((n + 1)); printf 'line %04d %01000d\\n' $n 0; done; exit 3"


async def test_the_last_lines_of_a_command_reach_a_log_that_is_slow(
    builder: PackageBuilder, apt: AptRepository
) -> None:
    apt.add("talkative", script=_TALK)

    def slowly(event: BuildEvent) -> None:
        builder.events.append(event)
        if isinstance(event, LogLine) and event.line.startswith("line "):
            time.sleep(SECONDS_A_LINE)

    with pytest.raises(BuildFailed) as failure:
        await run_build(builder.plan(packages=["talkative"]), slowly)
    said = [line[:9] for line in builder.log.splitlines() if line.startswith("line ")]
    assert said == [f"line {number:04}" for number in range(1, LINES + 1)]
    assert failure.value.reason is FailureReason.USER_ERROR
    assert "A package's own script failed: installed talkative package" in failure.value.message
