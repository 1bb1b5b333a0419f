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
from tests.system.go import go_build

REPOSITORY = Path(__file__).parents[2]
STUBS = REPOSITORY / "examples" / "stubs"
PAGE = REPOSITORY / "docs" / "how-to" / "other-languages.md"

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def generate(language: str, folder: Path, programs: str) -> None:
    """Run buf with a template, as the page says."""
    buf = Path(sys.executable).with_name("buf")
    template = STUBS / f"buf.gen.{language}.yaml"
    command: list[str | Path] = [buf, "generate", "protos", "--template", template, "-o", folder]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_javascript_is_generated_and_calls(service: Service, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.fail("npm is not installed: apt-get install npm")
    packages = re.findall(r"@\w+/[\w-]+@\d+", PAGE.read_text(encoding="utf-8"))
    packages += ["typescript@5", "@types/node@20"]
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *packages]
    modules = ["npm", "pkg", "set", "--prefix", str(tmp_path), "type=module"]
    for command in (install, modules):
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    generate("typescript", tmp_path, f"{tmp_path}/node_modules/.bin")
    shutil.copy(STUBS / "find.mjs", tmp_path)
    await asyncio.to_thread(check_types, tmp_path)
    await service.create("vision")
    await service.report("vision", "numpy==1.26.4", "six==1.0")
    process = await asyncio.create_subprocess_exec(
        *("node", str(tmp_path / "find.mjs"), f"http://{service.address}", "numpy"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode() == "vision +1\n"


def check_types(folder: Path) -> None:
    """TypeScript finds no mistake in the program, and one in a program that has one."""
    options = ["--noEmit", "--strict", "--allowJs", "--checkJs", "--module", "nodenext", "--target", "es2022"]
    compiler: list[str | Path] = [folder / "node_modules" / ".bin" / "tsc", *options]
    (folder / "wrong.mjs").write_text((folder / "find.mjs").read_text().replace("furtherLibraries", "otherLibraries"))
    right, wrong = (
        subprocess.run([*compiler, name], cwd=folder, capture_output=True, text=True, check=False)
        for name in ("find.mjs", "wrong.mjs")
    )
    assert right.returncode == 0, right.stdout
    assert "otherLibraries" in wrong.stdout


GO_PACKAGES = (
    *("protoc-gen-go", "protoc-gen-go-grpc", "golang-google-protobuf-dev", "golang-github-golang-protobuf-1-5-dev"),
    *("golang-google-grpc-dev", "golang-google-genproto-dev", "golang-golang-x-net-dev", "golang-golang-x-sys-dev"),
    "golang-golang-x-text-dev",
)


async def test_go_is_generated_compiles_and_calls(service: Service, tmp_path: Path) -> None:
    """The packages are unpacked, not installed: test_grpc_gateway.py needs others that they exclude."""
    await asyncio.to_thread(build_go_client, tmp_path)
    await service.create("vision")
    await service.report("vision", "numpy==1.26.4", "six==1.0")
    process = await asyncio.create_subprocess_exec(
        *(tmp_path / "client", service.address, "numpy"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode() == "vision +1\n"


def build_go_client(folder: Path) -> None:
    if shutil.which("go") is None:
        pytest.fail("Go is not installed: apt-get install golang-go")
    subprocess.run(["apt-get", "download", "-q", *GO_PACKAGES], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)
    generate("go", folder / "path" / "src", f"{folder}/unpacked/usr/bin")
    program = folder / "path" / "src" / "find"
    program.mkdir()
    shutil.copy(STUBS / "find.go", program)
    path = f"{folder}/path:{folder}/unpacked/usr/share/gocode"
    go_build(program, path, folder / "cache", "-o", folder / "client", ".")
