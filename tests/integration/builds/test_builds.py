"""What builds do with libraries of every kind: made on the spot, offered by an index on loopback."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from image_registry.builds.credentials import Keyring
from image_registry.builds.oci.layout import Layout
from image_registry.builds.oci.manifest import digest_of_file
from image_registry.builds.plan import FailureReason
from image_registry.builds.plan import PackageIndex as IndexSettings
from image_registry.builds.repositories.opening import open_home
from tests.fixtures.certificates import Authority
from tests.fixtures.package_index import PackageIndex, make_wheel, run_package_index
from tests.fixtures.rootfs import unpack_image
from tests.integration.builds.conftest import Builder, until
from tests.integration.builds.test_platforms import BASES, write_base


async def test_wheel_with_all_kinds_of_files(builder: Builder, package_index: PackageIndex, tmp_path: Path) -> None:
    data = {
        "tool-1.0.data/scripts/shell-tool": "#!/bin/sh\necho shell tool\n",
        "tool-1.0.data/scripts/python-tool": "#!python\nimport sys; print(sys.executable)\n",
        "tool-1.0.data/data/share/tool/data.txt": "shared\n",
        "tool-1.0.data/data/lib64/tool.txt": "lib64\n",
        "tool-1.0.data/headers/tool.h": "#define TOOL\n",
        "tool-1.0.data/purelib/pure.py": "value = 'pure'\n",
        "tool-1.0.data/platlib/plat.py": "value = 'plat'\n",
        f"tool/{'deep/' * 30}file.txt": "far down\n",
        "tool/ünïcode.txt": "ü\n",
        "tool/empty.txt": "",
        "tool/large.txt": "0123456789" * 1_000_000,
        "tool/main.py": "class App:\n    @staticmethod\n    def run():\n        print('ran')\n",
    }
    package_index.add(make_wheel("tool", files=data, scripts={"tool": "tool.main:App.run"}))
    result = await builder.build("tool")
    image = unpack_image(builder.root / "image", "v1", tmp_path / "rootfs")

    assert image.run("tool") == "ran\n"
    assert image.run("shell-tool") == "shell tool\n"
    assert image.run("python-tool") == "/opt/managed/bin/python\n"
    assert image.run("python", "-c", "import pure, plat; print(pure.value, plat.value)") == "pure plat\n"
    assert image.run("cat", "/opt/managed/share/tool/data.txt", "/opt/managed/lib/tool.txt") == "shared\nlib64\n"
    assert image.run("cat", f"/opt/managed/include/site/python{builder.base.python_version}/tool/tool.h")
    verify = (
        "import base64, hashlib, importlib.metadata as m, sys\n"
        "for f in m.files('tool'):\n"
        "    data = f.locate().read_bytes()\n"
        "    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()\n"
        "    assert f.hash is None or f.hash.value == digest and f.size == len(data), f\n"
        "print(len(m.files('tool')))"
    )
    assert image.run("python", "-c", verify) == f"{len(data) + 1 + 4 + 2}\n"
    assert image.run("pip", "uninstall", "--yes", "tool").endswith("Successfully uninstalled tool-1.0\n")
    assert not list((tmp_path / "rootfs/opt/managed").rglob("*tool*"))
    assert [(library.name, library.hashes[0][:7]) for library in result.lock.libraries] == [("tool", "sha256:")]


async def test_no_layer_has_a_path_twice(builder: Builder, package_index: PackageIndex, tmp_path: Path) -> None:
    """Container engines refuse such layers; libraries with common files are common, though."""
    package_index.add(
        make_wheel("a", files={"shared/a.py": "", "tests/__init__.py": "owner = 'a'"}),
        make_wheel("b", files={"shared/b.py": "", "tests/__init__.py": "owner = 'b'"}),
        make_wheel("c", files={"shared/c.py": ""}),
    )
    await builder.build("a", "b", "c")
    layout = Layout(builder.root / "image")
    layers = layout.manifest("v1", "amd64").layers[1:]
    assert len(layers) == 3
    for layer in layers:
        with tarfile.open(layout.blob_path(layer.digest)) as archive:
            names = archive.getnames()
        assert len(names) == len(set(names))
    image = unpack_image(builder.root / "image", "v1", tmp_path / "rootfs")
    assert image.run("python", "-c", "import shared.a, shared.b, shared.c, tests; print(tests.owner)") == "b\n"


async def test_no_requirements_give_the_base_under_a_new_name(builder: Builder) -> None:
    result = await builder.build()
    assert result.digest == result.base_digest
    assert {"pip", "setuptools", "wheel"} == {library.name for library in result.libraries}
    assert result.lock.libraries == ()


async def test_requirements_that_the_base_meets_add_nothing(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    system = await builder.build("lib", name="system")
    result = await builder.build("lib>=1", name="user", base=f"oci:{builder.root / 'system'}:v1")
    assert result.digest == system.digest
    assert result.libraries == system.libraries
    assert result.lock.libraries == ()


async def test_image_on_a_system_image_keeps_its_libraries(
    builder: Builder, package_index: PackageIndex, tmp_path: Path
) -> None:
    package_index.add(
        make_wheel("platform_core", "1.0", requires=["shared<2"]),
        make_wheel("shared", "1.0"),
        make_wheel("shared", "2.0"),
        make_wheel("mine", "1.0", requires=["shared", "platform-core"]),
    )
    system = await builder.build("platform-core", name="system")
    package_index.requests.clear()
    base = f"oci:{builder.root / 'system'}:v1"
    result = await builder.build("mine", name="user", base=base)

    assert package_index.downloads() == ["mine-1.0-py3-none-any.whl"]
    assert result.base_digest == system.digest
    assert [library.name for library in result.lock.libraries] == ["mine"]
    recorded = {library.name: library.version for library in result.libraries}
    assert recorded == {**{lib.name: lib.version for lib in system.libraries}, "mine": "1.0"}
    image = unpack_image(builder.root / "user", "v1", tmp_path / "rootfs")
    assert image.run("python", "-c", "import mine, shared, platform_core; print('ok')") == "ok\n"
    assert {entry["name"] for entry in json.loads(image.run("pip", "list", "--format", "json"))} == recorded.keys()


async def test_conflict_with_a_system_image_is_explained(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("shared", "1.0"), make_wheel("shared", "2.0"))
    await builder.build("shared==1.0", name="system")
    failure = await builder.refused("shared>=2", name="user", base=f"oci:{builder.root / 'system'}:v1")
    assert failure.reason is FailureReason.USER_ERROR
    assert "The base image fixes shared 1.0." in failure.message


async def test_base_without_the_python(builder: Builder) -> None:
    failure = await builder.refused("six", python_version="3.9")
    assert failure.reason is FailureReason.INTERNAL
    assert f"no Python 3.9: it has {builder.base.python_version}" in failure.message


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("oci:/nowhere:latest", "not an OCI image layout"),
        ("oci:relative:latest", "not an absolute path"),
        ("UPPER/case", "not an image reference"),
    ],
)
async def test_base_that_cannot_be_read(builder: Builder, base: str, problem: str) -> None:
    failure = await builder.refused("six", base=base)
    assert failure.reason is FailureReason.INTERNAL
    assert problem in failure.message


async def test_lock_is_kept_while_it_fits(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib", "1.0"))
    first = await builder.build("lib")
    package_index.add(make_wheel("lib", "2.0"))
    package_index.requests.clear()

    again = await builder.build("lib", lock=first.lock)
    assert again.digest == first.digest
    assert package_index.requests == []

    changed = await builder.build("lib>0", lock=first.lock)
    assert [library.version for library in changed.lock.libraries] == ["2.0"]


async def test_new_base_under_the_same_libraries(builder: Builder, package_index: PackageIndex, tmp_path: Path) -> None:
    """What a platform update of unchanged libraries costs: manifest work, and no question to anybody."""
    package_index.add(make_wheel("lib"), make_wheel("dep"))
    write_base(tmp_path / "base", {**BASES["glibc"]("3.11"), "etc/release": "1"})
    write_base(tmp_path / "newer", {**BASES["glibc"]("3.11"), "etc/release": "2"})
    own = {"python_version": "3.11", "base": f"oci:{tmp_path}/base"}
    first = await builder.build("lib", "dep", **own)
    old = Layout(builder.root / "image").manifest("v1", "amd64")
    package_index.requests.clear()

    second = await builder.build(
        "lib", "dep", **{**own, "base": f"oci:{tmp_path}/newer"}, lock=first.lock, tags=("v2", "latest")
    )
    new = Layout(builder.root / "image").manifest("v2", "amd64")
    assert package_index.requests == []
    assert second.base_digest != first.base_digest
    assert second.lock == first.lock
    assert new.layers[:2] == old.layers[:2]
    assert new.layers[2] != old.layers[2]
    assert new.layers[3:] == old.layers[3:]
    assert Layout(builder.root / "image").manifest("v1", "amd64") == old


async def test_lock_is_not_kept_when_the_base_fixes_other_libraries(
    builder: Builder, package_index: PackageIndex
) -> None:
    package_index.add(make_wheel("lib", requires=["shared"]), make_wheel("shared", "1.0"), make_wheel("shared", "2.0"))
    await builder.build("shared==1.0", name="system")
    base = f"oci:{builder.root / 'system'}:latest"
    first = await builder.build("lib", name="user", base=base)
    await builder.build("shared==2.0", name="system")
    second = await builder.build("lib", name="user", base=base, lock=first.lock)
    assert {library.name: library.version for library in second.libraries}["shared"] == "2.0"
    assert second.lock.context != first.lock.context


async def test_lock_is_kept_without_a_cache(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib", "1.0"))
    first = await builder.build("lib")
    package_index.add(make_wheel("lib", "2.0"))
    elsewhere = builder.elsewhere()

    again = await elsewhere.build("lib", lock=first.lock)
    assert again.digest == first.digest

    del package_index.files["lib-1.0-py3-none-any.whl"]
    third = builder.elsewhere("third")
    newer = await third.build("lib", lock=first.lock)
    assert [library.version for library in newer.lock.libraries] == ["2.0"]
    assert "can't be had any more" in third.log


async def test_layer_that_turns_out_to_be_damaged_under_a_kept_lock_is_made_again(
    builder: Builder, package_index: PackageIndex
) -> None:
    """Its wheel isn't cached any more, and the lock that was kept for the layer's sake doesn't say where to get it."""
    filename, wheel = make_wheel("lib")
    package_index.add((filename, wheel))
    first = await builder.build("lib")
    (builder.cache / "blobs" / hashlib.sha256(wheel).hexdigest()).unlink()
    notes = [json.loads(json.loads(p.read_text())["layer"]) for p in (builder.cache / "layers").iterdir()]
    (digest,) = (note["blob"]["digest"] for note in notes if ["lib", "1.0"] in note["libraries"])
    damaged = builder.cache / "blobs" / digest.removeprefix("sha256:")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.unlink()  # the repository has the same file
    damaged.write_bytes(content)

    failure = await builder.refused("lib", lock=first.lock)
    assert failure.reason is FailureReason.RETRYABLE
    assert failure.message == f"The cached layer of {filename} is damaged or was removed meanwhile."
    again = await builder.build("lib", lock=first.lock)
    assert (again.digest, again.lock) == (first.digest, first.lock)
    assert digest_of_file(damaged) == digest


