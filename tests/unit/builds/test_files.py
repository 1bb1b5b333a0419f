"""Files that several processes share."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from image_registry.builds.cache import Cache
from image_registry.builds.faults import DamagedBlobError
from image_registry.builds.files import link_whole, locked, write_whole, written_whole
from image_registry.builds.oci.manifest import digest_of


def written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    running, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal running, most
        for _ in range(50):
            with locked(tmp_path / "lock"):
                with guard:
                    running += 1
                    most = max(most, running)
                with guard:
                    running -= 1
                (tmp_path / "lock").unlink()  # as the cache does when it's done with a key

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_lock_that_is_held_elsewhere(tmp_path: Path) -> None:
    program = (
        f"import fcntl, sys; f = open({str(tmp_path / 'lock')!r}, 'w'); fcntl.flock(f, 2); print(); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with locked(tmp_path / "lock", wait=False) as held:
            assert held is None
        holder.kill()
    with locked(tmp_path / "lock", wait=False) as held:
        assert held is not None


def test_lock_is_never_a_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        locked(tmp_path / "lock").__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")

    def write_half() -> None:
        with written_whole(tmp_path / "file") as part:
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_linking(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    for _ in range(2):
        link_whole(source, target)
        assert target.samefile(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_linking_to_another_file_system(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system on this machine")
    source = shared / f"test-{tmp_path.name}"
    source.write_bytes(b"content")
    try:
        link_whole(source, tmp_path / "target")
    finally:
        source.unlink()
    assert (tmp_path / "target").read_bytes() == b"content"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "own").mkdir()
    return Cache(tmp_path / "cache", tmp_path / "own", print)


def test_blob_is_fetched_once(cache: Cache, tmp_path: Path) -> None:
    fetched = []

    def fetch(path: Path) -> None:
        fetched.append(path)
        path.write_bytes(b"blob")

    digest = digest_of(b"blob")
    assert cache.blob(digest, fetch).read_bytes() == b"blob"
    (tmp_path / "other").mkdir()
    other = Cache(tmp_path / "cache", tmp_path / "other", print)
    assert other.blob(digest, fetch).read_bytes() == b"blob"
    assert len(fetched) == 1
    assert list((tmp_path / "cache" / "locks").iterdir()) == []


def test_blob_that_is_something_else_is_not_kept(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(DamagedBlobError):
        cache.blob(digest_of(b"blob"), lambda path: written(path, b"other"))
    assert list((tmp_path / "cache" / "blobs").iterdir()) == []
    assert list((tmp_path / "own").iterdir()) == []


def test_least_recently_used_blobs_go_first(cache: Cache, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        content = name.encode() * 100
        cache.blob(digest_of(content), partial(written, content=content))
    (tmp_path / "later").mkdir()
    Cache(tmp_path / "cache", tmp_path / "later", print).taken(digest_of(b"one" * 100))
    cache.shrink(800)
    left = {path.read_bytes()[:3] for path in (tmp_path / "cache" / "blobs").iterdir()}
    assert left == {b"one", b"thr"}
