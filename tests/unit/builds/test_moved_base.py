"""A base image that is rebuilt while an image on it is being built."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_registry.builds.faults import InvalidImageError, as_failure
from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.pipeline import Build
from image_registry.builds.plan import BuildFailed, BuildPlan, FailureReason, Stage
from tests.unit.builds.images import image_of, layer_of, write_blobs

PYTHON = {
    "usr/lib64/libc.so.6": "\0GNU C Library (GNU libc) stable release version 2.34.\n",
    "usr/local/bin/python3.11": "\0003.11.7\0",
}


class _Interruption:
    """A listener that does something when a stage begins."""

    def __init__(self, stage: Stage, action: Callable[[], object]) -> None:
        self._stage = stage
        self._action = action

    def stage_began(self, stage: Stage) -> None:
        if stage is self._stage:
            self._action()

    def stage_done(self, stage: Stage, seconds: float) -> None:
        pass

    def line(self, text: str) -> None:
        pass


@pytest.fixture
def base(tmp_path: Path) -> LayoutRepository:
    repository = LayoutRepository(tmp_path / "root" / "base", tmp_path / "root")
    rebuild(repository, "1")
    return repository


def rebuild(base: LayoutRepository, release: str) -> None:
    layer = layer_of({**PYTHON, "etc/release": release})
    manifest, config = image_of(layer)
    base.push("life of base", manifest, write_blobs(base.root.parent / "blobs", layer), config, ["latest"])


def build(base: LayoutRepository, action: Callable[[], object] = lambda: None) -> str:
    """Build an image on the base, with something happening before the push; return its base's digest."""
    folder = base.root.parent
    plan = BuildPlan(
        image_id="life of image",
        python_version="3.11",
        base=f"oci:{base.path}:latest",
        requirements=(),
        destination=f"oci:{base.root / 'image'}",
        destination_root=f"oci:{base.root}",
        tags=("latest",),
        cache_dir=folder / "cache",
        work_dir=folder / "work",
    )
    (folder / "own").mkdir(exist_ok=True)
    try:
        return Build(plan, folder / "own", _Interruption(Stage.PUSH, action)).run().base_digest
    except Exception as error:
        raise as_failure(error, plan.limits) from error


def test_a_base_that_was_rebuilt_before_the_push_is_a_reason_to_try_again(base: LayoutRepository) -> None:
    with pytest.raises(BuildFailed, match="has to begin again: the base image was rebuilt meanwhile") as caught:
        build(base, lambda: rebuild(base, "2"))
    assert caught.value.reason is FailureReason.RETRYABLE
    assert not (base.root / "image").exists()
    assert build(base) == base.tags()["latest"].digest, "the next attempt takes the new base"


def test_a_base_that_lacks_a_layer_is_no_reason_to_try_again(base: LayoutRepository) -> None:
    layer = base.manifest("latest", "amd64").layers[0]
    with pytest.raises(BuildFailed, match=r"The base image can't be used: layer .* is missing") as caught:
        build(base, base.blob_path(layer.digest).unlink)
    assert caught.value.reason is FailureReason.INTERNAL
    assert isinstance(caught.value.__cause__, InvalidImageError)
