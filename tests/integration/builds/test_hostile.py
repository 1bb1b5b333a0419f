"""Requirements and wheels that want more than to be installed: refused, with nothing run, written outside or left."""

import asyncio
import io
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from image_registry.builds.plan import BuildFailed, FailureReason, Limits
from tests.fixtures.package_index import PackageIndex, make_wheel
from tests.integration.builds.conftest import Builder

_AT_ONCE = 4

HOSTILE_REQUIREMENTS = [
    "-e {evil}",
    "--editable={evil}",
    "{evil}",
    "./evil",
    "../../etc/passwd",
    "file://{evil}",
    "evil @ file://{evil}",
    "evil@file://{evil}",
    "evil @ git+file://{evil}",
    "git+file://{evil}#egg=evil",
    "evil @ {url}/evil-1.0.tar.gz",
    "{url}/evil-1.0-py3-none-any.whl",
    "-r {evil}/requirements.txt",
    "--requirement={evil}/requirements.txt",
    "-c {evil}/requirements.txt",
    "--index-url={url}",
    "-i {url}",
    "--extra-index-url={url}",
    "-f {evil}",
    "--find-links={evil}",
    "--no-binary=:all:",
    "lib --no-binary=:all:",
    "lib --config-settings=x=y",
    "lib --hash=sha256:" + "0" * 64,
    "lib\n-e {evil}",
    "lib\r-e {evil}",
    "lib\\\n-e {evil}",
    "lib\x00",
    "lib\u2028-e {evil}",
    "lib\x1b[31m",
    "lib; python_version > '3'",
    "lib ; extra == 'x' and os_name == 'posix'",
    "lib # -e {evil}",
    "lib[{evil}]",
    "lib=={evil}",
    "lib===1.0;-e {evil}",
    "\uff4c\uff49\uff42",
    "lib>=1.0,@file:{evil}",
    "$(touch {evil}/owned)",
    "`touch {evil}/owned`",
    "${{HOME}}",
    "",
    "a" * 5000,
]


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A project whose every way to be built leaves a mark."""
    folder = tmp_path / "evil"
    folder.mkdir()
    mark = f"open({str(folder / 'owned')!r}, 'w').close()\n"
    (folder / "setup.py").write_text(f"{mark}from setuptools import setup\nsetup(name='evil', version='1.0')\n")
    (folder / "requirements.txt").write_text("evil\n")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "evil"]):
        identity = ["-c", "user.name=evil", "-c", "user.email=evil@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *command], check=True)
    return folder


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_hostile_requirements(builder: Builder, package_index: PackageIndex, evil: Path) -> None:
    assert len(HOSTILE_REQUIREMENTS) >= 30
    package_index.add(make_wheel("lib"), make_wheel("evil"))
    before = listing(evil)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def offer(number: int, requirement: str) -> None:
        text = requirement.format(evil=evil, url=package_index.url)
        async with gate:
            with pytest.raises(BuildFailed) as caught:
                await builder.build("lib", text, name=f"image{number}")
        assert caught.value.reason is FailureReason.USER_ERROR, text
        assert caught.value.stage == "resolve"
        assert caught.value.message.isprintable(), text

    await asyncio.gather(*(offer(number, text) for number, text in enumerate(HOSTILE_REQUIREMENTS)))
    assert package_index.requests == []
    assert listing(evil) == before
    assert not builder.root.exists()
    assert list(builder.work.iterdir()) == []


@pytest.mark.parametrize(
    "dependency", ["evil @ file://{evil}", "evil @ git+file://{evil}", "evil @ {url}/../files/evil-1.0.tar.gz"]
)
async def test_libraries_that_require_addresses(
    builder: Builder, package_index: PackageIndex, evil: Path, dependency: str
) -> None:
    before = listing(evil)
    package_index.add(make_wheel("lib", requires=[dependency.format(evil=evil, url=package_index.url)]))
    failure = await builder.refused("lib")
    assert failure.reason is FailureReason.USER_ERROR
    assert listing(evil) == before
    assert package_index.downloads() == []


async def test_source_distributions_are_never_built(builder: Builder, package_index: PackageIndex, evil: Path) -> None:
    before = listing(evil)
    package_index.add(("evil-1.0.tar.gz", _sdist(evil)))
    failure = await builder.refused("evil")
    assert failure.reason is FailureReason.USER_ERROR
    assert "no usable wheels" in failure.message
    assert listing(evil) == before
    assert package_index.downloads() == []


def _sdist(project: Path) -> bytes:
    return subprocess.run(
        ["tar", "--create", "--gzip", f"--directory={project}", "--transform=s,^,evil-1.0/,", "setup.py"],
        check=True,
        capture_output=True,
    ).stdout


def member(path: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x", (2024, 1, 1, 0, 0, 0))
    info.filename, info.external_attr = path, mode << 16
    return info


def overlapping(count: int) -> bytes:
    """A ZIP bomb of the kind whose files share their bytes: one file's data, listed `count` times."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in zipfile_contents(make_wheel("lib")[1]):
            archive.writestr(name, content)
        archive.writestr("bomb0", bytes(10_000_000))
        bomb = archive.infolist()[-1]
        for number in range(1, count):
            copy = zipfile.ZipInfo(f"bomb{number}")
            copy.compress_type, copy.compress_size = bomb.compress_type, bomb.compress_size
            copy.file_size, copy.CRC, copy.header_offset = bomb.file_size, bomb.CRC, bomb.header_offset
            archive.filelist.append(copy)
    return output.getvalue()


