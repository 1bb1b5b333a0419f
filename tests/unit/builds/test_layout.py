"""Repositories on disk: what a push and a deletion may touch."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import traceback
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from image_registry.builds.credentials import Keyring
from image_registry.builds.faults import ForeignRepositoryError, InvalidImageError, OwnerDeletedError
from image_registry.builds.oci.layout import Layout, LayoutRepository
from image_registry.builds.repositories.opening import open_home
from tests.unit.builds.images import image_of, layer_of, write_blobs


def push(repository: LayoutRepository, owner: str, content: str, blobs: Path, tags: tuple[str, ...] = ("v1",)) -> str:
    """Push an image that holds `content`; return its digest."""
    layer = layer_of({"content": content})
    manifest, config = image_of(layer)
    repository.push(owner, manifest, write_blobs(blobs, layer), config, tags)
    return manifest.digest


@pytest.fixture
def repository(tmp_path: Path) -> LayoutRepository:
    return LayoutRepository(tmp_path / "root" / "team" / "image", tmp_path / "root")


def test_pushed_image_can_be_read(repository: LayoutRepository, tmp_path: Path) -> None:
    digest = push(repository, "life", "one", tmp_path / "blobs", ("v1", "latest"))
    layout = Layout(repository.path)
    for reference in ("v1", "latest", digest, ""):
        assert layout.manifest(reference, "amd64").digest == digest
    with pytest.raises(InvalidImageError, match="no image 'v2'"):
        layout.manifest("v2", "amd64")
    assert json.loads((repository.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_blobs_are_shared_not_copied(repository: LayoutRepository, tmp_path: Path) -> None:
    push(repository, "life", "one", tmp_path / "blobs")
    (blob,) = (tmp_path / "blobs").iterdir()
    assert repository.blob_path(f"sha256:{blob.name}").samefile(blob)


def test_new_build_takes_the_place_of_the_old(repository: LayoutRepository, tmp_path: Path) -> None:
    push(repository, "life", "one", tmp_path / "blobs")
    digest = push(repository, "life", "two", tmp_path / "blobs")
    assert repository.tags()["v1"].digest == digest
    assert len(list((repository.path / "blobs" / "sha256").iterdir())) == 3


def test_other_tags_keep_their_images(repository: LayoutRepository, tmp_path: Path) -> None:
    old = push(repository, "life", "one", tmp_path / "blobs", ("v1", "latest"))
    new = push(repository, "life", "two", tmp_path / "blobs", ("v2", "latest"))
    assert {tag: d.digest for tag, d in repository.tags().items()} == {"v1": old, "v2": new, "latest": new}
    assert Layout(repository.path).manifest("v1", "amd64").digest == old


def test_damaged_blob_of_a_repository_is_replaced(repository: LayoutRepository, tmp_path: Path) -> None:
    push(repository, "life", "one", tmp_path / "blobs")
    (blob,) = (tmp_path / "blobs").iterdir()
    damaged = repository.blob_path(f"sha256:{blob.name}")
    damaged.unlink()
    damaged.write_bytes(b"damaged")
    push(repository, "life", "one", tmp_path / "blobs")
    assert damaged.read_bytes() == blob.read_bytes()


def test_failed_push_leaves_nothing(repository: LayoutRepository, tmp_path: Path) -> None:
    layer = layer_of({"content": "x"})
    manifest, config = image_of(layer)
    with pytest.raises(FileNotFoundError):
        repository.push("life", manifest, [(layer[0], tmp_path / "missing")], config, ["v1"])
    assert not (tmp_path / "root" / "team").exists()


def test_failed_push_keeps_the_last_image(repository: LayoutRepository, tmp_path: Path) -> None:
    digest = push(repository, "life", "one", tmp_path / "blobs")
    layer = layer_of({"content": "x"})
    manifest, config = image_of(layer)
    with pytest.raises(FileNotFoundError):
        repository.push("life", manifest, [(layer[0], tmp_path / "missing")], config, ["v1"])
    assert Layout(repository.path).manifest("v1", "amd64").digest == digest


def test_deletion_removes_empty_parents_up_to_the_root(repository: LayoutRepository, tmp_path: Path) -> None:
    push(repository, "life", "one", tmp_path / "blobs")
    other = LayoutRepository(tmp_path / "root" / "team" / "other", tmp_path / "root")
    push(other, "other", "two", tmp_path / "blobs")
    assert repository.delete("life") is True
    assert other.path.exists()
    assert other.delete("other") is True
    assert not (tmp_path / "root" / "team").exists()
    assert list((tmp_path / "root" / ".trash").iterdir()) == []
    assert (tmp_path / "root").exists()


def test_unfinished_push_of_a_killed_builder_is_deleted(repository: LayoutRepository) -> None:
    (repository.path / "blobs" / "sha256").mkdir(parents=True)
    (repository.path / "blobs" / "sha256" / ".part-1234").write_bytes(b"half")
    assert repository.delete("anybody") is True
    assert not repository.path.exists()


def test_unfinished_push_of_a_killed_builder_is_taken_over(repository: LayoutRepository, tmp_path: Path) -> None:
    (repository.path / "blobs" / "sha256").mkdir(parents=True)
    (repository.path / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"left")
    (repository.path / "blobs" / "sha256" / ".part-1234").write_bytes(b"half")
    push(repository, "life", "one", tmp_path / "blobs")
    assert len(list((repository.path / "blobs" / "sha256").iterdir())) == 3


@pytest.mark.parametrize(
    "path", ["", ".", "../other", "team/../../other", ".trash/x", "team/.hidden", "/etc", "link/image"]
)
def test_nothing_outside_the_root_is_a_repository(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="not a repository within"):
        LayoutRepository(root / path, root)


@pytest.mark.parametrize("destination", ["registry.example/x", "oci:relative", "oci:/root/../x", "oci:/elsewhere/x"])
def test_destinations_that_are_no_repository(destination: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_home("oci:/root", Keyring()).delete(destination, "life")


def test_deleting_what_never_was(tmp_path: Path) -> None:
    assert open_home(f"oci:{tmp_path}/root", Keyring()).delete(f"oci:{tmp_path}/root/team/image", "life") is False


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"manifests": 7}', '{"manifests": [{"digest": "sha256:../../x"}]}']
)
def test_layouts_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(InvalidImageError):
        Layout(tmp_path).manifest("v1", "amd64")


class OwnerRules(RuleBasedStateMachine):
    """Lives of one name push and are deleted in any order; each sees only what is its own."""

    owners = st.sampled_from(["first life", "second life", "third life"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.owner: str | None = None
        self.digest = ""
        self.deleted: set[str] = set()
        self.numbers = itertools.count()

    @initialize()
    def open(self) -> None:
        self.repository = LayoutRepository(self.folder / "root" / "image", self.folder / "root")

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(owner=owners)
    def push(self, owner: str) -> None:
        content = f"{owner} {next(self.numbers)}"
        if owner in self.deleted:
            with pytest.raises(OwnerDeletedError):
                push(self.repository, owner, content, self.folder / "blobs")
        elif self.owner not in {None, owner}:
            with pytest.raises(ForeignRepositoryError):
                push(self.repository, owner, content, self.folder / "blobs")
        else:
            self.digest = push(self.repository, owner, content, self.folder / "blobs")
            self.owner = owner

    @rule(owner=owners)
    def delete(self, owner: str) -> None:
        assert self.repository.delete(owner) is (self.owner == owner)
        self.deleted.add(owner)
        if self.owner == owner:
            self.owner = None

    @invariant()
    def only_the_owners_image_is_there(self) -> None:
        if self.owner is None:
            assert not self.repository.path.exists()
        else:
            assert self.repository.owner == self.owner
            assert Layout(self.repository.path).manifest("v1", "amd64").digest == self.digest


TestOwnerRules = OwnerRules.TestCase
TestOwnerRules.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_pushes_and_deletions_at_once(tmp_path: Path) -> None:
    """Whatever the order, each repository ends either absent or whole."""
    root = tmp_path / "root"
    faults: list[BaseException] = []

    def work(number: int) -> None:
        repository = LayoutRepository(root / f"team{number % 2}" / "image", root)
        try:
            for turn in range(15):
                owner = f"life {number % 2} {turn}"
                with contextlib.suppress(ForeignRepositoryError, OwnerDeletedError):
                    push(repository, owner, f"{number} {turn}", tmp_path / f"blobs{number}")
                repository.delete(owner)
        except BaseException as error:  # noqa: BLE001 (raised again in the test's own thread)
            faults.append(error)
            traceback.print_exc()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    left = [path for path in root.rglob("*") if path.is_file() and ".deleted" not in path.parts]
    assert left == []
    assert {path.name for path in root.iterdir()} <= {".deleted", ".trash"}


def test_old_notes_of_deletions_are_forgotten(repository: LayoutRepository) -> None:
    repository.delete("old life")
    (note,) = (repository.root / ".deleted").iterdir()
    os.utime(note, (0, 0))
    repository.delete("new life")
    assert len(list((repository.root / ".deleted").iterdir())) == 1
