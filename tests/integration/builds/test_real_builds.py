"""Builds with real libraries, and the images that come of them, run for what they are."""

import json
from collections.abc import Callable
from pathlib import Path

from packaging.utils import canonicalize_name

from image_registry.builds.plan import FailureReason
from tests.fixtures.rootfs import Rootfs, unpack_image
from tests.integration.builds.conftest import Builder


def pip_list(image: Rootfs) -> dict[str, str]:
    listed = json.loads(image.run("pip", "--disable-pip-version-check", "list", "--format", "json"))
    return {library["name"]: library["version"] for library in listed}


async def test_numpy_and_pandas_run_in_the_image(pypi_builder: Builder, tmp_path: Path) -> None:
    result = await pypi_builder.build("numpy", "pandas>=2", "uvicorn[standard]")
    image = unpack_image(pypi_builder.root / "image", "v1", tmp_path / "rootfs")

    program = "import numpy, pandas; print(pandas.DataFrame({'a': numpy.arange(4)}).a.sum(), numpy.__file__)"
    total, location = image.run("python", "-c", program).split()
    assert total == "6"
    assert location.startswith("/opt/managed/")
    assert image.run("python", "-c", "import sys; print(sys.prefix)") == "/opt/managed\n"
    assert "uvicorn" in image.run("uvicorn", "--version")

    recorded = {library.name: library.version for library in result.libraries}
    assert recorded == pip_list(image)
    assert {"numpy", "pandas", "uvicorn", "uvloop", "pip"} <= recorded.keys()
    assert image.run("pip", "check") == "No broken requirements found.\n"
    own = {canonicalize_name(name) for name in recorded} - {"pip", "setuptools", "wheel"}
    assert {library.name for library in result.lock.libraries} == own
    assert [stage.value for stage, _ in result.stages] == ["resolve", "fetch", "layer", "push"]


async def test_libraries_hide_those_of_the_base(pypi_builder: Builder, tmp_path: Path) -> None:
    result = await pypi_builder.build("setuptools>=75", "pip>=24")
    image = unpack_image(pypi_builder.root / "image", "v1", tmp_path / "rootfs")
    recorded = {library.name: library.version for library in result.libraries}
    assert recorded == pip_list(image)
    assert {"pip", "setuptools", "wheel"} == recorded.keys()
    assert image.run("pip", "--version").split()[:2] == ["pip", recorded["pip"]]


async def test_same_lock_and_base_give_same_digest(new_builder: Callable[..., Builder]) -> None:
    one, other = new_builder("one"), new_builder("another place")
    (other.cache / "bases").unlink()
    first = await one.build("six==1.16.0", "numpy")
    second = await other.build("numpy", "six == 1.16.0", name="another-name")
    assert first.digest == second.digest
    assert first.lock == second.lock


async def test_warm_build_fetches_nothing(pypi_builder: Builder) -> None:
    first = await pypi_builder.build("numpy")
    second = await pypi_builder.build("numpy", name="second")
    assert second.digest == first.digest
    assert " 0.0 MB fetched" in pypi_builder.log


async def test_unsatisfiable_set_is_explained(pypi_builder: Builder) -> None:
    failure = await pypi_builder.refused("numpy==1.26.4", "pandas>=3.1")
    assert failure.reason is FailureReason.USER_ERROR
    assert failure.stage == "resolve"
    assert "pandas" in failure.message
    assert "numpy" in failure.message
    assert "unsatisfiable" in failure.message
    assert pypi_builder.stages == ["resolve"]
    assert not list((pypi_builder.cache / "blobs").iterdir())


async def test_library_without_wheel_is_refused_with_remedy(pypi_builder: Builder) -> None:
    failure = await pypi_builder.refused("uwsgi")
    assert failure.reason is FailureReason.USER_ERROR
    assert "no usable wheels" in failure.message
    assert "publish a wheel" in failure.message
    assert "--" not in failure.message