def zipfile_contents(data: bytes) -> Iterable[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def understating(wheel: tuple[str, bytes]) -> tuple[str, bytes]:
    """A wheel whose list of files says of the last one, which isn't compressed, that it has 10 bytes."""
    name, data = wheel
    size = data.rindex(b"PK\1\2") + 24
    return name, data[:size] + (10).to_bytes(4, "little") + data[size + 4 :]


HOSTILE_WHEELS: dict[str, tuple[Callable[[], tuple[str, bytes]], str]] = {
    "climbs out": (lambda: make_wheel("lib", members=[(member("../../../outside.txt"), b"x")]), "leaves its folder"),
    "climbs out of data": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/data/../../../../outside.txt"), b"x")]),
        "leaves its folder",
    ),
    "absolute": (lambda: make_wheel("lib", members=[(member("/etc/cron.d/evil"), b"x")]), "not a relative path"),
    "backslashes": (lambda: make_wheel("lib", members=[(member("..\\outside.txt"), b"x")]), "not a relative path"),
    "link": (
        lambda: make_wheel("lib", members=[(member("lib/link", stat.S_IFLNK | 0o777), b"/etc")]),
        "link or a device",
    ),
    "device": (lambda: make_wheel("lib", members=[(member("lib/dev", stat.S_IFCHR | 0o666), b"")]), "link or a device"),
    "line break": (lambda: make_wheel("lib", members=[(member("lib/a\nb"), b"x")]), "control characters"),
    "escape sequence": (lambda: make_wheel("lib", members=[(member("lib/\x1b[2J"), b"x")]), "control characters"),
    "whiteout": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/data/bin/.wh.python"), b"")]),
        "remove files",
    ),
    "opaque whiteout": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/data/.wh..wh..opq"), b"")]),
        "remove files",
    ),
    "interpreter": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/scripts/python"), b"x")]),
        "image's own bin/python",
    ),
    "environment": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/data/pyvenv.cfg"), b"x")]),
        "own pyvenv.cfg",
    ),
    "folder for a file": (
        lambda: make_wheel("lib", members=[(member("lib/__init__.py/x"), b"x")]),
        "both a file and a folder",
    ),
    "folder as a file": (
        lambda: make_wheel("lib", members=[(member("lib-1.0.data/data/lib"), b"x")]),
        "image's own lib",
    ),
    "unknown place": (lambda: make_wheel("lib", members=[(member("lib-1.0.data/etc/x"), b"x")]), "no place"),
    "twice": (lambda: make_wheel("lib", members=[(member("lib/again"), b"x"), (member("lib/again"), b"y")]), "twice"),
    "long path": (lambda: make_wheel("lib", members=[(member("lib/" + "d/" * 600 + "x"), b"x")]), "too long"),
    "long name": (lambda: make_wheel("lib", members=[(member("lib/" + "x" * 250), b"x")]), "too long a name"),
    "record climbs out": (lambda: make_wheel("lib", record="../../../../etc/passwd,,\n"), "RECORD names"),
    "record is absolute": (lambda: make_wheel("lib", record="/etc/passwd,,\n"), "RECORD names"),
    "script climbs out": (lambda: make_wheel("lib", scripts={"../evil": "lib:main"}), "its command"),
    "script's code": (lambda: make_wheel("lib", scripts={"tool": "lib:main();__import__('os')"}), "its command"),
    "other name": (lambda: ("lib-1.0-py3-none-any.whl", make_wheel("other")[1]), "is not that of the wheel"),
    "other version": (lambda: ("lib-1.0-py3-none-any.whl", make_wheel("lib", "2.0")[1]), "is not that of the wheel"),
    "not a wheel": (lambda: ("lib-1.0-py3-none-any.whl", b"<html>not found</html>"), "not a ZIP archive"),
    "cut off": (lambda: ("lib-1.0-py3-none-any.whl", make_wheel("lib")[1][:-30]), "not a ZIP archive"),
    "bomb": (lambda: make_wheel("lib", files={"lib/zeros": bytes(60_000_000)}), "unpacks to more than"),
    "many files": (
        lambda: make_wheel("lib", files={f"lib/{number}": "" for number in range(3000)}),
        "more than 2000 files",
    ),
    "overlapping bomb": (lambda: ("lib-1.0-py3-none-any.whl", overlapping(3)), "overlap"),
    "understating bomb": (
        lambda: understating(make_wheel("lib", members=[(member("lib/bomb"), bytes(7_654_321))])),
        "two sizes",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE_WHEELS)
