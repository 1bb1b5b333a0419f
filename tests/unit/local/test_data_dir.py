"""The data folder: its parts, its lock, and what can be wrong with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from image_registry.host import StartError
from image_registry.local.data_dir import DataDir


def test_created_for_its_owner_alone(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "a" / "b").create()
    for folder in (data_dir.path, data_dir.postgres, data_dir.images, data_dir.cache, data_dir.logs, data_dir.bases):
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
    data_dir.create()


def test_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "data").create()
    with data_dir.lock() as after_a_crash:
        assert not after_a_crash
        with pytest.raises(StartError) as refused, data_dir.lock():
            pass
    assert f"in use by another `image-registry up` (process {os.getpid()})" in str(refused.value)
    with data_dir.lock() as after_a_crash:
        assert not after_a_crash


def test_lock_ends_with_a_killed_holder(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "data").create()
    script = (
        "import sys, signal, os; from pathlib import Path; from image_registry.local.data_dir import DataDir\n"
        "with DataDir(Path(sys.argv[1])).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(data_dir.path)], check=False)
    with data_dir.lock() as after_a_crash:
        assert after_a_crash


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartError, match=r"file is not a folder$") as refused:
            DataDir(path).create()
        assert "\n" not in str(refused.value)


def test_a_part_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(StartError, match=r"logs is not a folder$"):
        DataDir(tmp_path).create()


def test_not_writable() -> None:
    with pytest.raises(StartError, match=r"^the data folder /proc/x can't be created: "):
        DataDir(Path("/proc/x")).create()


def test_a_folder_that_is_there_and_cannot_be_written() -> None:
    with pytest.raises(
        StartError, match=r"^the data folder /proc can't be written: .* --data-dir \(IMAGE_REGISTRY_DATA"
    ):
        DataDir(Path("/proc")).create()


@pytest.mark.skipif(os.geteuid() != 0, reason="root makes the foreign folder")
def test_somebody_elses_folder(tmp_path: Path) -> None:
    """A plain user gets one sentence for root's folder."""
    data_dir = DataDir(Path(f"/var/tmp/{tmp_path.parent.name}-{tmp_path.name}")).create()
    script = (
        "import sys, os; from pathlib import Path\n"
        "from image_registry.host import StartError; from image_registry.local.data_dir import DataDir\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: DataDir(Path(sys.argv[1])).create()\n"
        "except StartError as error: print(error)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", script, data_dir.path], capture_output=True, text=True, check=True)
    finally:
        for part in data_dir.path.iterdir():
            part.rmdir()
        data_dir.path.rmdir()
    assert str(data_dir.path) in done.stdout
    assert done.stdout.count("\n") == 1
