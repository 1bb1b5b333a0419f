"""The images that everything here is measured on: made from a number, so that a load generator can check an answer.

Popularity of libraries is Zipf-like, as on PyPI: of 20,000 libraries the first is in nearly every image, the tenth in
about two of five, the thousandth in one of 200. A few libraries have a fixed place, for the cases that are hard to
answer: `rare` is in twenty images, `half-a` and `half-b` in every second image each and never together, and `half-a`
has one version that thirty images hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from ri.api.imageregistry import image_registry_pb2 as pb

LIBRARIES = 20_000
VERSIONS = ("2.1.0", "2.0.3", "2.0.0", "1.9.4", "1.8.0", "1.4.2", "1.0.0", "0.9.1")
VERSION_WEIGHTS = tuple(accumulate((60, 15, 10, 6, 4, 3, 1.5, 0.5)))
RARE, HALF_A, HALF_B, RAREST_VERSION = "rare", "half-a", "half-b", "0.0.1"
RARE_IMAGES, RAREST_VERSION_IMAGES = 20, 30
PYTHON = "3.11"
SYSTEM_IMAGE = "system-python-3-11"

_RANKS = tuple(accumulate(1 / rank for rank in range(1, LIBRARIES + 1)))
_POPULATION = range(LIBRARIES)


def library(rank: int) -> str:
    """The library that is the most popular but `rank` others."""
    return f"library-{rank:05d}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its name and its libraries with their versions."""

    name: str
    libraries: tuple[tuple[str, str], ...]

    def definition(self) -> bytes:
        """What the registry stores of it."""
        return _head(self.name) + b"".join(_encoded_library(name, version) for name, version in self.libraries)


def name(number: int) -> str:
    """The name of an image. Numbers near each other are not neighbours in name order."""
    return f"team-{number * 7919 % 9973:04d}-image-{number:07d}"


def samples(count: int, libraries: int = 60, *, first: int = 0) -> Iterator[Sample]:
    """The images of a registry of `count`, from number `first` on."""
    for number in range(first, count):
        yield Sample(name(number), _libraries(number, count, libraries))


def _libraries(number: int, count: int, size: int) -> tuple[tuple[str, str], ...]:
    dice = random.Random(number)  # noqa: S311
    halves = HALF_A if number % 2 else HALF_B
    version = VERSIONS[0]
    if halves == HALF_A and _chosen(number // 2, count // 2, RAREST_VERSION_IMAGES):
        version = RAREST_VERSION
    found = {halves: version}
    if _chosen(number, count, RARE_IMAGES):
        found[RARE] = "1.0"
    while len(found) < size:
        ranks = dice.choices(_POPULATION, cum_weights=_RANKS, k=size)
        versions = dice.choices(VERSIONS, cum_weights=VERSION_WEIGHTS, k=size)
        for rank, chosen in zip(ranks, versions, strict=True):
            found.setdefault(library(rank), chosen)
            if len(found) == size:
                break
    return tuple(sorted(found.items()))


def _chosen(number: int, count: int, wanted: int) -> bool:
    """Whether this is one of `wanted` numbers, spread evenly over `count`."""
    return number * wanted // count != (number + 1) * wanted // count


_libraries_seen: dict[tuple[str, str], bytes] = {}


def _encoded_library(library: str, version: str) -> bytes:
    encoded = _libraries_seen.get((library, version))
    if encoded is None:
        one = pb.ManagedImage(pip_libraries=[pb.ManagedImage.PipLibrary(name=library, version=version)])
        encoded = _libraries_seen[library, version] = one.SerializeToString()
    return encoded


_TAIL = pb.ManagedImage(
    rime_tag="v1",
    pip_requirements=[pb.ManagedImage.PipRequirement(name="numpy", version_specifier=">=1.26")] * 5,
    base_image=pb.ImageReference(name=SYSTEM_IMAGE, reference_type=pb.ImageReference.REFERENCE_TYPE_MANAGED),
    role_type=pb.ManagedImage.ROLE_TYPE_USER_DEFINED,
    python_version=PYTHON,
).SerializeToString()


def _head(image: str) -> bytes:
    return pb.ManagedImage(name=image, repo_uri=f"oci:/images/managed/{image}").SerializeToString() + _TAIL
