"""The wheel carries both import roots completely: code, stubs, SQL, descriptors, markers."""

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

REPOSITORY = Path(__file__).parents[2]
ROOTS = {"image_registry": REPOSITORY / "server", "ri": REPOSITORY / "generated"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    [artifact] = WheelBuilder(str(REPOSITORY)).build(
        directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"]
    )
    with zipfile.ZipFile(artifact) as wheel:
        return set(wheel.namelist())


def test_every_file_of_the_packages_is_in_the_wheel(wheel_names: set[str]) -> None:
    sources = {
        path.relative_to(root).as_posix()
        for package, root in ROOTS.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - wheel_names == set()


def test_nothing_else_is_in_the_wheel(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS)
    assert not [name for name in wheel_names if name.endswith(".pyc")]


@pytest.mark.parametrize(
    "name",
    [
        "image_registry/py.typed",
        "ri/api/imageregistry/py.typed",
        "ri/api/imageregistry/descriptor_set.binpb",
        "ri/api/imageregistry/image_registry_pb2.pyi",
        "ri/api/imageregistry/image_registry_pb2_grpc.pyi",
        "ri/api/imageregistry/jobs_pb2_grpc.pyi",
    ],
)
def test_what_other_tools_look_for_is_in_the_wheel(wheel_names: set[str], name: str) -> None:
    assert name in wheel_names


def test_ri_stays_a_namespace(wheel_names: set[str]) -> None:
    """Other services of the platform have packages below `ri` too: no `__init__.py` may claim it."""
    assert not [name for name in wheel_names if name.startswith("ri/") and name.endswith("__init__.py")]
