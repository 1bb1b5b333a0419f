"""FindImages: what is found, in which order, by each of the ways in which it is looked for."""

import random
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ri.api.imageregistry import image_finder_pb2 as finder_pb
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_finder_pb2_grpc import ImageFinderStub

from image_registry.registry.library_bitmaps import tend
from image_registry.requirements import version_key
from image_registry.storage import image_finder, library_bitmaps
from image_registry.storage.database import Database
from tests.fixtures.rest import Rest
from tests.fixtures.service import Service

Find = finder_pb.FindImagesRequest


def pip(*requirements: str) -> list[Any]:
    """Requirements written like 'numpy>=1'."""
    found = []
    for text in requirements:
        cut = next((place for place, sign in enumerate(text) if sign in "<>=!~"), len(text))
        found.append({"name": text[:cut], "version_specifier": text[cut:]})
    return found


async def find(service: Service, *requirements: str, **fields: Any) -> list[Any]:
    request = Find(pip_requirements=pip(*requirements), **fields)
    stub: Any = ImageFinderStub(service.channel)
    return list((await stub.FindImages(request)).images)


async def names(service: Service, *requirements: str, **fields: Any) -> list[str]:
    return [found.image.name for found in await find(service, *requirements, **fields)]


async def built(service: Service, name: str, *libraries: str, **fields: Any) -> None:
    await service.create(name, **fields)
    await service.report(name, *libraries)


async def test_images_that_hold_everything_the_one_with_the_fewest_others_first(service: Service) -> None:
    await built(service, "large", "numpy==1.26.4", "pandas==2.2.0", "scipy==1.11")
    await built(service, "small", "NumPy==1.26.0", "pandas==2.1.4")
    await built(service, "old", "numpy==1.24.0", "pandas==2.2.0")
    await built(service, "without", "numpy==1.26.4")
    await service.create("unbuilt", "numpy", "pandas")
    first, second = await find(service, "Numpy>=1.26,<2", "pandas")
    assert (first.image.name, second.image.name) == ("small", "large")
    assert first.image.status == pb.ManagedImage.STATUS_READY
    assert [(one.name, one.version) for one in first.matching_libraries] == [("NumPy", "1.26.0"), ("pandas", "2.1.4")]
    assert (first.further_libraries, second.further_libraries) == (0, 1)
    assert await names(service, "pandas", "numpy") == ["old", "small", "large"]
    assert await names(service, "pandas", "numpy", max_results=1) == ["old"]
    assert await names(service, "numpy==1.24", "pandas==2.2") == ["old"]
    assert await names(service, "numpy>=2") == []
    assert await names(service, "numpy", "absent") == []


async def test_only_what_is_ready_is_found(service: Service) -> None:
    await built(service, "vision", "numpy==1.0")
    assert await names(service, "numpy") == ["vision"]
    await service.images.SyncImageTag(pb.SyncImageTagRequest(name="vision", force=True))
    assert await names(service, "numpy") == []
    await service.report("vision", "numpy==2.0")
    assert await names(service, "numpy>=2") == ["vision"]
    assert await names(service, "numpy<2") == []
    await service.images.DeleteImage(pb.DeleteImageRequest(name="vision"))
    assert await names(service, "numpy") == []


async def test_of_equals_the_newest_comes_first(service: Service) -> None:
    for name in ("a", "c", "b"):
        await built(service, name, "numpy==1.0")
    assert await names(service, "numpy") == ["b", "c", "a"]


async def test_the_python_version_and_system_packages_count(service: Service) -> None:
    git = {"name": "git", "package_type": 1}
    pinned = {"name": "git", "version_specifier": "1:2.39.5-0+deb12u2", "package_type": 1}
    await built(service, "bare", "numpy==1.0", python_version="3.11")
    await built(service, "any", "numpy==1.0", python_version="3.12", package_requirements=[git])
    await built(service, "one", "numpy==1.0", "x==1", python_version="3.12", package_requirements=[pinned])
    assert await names(service, "numpy", python_version="3.11") == ["bare"]
    assert await names(service, "numpy", python_version="3.9") == []
    assert await names(service, "numpy", package_requirements=[git]) == ["any", "one"]
    assert await names(service, "numpy", package_requirements=[pinned]) == ["one"]
    assert await names(service, package_requirements=[git]) == ["any", "one"]
    vim = {"name": "vim", "package_type": 1}
    assert await names(service, "numpy", package_requirements=[git, vim]) == []
    await service.images.DeleteImage(pb.DeleteImageRequest(name="any"))
    assert await names(service, "numpy", package_requirements=[git]) == ["one"]


