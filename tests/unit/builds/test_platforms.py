import pytest

from image_registry.builds.plan import BuildFailed
from image_registry.builds.platforms import Target, checked_target

BOOKWORM = Target("3.11.2", "amd64", "glibc", (2, 36))
ALPINE = Target("3.12.1", "arm64", "musl", (1, 2))


@pytest.mark.parametrize(
    ("target", "platform"),
    [
        (BOOKWORM, "x86_64-manylinux_2_36"),
        (Target("3.11.2", "amd64", "glibc", (2, 41)), "x86_64-manylinux_2_40"),
        (Target("3.11.2", "arm64", "glibc", (2, 27)), "aarch64-manylinux_2_17"),
        (ALPINE, "aarch64-unknown-linux-musl"),
    ],
)
def test_platform_for_the_resolver(target: Target, platform: str) -> None:
    assert target.uv_platform == platform


@pytest.mark.parametrize(
    ("target", "offered", "best"),
    [
        (BOOKWORM, ["lib-1-py3-none-any.whl", "lib-1-cp311-cp311-manylinux_2_17_x86_64.whl"], 1),
        (BOOKWORM, ["lib-1-cp311-abi3-manylinux_2_34_x86_64.whl", "lib-1-cp311-cp311-manylinux1_x86_64.whl"], 1),
        (BOOKWORM, ["lib-1-cp39-abi3-manylinux2014_x86_64.whl", "lib-1-cp39-abi3-manylinux_2_28_x86_64.whl"], 1),
        (BOOKWORM, ["lib-1-py3-none-any.whl", "lib-1-2-py3-none-any.whl", "lib-1-10-py3-none-any.whl"], 2),
        (BOOKWORM, ["lib-1-cp311-cp311-manylinux_2_38_x86_64.whl"], None),
        (BOOKWORM, ["lib-1-cp311-cp311-musllinux_1_1_x86_64.whl"], None),
        (BOOKWORM, ["lib-1-cp311-cp311-manylinux_2_17_aarch64.whl"], None),
        (BOOKWORM, ["lib-1-cp312-cp312-manylinux_2_17_x86_64.whl", "nonsense.whl", "lib-1.tar.gz"], None),
        (BOOKWORM, ["lib-1-cp311-cp311-win_amd64.whl", "lib-1-cp311-cp311-macosx_11_0_x86_64.whl"], None),
        (ALPINE, ["lib-1-cp312-cp312-musllinux_1_1_aarch64.whl", "lib-1-cp312-cp312-musllinux_1_2_aarch64.whl"], 1),
        (ALPINE, ["lib-1-cp312-cp312-manylinux_2_17_aarch64.whl"], None),
        (ALPINE, ["lib-1-py2.py3-none-any.whl"], 0),
    ],
)
def test_best_wheel(target: Target, offered: list[str], best: int | None) -> None:
    assert target.best_wheel(offered) == (None if best is None else offered[best])


@pytest.mark.parametrize(
    ("libc", "problem"),
    [(None, "no C library"), (("glibc", (2, 12)), "glibc 2.12 is older than 2.17"), (("musl", (1, 1)), "musl 1.1")],
)
def test_bases_that_no_wheel_fits(libc: tuple[str, tuple[int, int]] | None, problem: str) -> None:
    with pytest.raises(BuildFailed, match=problem):
        checked_target("3.11.2", "amd64", libc)
