"""The images that everything here is measured on: made from a number, so that a load generator can check an answer.

Popularity of libraries is Zipf-like, as on PyPI: of 20,000 libraries the first is in nearly every image, the tenth in
every second, the hundredth in one of 15, the thousandth in one of 150. A few libraries have a fixed place, for the
cases that are hard to answer: `rare` is in twenty images, `half-a` and `half-b` in every second image each and never
together, and `half-a` has one version that thirty images hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

from ri.api.imageregistry import image_registry_pb2 as pb

LIBRARIES = 20_000
VERSIONS = ("2.1.0", "2.0.3", "2.0.0", "1.9.4", "1.8.0", "1.4.2", "1.0.0", "0.9.1")
_VERSION_WEIGHTS = (120, 30, 20, 12, 8, 6, 3, 1)
RARE, HALF_A, HALF_B, RAREST_VERSION = "rare", "half-a", "half-b", "0.0.1"
RARE_IMAGES, RAREST_VERSION_IMAGES = 20, 30
PYTHON = "3.11"
SYSTEM_IMAGE = "system-python-3-11"

# Drawn from evenly, each as often as it is popular: several times faster than a draw with weights. A library that is
# the most popular but `rank` others has 1 / (rank + 1) of the first one's places, the last one four.
_RANK_PLACES = [*chain.from_iterable(repeat(rank, 4 * LIBRARIES // (rank + 1)) for rank in range(LIBRARIES))]
_VERSION_PLACES = [*chain.from_iterable(map(repeat, VERSIONS, _VERSION_WEIGHTS))]
_NAMES = [f"lib{rank:05d}" for rank in range(LIBRARIES)]


def library(rank: int) -> str:
    """The library that is the most popular but `rank` others."""
    return _NAMES[rank]


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
    """In the order of their names."""
    dice = random.Random(number)  # noqa: S311
    halves, version = HALF_A if number % 2 else HALF_B, VERSIONS[0]
    if halves == HALF_A and _chosen(number // 2, count // 2, RAREST_VERSION_IMAGES):
        version = RAREST_VERSION
    rare = ((RARE, "1.0"),) if _chosen(number, count, RARE_IMAGES) else ()
    wanted = size - 1 - len(rare)
    ranks: dict[int, None] = {}
    while len(ranks) < wanted:
        ranks |= dict.fromkeys(dice.choices(_RANK_PLACES, k=size))
    names = [_NAMES[rank] for rank in sorted(islice(ranks, wanted))]
    return (halves, version), *zip(names, dice.choices(_VERSION_PLACES, k=wanted), strict=True), *rare


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
