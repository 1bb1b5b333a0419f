from pathlib import Path
from typing import Any

import pytest

from image_registry.builds.plan import (
    BuildPlan,
    BuildResult,
    Library,
    Limits,
    Lock,
    LockedLibrary,
    PackageIndex,
    RegistryAccess,
    Stage,
)

LOCK = Lock(
    context="c0ffee",
    libraries=(
        LockedLibrary(name="six", version="1.16.0", filename="six-1.16.0-py3-none-any.whl", sha256="0" * 64, size=9),
    ),
)


def plan(**changes: Any) -> BuildPlan:
    values: dict[str, Any] = {
        "image_id": "life",
        "python_version": "3.11",
        "base": "docker.io/library/python:3.11-slim",
        "requirements": ("numpy>=1", "six"),
        "destination": "oci:/data/repositories/image",
        "destination_root": "oci:/data/repositories",
        "tags": ("v1", "latest"),
        "cache_dir": Path("/data/cache"),
        "work_dir": Path("/data/work"),
    }
    return BuildPlan(**{**values, **changes})


def test_plans_survive_json() -> None:
    for one in (
        plan(),
        plan(
            platform="linux/arm64",
            index=PackageIndex(url="https://u:p@h/simple", extra_urls=("http://x",), ca_bundle=Path("/ca.pem")),
            registries=(
                RegistryAccess(
                    host="r:5000",
                    username="u",
                    password="p",
                    endpoint="http://r:5000",
                    ca_bundle=Path("/r.pem"),
                    expires=1.0,
                ),
            ),
            limits=Limits(seconds=1.5, files=3),
            lock=LOCK,
        ),
    ):
        assert BuildPlan.from_json(one.to_json()) == one


def test_results_survive_json() -> None:
    result = BuildResult(
        digest="sha256:1",
        base_digest="sha256:2",
        python_version="3.11.2",
        libraries=(Library(name="six", version="1.16.0"),),
        lock=LOCK,
        stages=((Stage.RESOLVE, 0.5),),
    )
    assert BuildResult.from_json(result.to_json()) == result
    assert LOCK.libraries[0].hashes == (f"sha256:{'0' * 64}",)


def test_secrets_do_not_show() -> None:
    index = PackageIndex(url="https://user:hidden@host/simple", extra_urls=("https://user:hidden@other",))
    one = plan(index=index, registries=(RegistryAccess(host="r", username="u", password="hidden"),))
    assert "hidden" not in repr(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": ""},
        {"python_version": "3"},
        {"python_version": "3.11.2"},
        {"tags": ()},
        {"tags": ("no/slash",)},
        {"platform": "windows/amd64"},
        {"platform": "linux/s390x"},
        {"cache_dir": Path("relative")},
        {"index": PackageIndex(url="file:///etc")},
        {"index": PackageIndex(extra_urls=("-r x",))},
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        plan(**changes)
