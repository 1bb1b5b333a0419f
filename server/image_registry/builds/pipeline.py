"""The stages of a build, from the plan to the pushed image. Everything here happens in the build's own process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from packaging.utils import canonicalize_name

from image_registry.builds.base_image import BaseImage, open_base
from image_registry.builds.cache import Cache, CachedLayer
from image_registry.builds.destination import Repository, open_destination
from image_registry.builds.image import compose
from image_registry.builds.layer import Environment, environment_layer_key, wheel_layer_key, write_environment_layer
from image_registry.builds.libraries import LibraryLayers
from image_registry.builds.packages.install import with_packages
from image_registry.builds.plan import (
    BuildFailed,
    BuildPlan,
    BuildResult,
    FailureReason,
    Library,
    Lock,
    Stage,
    internal,
    user_error,
)
from image_registry.builds.requirement import plain_requirement
from image_registry.builds.resolve import Question, Wheel, resolve, trim_index_cache

_INDEX_SHARE = 20  # the index's answers may take this part of the cache's limit


class Listener(Protocol):
    """Hears of a build's progress."""

    def stage_began(self, stage: Stage) -> None:
        """A stage begins."""

    def stage_done(self, stage: Stage, seconds: float) -> None:
        """A stage is done."""

    def line(self, text: str) -> None:
        """Something worth a line in the build's log, without secrets."""


