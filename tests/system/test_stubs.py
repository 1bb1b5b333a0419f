"""The stubs of docs/how-to/other-languages.md: generated from the templates, and called."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.service import Service

REPOSITORY = Path(__file__).parents[2]
STUBS = REPOSITORY / "examples" / "stubs"
PAGE = REPOSITORY / "docs" / "how-to" / "other-languages.md"

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def generate(language: str, folder: Path, programs: str) -> None:
    """Run buf with a template, as the page says."""
    buf = Path(sys.executable).with_name("buf")
    command = [buf, "generate", "protos", "--template", STUBS / f"buf.gen.{language}.yaml", "-o", folder]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_javascript_is_generated_and_calls(service: Service, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.fail("npm is not installed: apt-get install npm")
    packages = re.findall(r"@\w+/[\w-]+@\d+", PAGE.read_text(encoding="utf-8"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *packages]
    await asyncio.to_thread(subprocess.run, install, check=True, capture_output=True)
    generate("typescript", tmp_path, f"{tmp_path}/node_modules/.bin")
    shutil.copy(STUBS / "find.mjs", tmp_path)
    await service.create("vision")
    await service.report("vision", "numpy==1.26.4", "six==1.0")
    process = await asyncio.create_subprocess_exec(
        *("node", str(tmp_path / "find.mjs"), f"http://{service.address}", "numpy"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # node warns about modules without a package.json of their own
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode() == "vision +1\n"


def test_go_is_generated(tmp_path: Path) -> None:
    """The plugins are unpacked, not installed: test_grpc_gateway.py needs another protoc-gen-go."""
    download = ["apt-get", "download", "-q", "protoc-gen-go", "protoc-gen-go-grpc"]
    subprocess.run(download, cwd=tmp_path, check=True, capture_output=True)
    for package in tmp_path.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, tmp_path / "unpacked"], check=True)
    generate("go", tmp_path, f"{tmp_path}/unpacked/usr/bin")
    made = {path.name for path in (tmp_path / "ri/api/imageregistry").iterdir()}
    assert {"image_registry.pb.go", "image_registry_grpc.pb.go", "image_finder_grpc.pb.go"} <= made
