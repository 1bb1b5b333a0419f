"""Base images made on this machine."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from image_registry.builds.debian import DebianBase
from tests.fixtures.base_image import TestBase
from tests.fixtures.rootfs import unpack_image


def test_base_is_debians_own(debian_base: TestBase, tmp_path: Path) -> None:
    image = unpack_image(debian_base.layout, "", tmp_path / "rootfs")
    assert image.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() == (
        debian_base.python_version
    )
    assert image.run("pip", "--version").startswith("pip ")
    sources = image.run("cat", "/etc/apt/sources.list.d/debian.sources")
    assert {line for line in sources.splitlines() if line.startswith("URIs")} == {
        "URIs: http://deb.debian.org/debian",
        "URIs: http://deb.debian.org/debian-security",
    }
    for machines_own in ("etc/resolv.conf", "etc/hostname", "etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap"):
        assert not (image.path / machines_own).exists()


async def test_cancelled_bootstrap_leaves_nothing(tmp_path: Path) -> None:
    before = traces(tmp_path)
    begun = asyncio.Event()
    task = asyncio.create_task(DebianBase().make(tmp_path / "bases" / "base", lambda line: begun.set()))
    await asyncio.wait_for(begun.wait(), 30)
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traces(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts into the machine's own tree")
async def test_what_a_killed_bootstrap_had_mounted_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmdebstrap mounts /dev and /proc. Killed before it unmounts them, it leaves a folder that is removed as any."""
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "shared").write_text("somebody's")
    program = tmp_path / "programs" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
        trap "" TERM
        mkdir "$TMPDIR/dev" && mount --bind {tmp_path}/devices "$TMPDIR/dev" && ls "$TMPDIR/dev"
        while true; do sleep 0.1; done
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    before = traces(tmp_path)
    said: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(DebianBase().make(tmp_path / "bases" / "base", said.put_nowait))
    assert await asyncio.wait_for(said.get(), 30) == "shared", "it is mounted"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "devices" / "shared").read_text() == "somebody's"
    assert traces(tmp_path) == before


def traces(tmp_path: Path) -> tuple[list[Path], list[Path], list[str], list[str]]:
    """Files, temporary folders, mounts and processes that a bootstrap could leave."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(tmp_path).encode() in (folder / "cmdline").read_bytes():
                processes.append(folder.name)
    temporary = sorted(Path("/tmp").glob("mmdebstrap.*"))
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line]
    return list(tmp_path.glob("bases/.*")), temporary, mounts, processes