class Build:
    """One build. `own` is its folder, which the caller makes and removes."""

    def __init__(self, plan: BuildPlan, own: Path, listener: Listener) -> None:
        self._plan = plan
        self._own = own
        self._listener = listener
        self._cache = Cache(plan.cache_dir, own, listener.line)
        self._stages: list[tuple[Stage, float]] = []
        self.stage: Stage | None = None

    def run(self) -> BuildResult:
        """Run all stages; `stage` tells where it is.

        Raises BuildFailed, and what `faults.as_failure` knows.
        """
        with ExitStack() as resources:
            return self._run_stages(resources)

    def _run_stages(self, resources: ExitStack) -> BuildResult:
        base = self._base_with_packages(resources) if self._plan.packages else None
        with self._in_stage(Stage.RESOLVE):
            repository = _repository(self._plan, resources)
            base = base or open_base(self._plan, self._cache, resources)
            question = self._question(base)
            wheels = self._choose_wheels(question)
        with self._in_stage(Stage.FETCH):
            libraries = LibraryLayers(self._plan, self._cache, wheels)
            self._listener.line(f"{len(wheels)} libraries, {libraries.fetch() / 1e6:.1f} MB fetched")
        with self._in_stage(Stage.LAYER):
            layers = self._layers(base, libraries)
            manifest, config = compose(base.manifest, base.config, [cached.layer for cached in layers])
        with self._in_stage(Stage.PUSH), base.unmoved():
            files = [*base.layer_files(), *((cached.layer.blob, cached.path) for cached in layers)]
            repository.push(self._plan.image_id, manifest, files, config, self._plan.tags)
        return BuildResult(
            digest=manifest.digest,
            base_digest=base.manifest.digest,
            python_version=base.target.python,
            libraries=_visible_libraries(base, layers),
            lock=Lock(context=question.context, libraries=libraries.locked()),
            stages=tuple(self._stages),
            layers_made=sum(not layer.reused for layer in layers),
            layers_reused=sum(layer.reused for layer in layers),
        )

    def tidy(self) -> None:
        """Keep the cache to its limits. It comes behind the result, on which it has no bearing."""
        limit = self._plan.cache_limit_bytes
        with suppress(OSError):  # the next build tries again
            self._cache.shrink(limit)
            trim_index_cache(self._index_cache, limit // _INDEX_SHARE)

    @property
    def _index_cache(self) -> Path:
        return self._plan.cache_dir / "index"

    @contextmanager
    def _in_stage(self, stage: Stage) -> Iterator[None]:
        self.stage = stage
        self._listener.stage_began(stage)
        began = time.monotonic()
        yield
        seconds = round(time.monotonic() - began, 3)
        self._stages.append((stage, seconds))
        self._listener.stage_done(stage, seconds)

    def _base_with_packages(self, resources: ExitStack) -> BaseImage:
        with self._in_stage(Stage.PACKAGES):
            base = open_base(self._plan, self._cache, resources)
            with base.unmoved():
                return with_packages(self._plan, base, self._cache, self._own, self._listener.line)

    def _question(self, base: BaseImage) -> Question:
        if len(self._plan.requirements) > self._plan.limits.requirements:
            user_error(f"There are more than {self._plan.limits.requirements} requirements.")
        requirements = tuple(plain_requirement(requirement) for requirement in self._plan.requirements)
        self._listener.line(
            f"base {base.manifest.digest}: Python {base.target.python} at {base.interpreter}, "
            f"{base.target.uv_platform}, {len(base.visible)} libraries of its own, {len(base.pinned)} fixed"
        )
        pins = {name: library.version for name, library in base.pinned.items()}
        return Question(requirements, pins, base.target)

    def _choose_wheels(self, question: Question) -> tuple[Wheel, ...]:
        """Return the wheels: those of the last build's lock while its question is still the same, else new ones."""
        if not question.requirements:
            return ()
        lock = self._plan.lock
        if lock is None or lock.context != question.context:
            return self._resolve(question)
        wheels = tuple(Wheel(w.name, w.version, w.filename, "", w.sha256, w.size) for w in lock.libraries)
        keys = [wheel_layer_key(wheel.sha256, self._plan.python_version) for wheel in wheels]
        if all(self._cache.has_layer(key) for key in keys):
            self._listener.line("the last build's lock still fits, and its layers are here")
            return wheels
        return self._find_again(question, wheels)

    def _find_again(self, question: Question, wheels: Sequence[Wheel]) -> tuple[Wheel, ...]:
        """Find out where the index offers the wheels of a lock; if it doesn't any more, choose anew."""
        try:
            found = self._resolve(question, {wheel.name: wheel.version for wheel in wheels})
        except BuildFailed as error:
            if error.reason is not FailureReason.USER_ERROR:
                raise
            found = ()
        if {wheel.sha256 for wheel in found} == {wheel.sha256 for wheel in wheels}:
            return found
        self._listener.line("the last build's lock can't be had any more; choosing anew")
        return self._resolve(question)

    def _resolve(self, question: Question, locked: dict[str, str] | None = None) -> tuple[Wheel, ...]:
        return resolve(
            question,
            self._plan.index,
            locked=locked or {},
            cache_dir=self._index_cache,
            work_dir=self._own,
            on_line=self._listener.line,
        )

    def _layers(self, base: BaseImage, libraries: LibraryLayers) -> list[CachedLayer]:
        below = len(base.manifest.layers)
        layers = libraries.make(below + len(base.added))
        if (layers or base.added) and not base.has_environment:
            environment = Environment(base.target.python, base.interpreter, has_pip="pip" in base.visible)
            key = environment_layer_key(environment)
            layers.insert(0, self._cache.layer(key, lambda path: write_environment_layer(environment, path)))
        layers = [*base.added, *layers]
        reused = sum(layer.reused for layer in layers)
        added = sum(layer.layer.blob.size for layer in layers) / 1e6
        self._listener.line(f"{len(layers)} layers on {below} of the base, {reused} of them reused, {added:.1f} MB")
        return layers


def _repository(plan: BuildPlan, resources: ExitStack) -> Repository:
    try:
        return open_destination(plan, resources)
    except ValueError as error:
        internal(f"The destination is wrong: {error}.", error)


def _visible_libraries(base: BaseImage, layers: Sequence[CachedLayer]) -> tuple[Library, ...]:
    """Return what `pip list` shows: the environment's libraries hide the base's of the same name."""
    own = (Library(name=name, version=version) for cached in layers for name, version in cached.layer.libraries)
    libraries: dict[str, Library] = {**base.visible, **base.pinned}
    libraries.update((canonicalize_name(library.name), library) for library in own)
    return tuple(library for _, library in sorted(libraries.items()))