async def test_an_extra_is_held_by_images_that_asked_for_it(service: Service) -> None:
    await service.create("plain", "uvicorn")
    await service.report("plain", "uvicorn==0.30")
    await service.create("full", "uvicorn[Standard,h2]")
    await service.report("full", "uvicorn==0.30", "httptools==0.6")
    assert await names(service, "uvicorn") == ["plain", "full"]
    assert await names(service, "Uvicorn[standard]>=0.29") == ["full"]
    assert await names(service, "uvicorn[standard,h2]") == ["full"]
    assert await names(service, "uvicorn[standard]>=0.31") == []
    assert await names(service, "uvicorn[other]") == []


VERSIONS = [
    "1.0",
    "1.0.post1",
    "1.0+cu118",
    "1.1",
    "1.4.2",
    "1.4.5",
    "2.0rc1",
    "2.0",
    "2.0.dev3",
    "1!0.5",
    "0.9",
    "junk",
]


@pytest.mark.parametrize(
    ("specifier", "expected"),
    [
        ("==1", ["1.0", "1.0+cu118"]),
        ("==1.0+cu118", ["1.0+cu118"]),
        ("!=1.0+cu118,<1.1", ["0.9", "1.0", "1.0.post1"]),
        ("==1.0+cpu", []),
        ("==1.4.*", ["1.4.2", "1.4.5"]),
        ("~=1.4.3", ["1.4.5"]),
        (">1,<1.4", ["1.1"]),
        ("!=1.0,<1.1", ["0.9", "1.0.post1"]),
        (">=2.0rc1,<3", ["2.0", "2.0rc1"]),
        (">=2.0.dev0,<2.0", []),
        (">1.4.5,<=2.0", ["2.0", "2.0.dev3", "2.0rc1"]),
        (">=3", ["1!0.5"]),
        ("1.4.2", ["1.4.2"]),
        ("", sorted(VERSIONS)),
    ],
)
async def test_ranges_are_those_of_pep_440(service: Service, specifier: str, expected: list[str]) -> None:
    for number, version in enumerate(VERSIONS):
        await built(service, f"image-{number}", f"thing=={version}")
    found = await find(service, f"thing{specifier}" if specifier[:1] in "<>=!~" else "thing", max_results=100)
    if specifier[:1].isdigit():
        stub: Any = ImageFinderStub(service.channel)
        request = Find(pip_requirements=[{"name": "thing", "version_specifier": specifier}])
        found = list((await stub.FindImages(request)).images)
    assert sorted(one.matching_libraries[0].version for one in found) == expected


@pytest.mark.parametrize(
    ("listed", "walked", "popular"),
    [(3_000, 10_000, None), (0, 10_000, None), (0, 3, None), (10, 3, 20), (0, 3, 0), (0, 3, 100)],
    ids=["list", "walk", "join", "few of bitmaps", "bitmaps of all", "bitmaps of some"],
)
async def test_every_way_finds_what_a_search_of_everything_finds(
    service: Service,
    database: Database,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    listed: int,
    walked: int,
    popular: int | None,
) -> None:
    monkeypatch.setattr(image_finder, "LISTED", listed)
    monkeypatch.setattr(image_finder, "LEAST_COUNTED", 1)
    monkeypatch.setattr(image_finder, "WALKED", walked)
    contents = _fill(dsn)
    if popular is not None:
        monkeypatch.setattr(library_bitmaps, "POPULAR", popular)
        monkeypatch.setattr(library_bitmaps, "COMBINED", 2)
        while await tend(database):
            pass
    dice = random.Random(5)
    for _ in range(40):
        wanted = {
            f"library-{rank}": dice.choice(["", "", ">=1.1", "<2", "!=1.0", "==2.0", ">=1.0,<2"])
            for rank in dice.sample(range(8), dice.randint(1, 3))
        }
        python = dice.choice(["", "", "3.11", "3.12"])
        most = dice.choice([1, 5, 100])
        found = await names(
            service, *(name + spec for name, spec in wanted.items()), python_version=python, max_results=most
        )
        assert found == _searched(contents, wanted, python)[:most], (wanted, python)


