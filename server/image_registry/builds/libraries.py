"""Wheels as layers of an image: fetched where needed, made where needed, each once per machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from image_registry.builds.cache import Cache, CachedLayer, Layer
from image_registry.builds.faults import DamagedBlobError
from image_registry.builds.layer import (
    can_be_joined,
    group_layer_key,
    wheel_layer_key,
    write_group_layer,
    write_wheel_layer,
)
from image_registry.builds.plan import BuildPlan, LockedLibrary, retryable, user_error
from image_registry.builds.resolve import Wheel

Item = TypeVar("Item")
Result = TypeVar("Result")

_OWN_LAYER_ABOVE = 1_000_000  # bytes of a wheel
_MOST_OWN_LAYERS = 60
_MOST_LAYERS = 120  # container engines stop at 127
_NETWORK_THREADS = 6

FetchWheel = Callable[[Wheel, Path], None]


class LibraryLayers:
    """The layers of one image's wheels: `fetch` what is missing, then `make`."""

    def __init__(self, plan: BuildPlan, cache: Cache, wheels: Sequence[Wheel]) -> None:
        self._plan = plan
        self._cache = cache
        self._wheels = wheels
        self._files: dict[str, Path] = {}
        self._refuse_too_much(sum(wheel.size or 0 for wheel in wheels), 0)

    def fetch(self) -> int:
        """Download the wheels whose layers aren't cached; return how many bytes that took. Raises BuildFailed."""
        needed = _in_parallel(_processors(), self._is_needed, self._wheels)
        missing = [wheel for wheel, is_needed in zip(self._wheels, needed, strict=True) if is_needed]
        if not missing:
            return 0
        with _downloads(self._plan) as fetch:
            files = _in_parallel(_NETWORK_THREADS, lambda wheel: self._wheel_file(wheel, fetch), missing)
        self._files = {wheel.sha256: file for wheel, file in zip(missing, files, strict=True)}
        return sum(file.stat().st_size for file in files)

    def make(self, layers_below: int) -> list[CachedLayer]:
        """Return the layers: one for each large wheel, in the order of their names, and one for all small ones.

        Raises BuildFailed for a wheel that can't be installed, or beyond the plan's limits.
        """
        layers = dict(zip(self._wheels, _in_parallel(_processors(), self._wheel_layer, self._wheels), strict=True))
        contents = [cached.layer for cached in layers.values()]
        self._refuse_too_much(sum(c.unpacked_bytes for c in contents), sum(len(c.paths) for c in contents))
        large = self._with_own_layer(layers_below)
        own = [layers[wheel] for wheel in self._wheels if wheel in large]
        return [*own, *self._grouped([layers[wheel] for wheel in self._wheels if wheel not in large])]

    def locked(self) -> tuple[LockedLibrary, ...]:
        """Return the wheels as they go into the image's lock; call it after `fetch`."""
        return tuple(
            LockedLibrary(
                name=wheel.name,
                version=wheel.version,
                filename=wheel.filename,
                sha256=wheel.sha256,
                size=self._size(wheel),
            )
            for wheel in self._wheels
        )

    def _refuse_too_much(self, size: int, files: int) -> None:
        limits = self._plan.limits
        if size > limits.unpacked_bytes:
            user_error(f"The libraries take more than the {limits.unpacked_bytes} bytes that an image may add.")
        if files > limits.files:
            user_error(f"The libraries have more than the {limits.files} files that an image may add.")

    def _key(self, wheel: Wheel) -> str:
        return wheel_layer_key(wheel.sha256, self._plan.python_version)

    def _is_needed(self, wheel: Wheel) -> bool:
        """Whether the wheel itself is needed: for its layer, or for its size, on which the layers' order depends."""
        return wheel.size is None or self._cache.taken_layer(self._key(wheel)) is None

    def _wheel_file(self, wheel: Wheel, fetch: FetchWheel) -> Path:
        def from_index(path: Path) -> None:
            if not wheel.url:  # of a lock whose layers were all there a moment ago; the next attempt asks for addresses
                retryable(f"The cached layer of {wheel.filename} is damaged or was removed meanwhile.")
            fetch(wheel, path)

        try:
            return self._cache.blob(f"sha256:{wheel.sha256}", from_index)
        except DamagedBlobError as error:
            retryable(f"The package index gave another file than the {wheel.filename} that it lists.", error)

    def _wheel_layer(self, wheel: Wheel) -> CachedLayer:
        return self._cache.layer(self._key(wheel), lambda path: self._write(wheel, path))

    def _write(self, wheel: Wheel, path: Path) -> Layer:
        from image_registry.builds.wheel import WheelFile  # noqa: PLC0415 (warm builds open no wheel)

        file = self._files.get(wheel.sha256)
        if file is None:  # its layer was there a moment ago, but has been removed or damaged since
            with _downloads(self._plan) as fetch:
                file = self._wheel_file(wheel, fetch)
        with WheelFile(file, wheel.filename, self._plan.limits) as opened:
            return write_wheel_layer(opened, self._plan.python_version, path)

    def _size(self, wheel: Wheel) -> int:
        return self._files[wheel.sha256].stat().st_size if wheel.sha256 in self._files else wheel.size or 0

    def _with_own_layer(self, layers_below: int) -> set[Wheel]:
        most = max(0, min(_MOST_OWN_LAYERS, _MOST_LAYERS - layers_below - 2))
        large = [wheel for wheel in self._wheels if self._size(wheel) > _OWN_LAYER_ABOVE]
        return set(sorted(large, key=lambda wheel: (-self._size(wheel), wheel.name))[:most])

    def _grouped(self, parts: Sequence[CachedLayer]) -> list[CachedLayer]:
        """Return one layer for all parts, or as many as it takes to have no path in a layer twice."""
        groups: list[tuple[set[str], set[str], list[CachedLayer]]] = []
        for part in parts:
            fitting = (group for group in groups if can_be_joined(part.layer, group[0], group[1]))
            folders, paths, members = next(fitting, (set(), set(), []))
            if not members:
                groups.append((folders, paths, members))
            folders.update(part.layer.folders)
            paths.update(part.layer.paths)
            members.append(part)
        return [self._group(members) for _, _, members in groups]

    def _group(self, parts: Sequence[CachedLayer]) -> CachedLayer:
        if len(parts) == 1:
            return parts[0]
        key = group_layer_key(part.layer for part in parts)
        return self._cache.layer(key, lambda path: write_group_layer([(p.layer, p.path) for p in parts], path))


def _downloads(plan: BuildPlan) -> AbstractContextManager[FetchWheel]:
    from image_registry.builds.download import wheel_downloads  # noqa: PLC0415 (slow to import, often not needed)

    return wheel_downloads(plan.index, plan.limits.unpacked_bytes)


def _processors() -> int:
    return min(8, len(os.sched_getaffinity(0)))


def _in_parallel(threads: int, action: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Run the action on all items; after a failure no further one is begun, and the first failure is raised."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(action, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
