"""Which wheels fit an image: judged by the image's own Python, processor and C library, never by this machine's.

Tags are those of PEP 425, PEP 600 (manylinux) and PEP 656 (musllinux).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from image_registry.builds.plan import internal

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_UV_GLIBC: tuple[int, ...] = (17, 28, *range(31, 41))  # the 2.x that uv 0.13 knows as --python-platform
_LEGACY_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST_GLIBC = {"amd64": 5, "arm64": 17}
_MUSL = (1, 2)  # what uv takes for musl


@dataclass(frozen=True)
class Target:
    """The environment that wheels have to fit.

    `python` is the interpreter's full version (`3.11.2`); `libc` is `glibc` or `musl`, `libc_version` its major and
    minor version, `architecture` is `amd64` or `arm64`.
    """

    python: str
    architecture: str
    libc: str
    libc_version: tuple[int, int]

    @property
    def machine(self) -> str:
        """The processor as wheel tags and uv call it."""
        return _MACHINES[self.architecture]

    @property
    def python_minor(self) -> tuple[int, int]:
        """The Python version's first two numbers."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def uv_platform(self) -> str:
        """The value of uv's `--python-platform`: the newest that uv knows and the image's C library satisfies."""
        if self.libc == "musl":
            return f"{self.machine}-unknown-linux-musl"
        return f"{self.machine}-manylinux_2_{self._glibc_minor}"

    @property
    def _glibc_minor(self) -> int:
        return max(minor for minor in _UV_GLIBC if minor <= self.libc_version[1])

    @cached_property
    def _ranks(self) -> dict[Tag, int]:
        platforms = list(self._platforms())
        interpreter = f"cp{self.python_minor[0]}{self.python_minor[1]}"
        tags = (
            *cpython_tags(self.python_minor, abis=[interpreter], platforms=platforms),
            *compatible_tags(self.python_minor, interpreter=interpreter, platforms=platforms),
        )
        ranks: dict[Tag, int] = {}
        for rank, tag in enumerate(tags):
            ranks.setdefault(tag, rank)
        return ranks

    def _platforms(self) -> Iterator[str]:
        if self.libc == "musl":
            for minor in range(_MUSL[1], -1, -1):
                yield f"musllinux_1_{minor}_{self.machine}"
        else:
            for minor in range(self._glibc_minor, _OLDEST_GLIBC[self.architecture] - 1, -1):
                yield f"manylinux_2_{minor}_{self.machine}"
                if minor in _LEGACY_ALIASES:
                    yield f"{_LEGACY_ALIASES[minor]}_{self.machine}"
        yield f"linux_{self.machine}"

    def best_wheel(self, filenames: list[str]) -> str | None:
        """Return the file name of the wheel that fits best, as pip and uv choose: by tag, then by build number.

        None when no wheel fits. Names that aren't wheels' are passed over.
        """
        candidates = []
        for filename in filenames:
            try:
                _, _, build, tags = parse_wheel_filename(filename)
            except InvalidWheelFilename:
                continue
            ranks = [self._ranks[tag] for tag in tags if tag in self._ranks]
            if ranks:
                candidates.append((-min(ranks), build, filename))
        return max(candidates)[2] if candidates else None


def checked_target(python: str, architecture: str, libc: tuple[str, tuple[int, int]] | None) -> Target:
    """Return the target of a base image with this C library (kind and version).

    Raises BuildFailed (INTERNAL) when no wheel can be chosen for it.
    """
    if libc is None:
        internal("The base image holds no C library that is known (glibc or musl), so no wheel can be chosen for it.")
    kind, version = libc
    oldest = _MUSL if kind == "musl" else (2, _UV_GLIBC[0])
    if version < oldest:
        found, needed = (f"{major}.{minor}" for major, minor in (version, oldest))
        internal(f"The base image's {kind} {found} is older than {needed}, the oldest that is supported.")
    return Target(python, architecture, kind, version)
