"""The stages of a build as spans and times."""

from __future__ import annotations

from image_registry.builds.runner import BuildEvent, StageBegan, StageDone
from image_registry.telemetry import tracing
from image_registry.telemetry.catalogue import STAGE_SECONDS


class Stages:
    """Follows one build."""

    def __init__(self) -> None:
        self._span = tracing.NOTHING

    def on_event(self, event: BuildEvent) -> None:
        """Take note of what the build says."""
        match event:
            case StageBegan(stage):
                self._span = tracing.begin(f"build.{stage.value}", current=False)
            case StageDone(stage, seconds):
                STAGE_SECONDS.observe(seconds, stage.value)
                self._end()

    def broke_off(self, error: BaseException) -> None:
        """The build ended in the middle of the stage under way."""
        self._end(str(getattr(error, "reason", "")) or type(error).__name__)

    def _end(self, error: str = "") -> None:
        self._span.end(error)
        self._span = tracing.NOTHING
