"""The wheel alone, in an empty environment, is the whole product."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.fixtures.product import clean_environment, running_product

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment in which nothing but the built wheel was asked for."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / "env")], check=True)
    python = str(folder / "env/bin/python")
    locked = ["--constraint", str(_constraints(folder))]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *locked, str(wheel)], check=True)
    return folder / "env/bin"


def _constraints(folder: Path) -> Path:
    """The lock's versions without its hashes: the wheel itself has none there."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [line.removesuffix("\\").strip() for line in lines if line and not line.startswith(" ")]
    path = folder / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


def test_the_command_works(installed: Path) -> None:
    done = subprocess.run(
        [installed / "image-registry", "--version"], capture_output=True, text=True, check=True, env=clean_environment()
    )
    assert "0.1.0" in done.stdout


def test_the_product_comes_up_from_it(installed: Path, tmp_path: Path) -> None:
    environment = {"BASE_IMAGES": "3.11=oci:/nowhere:latest"}
    with running_product(tmp_path / "data", "--no-worker", python=installed / "python", **environment) as product:
        with urllib.request.urlopen(f"http://{product.http_address}/v1/images", timeout=10) as answer:
            assert answer.read() == b'{"images":[],"nextPageToken":""}'
        command = Path(f"/proc/{product.process.pid}/cmdline").read_text()
        assert command.startswith(f"{installed}{os.sep}python")