async def test_hostile_wheels(builder: Builder, package_index: PackageIndex, tmp_path: Path, kind: str) -> None:
    make, why = HOSTILE_WHEELS[kind]
    package_index.add(make())
    package_index.metadata = _LIB_METADATA
    before = listing(tmp_path)
    failure = await builder.refused("lib", limits=Limits(unpacked_bytes=50_000_000, files=2000))
    assert failure.reason is FailureReason.USER_ERROR
    assert "lib-1.0-py3-none-any.whl" in failure.message
    assert why in failure.message
    assert failure.message.isprintable()
    assert all(path.startswith("builder/") for path in listing(tmp_path) - before)
    assert not any("outside" in path for path in listing(tmp_path))
    assert list((builder.cache / "layers").iterdir()) == []


_LIB_METADATA = b"Metadata-Version: 2.1\nName: lib\nVersion: 1.0\n"


async def test_deflate_bomb_that_understates_is_stopped_early(builder: Builder, package_index: PackageIndex) -> None:
    name, wheel = make_wheel("lib", files={"lib/bomb": bytes(987_654_321 // 10)})
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        size = archive.getinfo("lib/bomb").file_size
    package_index.add((name, wheel.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))))
    failure = await builder.refused("lib")
    assert failure.reason is FailureReason.USER_ERROR
    assert "unpacks to more than the 1000 bytes that it admits" in failure.message


async def test_all_libraries_together_keep_to_the_limits(builder: Builder, package_index: PackageIndex) -> None:
    package_index.add(
        make_wheel("lib", files={"lib/a": bytes(600_000)}), make_wheel("dep", files={"dep/b": bytes(600_000)})
    )
    await builder.build("lib", name="small", limits=Limits(unpacked_bytes=1_000_000))
    failure = await builder.refused("lib", "dep", limits=Limits(unpacked_bytes=1_000_000))
    assert failure.reason is FailureReason.USER_ERROR
    assert "more than the 1000000 bytes" in failure.message