Contents = dict[str, tuple[str, dict[str, str]]]


def _fill(dsn: str) -> Contents:
    """Images by name: Python version and libraries. Library 0 is in nearly all, library 7 in a few."""
    dice = random.Random(7)
    contents = {
        f"image-{number:03}": (
            dice.choice(["3.11", "3.12"]),
            {
                f"library-{rank}": dice.choice(["1.0", "1.5", "2.0"])
                for rank in range(8)
                if dice.random() < 1 / (rank + 1) ** 0.7
            },
        )
        for number in range(300)
    }
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.executemany(
            "insert into images"
            " (name, role, status, python_version, platform_tag, definition, library_count, updated_at)"
            " values (%s, 1, 3, %s, 'v1', %s, %s, '2026-01-01')",
            [(name, python, _definition(name, found), len(found)) for name, (python, found) in contents.items()],
        )
        cursor.executemany(
            "insert into image_libraries (library, image_name, version) values (%s, %s, %s)",
            [(one, name, version_key(v)[0]) for name, (_, found) in contents.items() for one, v in found.items()],
        )
    return contents


def _definition(name: str, libraries: dict[str, str]) -> bytes:
    found = [pb.ManagedImage.PipLibrary(name=one, version=version) for one, version in libraries.items()]
    role = pb.ManagedImage.ROLE_TYPE_SYSTEM
    return pb.ManagedImage(name=name, role_type=role, pip_libraries=found).SerializeToString()


def _searched(contents: Contents, wanted: dict[str, str], python: str) -> Sequence[str]:
    hits = [
        (len(found), name)
        for name, (version, found) in contents.items()
        if python in {"", version}
        and all(one in found and Version(found[one]) in SpecifierSet(spec) for one, spec in wanted.items())
    ]
    return [name for _, name in sorted(hits)]


async def test_over_rest(rest: Rest) -> None:
    await built(rest.service, "vision", "numpy==1.26.4", "pillow==12.0")
    body = {"pipRequirements": [{"name": "numpy", "versionSpecifier": ">=1.26,<3"}], "maxResults": "5"}
    answer = await rest.http.post("/v1/images/find", json=body)
    assert answer.status_code == 200
    found = answer.json()["images"][0]
    assert (found["image"]["name"], found["image"]["status"]) == ("vision", "STATUS_READY")
    assert found["matchingLibraries"] == [{"name": "numpy", "version": "1.26.4"}]
    assert found["furtherLibraries"] == "1"
    nothing = await rest.http.post("/v1/images/find", json={"pipRequirements": [{"name": "absent"}]})
    assert nothing.json() == {"images": []}


async def test_every_fault_is_reported_at_once(rest: Rest) -> None:
    body = {
        "pipRequirements": [{"name": "numpy"}, {"name": "NumPy", "versionSpecifier": ">>1"}, {"name": "git+https://x"}],
        "packageRequirements": [{"name": "git"}],
        "pythonVersion": "three",
        "maxResults": -1,
    }
    answer = await rest.http.post("/v1/images/find", json=body)
    assert answer.status_code == 400
    fields = {one["field"] for one in answer.json()["details"][1]["fieldViolations"]}
    assert fields == {
        "pipRequirements[1].name",
        "pipRequirements[1].versionSpecifier",
        "pipRequirements[2].name",
        "packageRequirements[0].packageType",
        "pythonVersion",
        "maxResults",
    }
    empty = await rest.http.post("/v1/images/find", json={})
    assert "pipRequirements: must hold at least one requirement" in empty.json()["message"]
