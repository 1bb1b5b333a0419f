"""Built images under a real container engine, which is stricter about layers than `tar` is."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.integration.builds.conftest import Builder


@pytest.mark.system
async def test_image_runs_under_buildah(builder: Builder, package_index: PackageIndex, tmp_path: Path) -> None:
    package_index.add(
        *(make_wheel(f"lib{number}", files={"lib/ünï.txt": "x", f"{'d/' * 60}{number}": "x"}) for number in range(9)),
        make_wheel("large", files={"large/data.bin": os.urandom(2_000_000)}, scripts={"large": "large:__name__.upper"}),
    )
    await builder.build("large", *(f"lib{number}" for number in range(9)))
    storage = ["--root", f"{tmp_path}/storage", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]

    def buildah(*arguments: str) -> str:
        done = subprocess.run(["buildah", *storage, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    container = buildah("from", f"oci:{builder.root / 'image'}:v1").strip()
    try:
        program = "import sys, large, lib0, lib8; print(sys.prefix)"
        assert buildah("run", "--isolation", "chroot", container, "--", "python", "-c", program) == "/opt/managed\n"
    finally:
        buildah("rm", container)