async def test_sizes_that_the_index_keeps_to_itself_change_nothing(
    builder: Builder, package_index: PackageIndex
) -> None:
    package_index.add(make_wheel("lib"), make_wheel("large", files={"large.bin": bytes(range(256)) * 10_000}))
    first = await builder.build("lib", "large")
    package_index.gives_sizes = False
    second = await builder.elsewhere().build("lib", "large")
    assert (first.digest, first.lock) == (second.digest, second.lock)


async def test_damaged_cache_is_noticed_and_mended(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("one"), make_wheel("two"))
    first = await builder.build("one", "two")
    open_home(f"oci:{builder.root}", Keyring()).delete(f"oci:{builder.root / 'image'}", "life of image")
    blobs = list((builder.cache / "blobs").iterdir())
    for path in blobs:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    for note in list((builder.cache / "layers").iterdir())[:1]:
        note.chmod(0o644)
        note.write_text(note.read_text().replace("diff_id", "diff_ID"))

    second = await builder.build("one", "two", name="again")
    assert second.digest == first.digest
    assert "damaged" in builder.log
    unchanged = [path for path in blobs if f"sha256:{path.name}" == digest_of_file(path)]
    assert len(unchanged) == len(blobs)


async def test_cache_keeps_to_its_limit(builder: Builder, package_index: PackageIndex) -> None:
    for number in range(5):
        package_index.add(make_wheel(f"lib{number}", files={"data.bin": bytes([number]) * 50_000}))
    first = await builder.build("lib0", cache_limit_bytes=0)
    assert not list((builder.cache / "blobs").iterdir())
    assert not list((builder.cache / "layers").iterdir())
    assert (await builder.build("lib0", name="second")).digest == first.digest
    kept = sum(path.stat().st_size for path in (builder.cache / "blobs").iterdir())
    await builder.build("lib1", name="third", cache_limit_bytes=kept)
    assert 0 < sum(path.stat().st_size for path in (builder.cache / "blobs").iterdir()) <= kept


async def test_cache_of_the_indexs_answers_is_emptied_too(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib"))
    await builder.build("lib")
    assert any(path.is_file() for path in (builder.cache / "index").rglob("*.rkyv"))
    await builder.build("lib", name="second", cache_limit_bytes=20)
    assert not list((builder.cache / "index").rglob("*.rkyv"))


async def test_private_index_credentials_stay_private(builder: Builder, package_index: PackageIndex) -> None:
    package_index.user, package_index.password = "deployer", "s3cret/p@ss"
    package_index.add(make_wheel("private"))
    index = dataclasses.replace(builder.index, url=package_index.url.replace("//", "//deployer:s3cret%2Fp%40ss@"))
    package_index.stalled.add("/files/private-1.0-py3-none-any.whl")
    stalled = asyncio.create_task(builder.build("private", index=index))
    await until(package_index.downloads)
    assert not any(b"s3cret" in line or b"deployer" in line for line in _command_lines())
    stalled.cancel()
    await asyncio.wait([stalled])
    package_index.stalled.clear()

    await builder.build("private", index=index)
    failure = await builder.refused("missing", index=index, name="other")
    told = f"{builder.log}\n{failure.message}"
    for path in builder.folder.rglob("*"):
        if path.is_file():
            told += path.read_bytes().decode("latin-1")
    assert "s3cret" not in told
    assert "deployer" not in told


def _command_lines() -> list[bytes]:
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended
            lines.append((folder / "cmdline").read_bytes())
    return lines


async def test_wrong_credentials(builder: Builder, package_index: PackageIndex) -> None:
    package_index.user, package_index.password = "deployer", "right"
    package_index.add(make_wheel("private"))
    index = dataclasses.replace(builder.index, url=package_index.url.replace("//", "//deployer:wrong@"))
    failure = await builder.refused("private", index=index)
    assert failure.reason is FailureReason.INTERNAL
    assert "refused the credentials" in failure.message
    assert "wrong" not in failure.message


async def test_passing_faults_of_the_index_are_sat_out(builder: Builder, package_index: PackageIndex) -> None:
    name, wheel = make_wheel("lib")
    package_index.add((name, wheel))
    package_index.faults[f"/files/{name}"] = [503, 429]
    await builder.build("lib")
    assert package_index.downloads().count(name) == 3


async def test_index_that_is_away_is_retryable(builder: Builder) -> None:
    index = dataclasses.replace(builder.index, url="http://127.0.0.1:9/simple")
    failure = await builder.refused("lib", index=index)
    assert failure.reason is FailureReason.RETRYABLE
    assert "can't be reached" in failure.message


async def test_file_that_differs_from_its_hash(builder: Builder, package_index: PackageIndex) -> None:
    package_index.gives_sizes = False
    package_index.damage = b"\0"
    package_index.add(make_wheel("lib"))
    failure = await builder.refused("lib")
    assert failure.reason is FailureReason.RETRYABLE
    assert "another file" in failure.message
    assert not list((builder.cache / "blobs").iterdir())


async def test_file_that_is_larger_than_listed(builder: Builder, package_index: PackageIndex) -> None:
    package_index.damage = b"\0"
    package_index.add(make_wheel("lib"))
    failure = await builder.refused("lib")
    assert failure.reason is FailureReason.INTERNAL
    assert "more than the expected" in failure.message


async def test_digest_depends_on_neither_user_nor_surroundings(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(make_wheel("lib", files={"lib/ü.txt": "ü"}, scripts={"tool": "lib:name"}), make_wheel("dep"))
    expected = await builder.build("lib", "dep")
    elsewhere = builder.elsewhere("another folder")
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *("unshare", "--user", "--map-user=4711", "--map-group=4712"),
            *("env", "-i", f"PATH={os.defpath}", "TZ=Pacific/Kiritimati", "LC_ALL=C", "HOME=/", "PYTHONHASHSEED=7"),
            *(sys.executable, "-m", "image_registry.builds.child"),
        ],
        input=f"{elsewhere.plan('dep', 'lib').to_json()}\n",
        capture_output=True,
        text=True,
        check=True,
        umask=0o077,
    )
    result = json.loads(done.stdout.splitlines()[-1])["result"]
    assert result["digest"] == expected.digest
    assert result["lock"] == json.loads(expected.to_json())["lock"]


async def test_index_with_a_certificate_of_its_own(builder: Builder, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    with run_package_index(*authority.issue("index")) as index:
        index.add(make_wheel("lib"))
        own = IndexSettings(url=index.url, ca_bundle=authority.certificate)
        result = await builder.build("lib", index=own)
        assert [library.name for library in result.lock.libraries] == ["lib"]
        failure = await builder.elsewhere().refused("lib", index=dataclasses.replace(own, ca_bundle=None))
    assert failure.reason is FailureReason.RETRYABLE
