"""How a Debian base is made, up to the point where mmdebstrap takes over."""

import sys
from pathlib import Path

import pytest

from image_registry.builds.debian import DebianBase, debian_python_version
from image_registry.host import StartError

BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'
DEB822 = """\
# A comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
# within a paragraph
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://other.example/apt
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/other.gpg

Types: deb
URIs: https://other.example/node
Suites: nodistro
Components: main
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb http://old.example/debian bookworm main non-free
deb-src http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] https://docker.example/debian bookworm stable
"""


def base_on(etc: Path, *, release: str, sources: dict[str, str]) -> DebianBase:
    (etc / "apt" / "sources.list.d").mkdir(parents=True)
    (etc / "os-release").write_text(release)
    for name, text in sources.items():
        (etc / "apt" / name).write_text(text)
    return DebianBase(etc)


def test_the_machines_own_sources_are_used(tmp_path: Path) -> None:
    sources = {"sources.list.d/debian.sources": DEB822, "sources.list": ONE_LINE}
    base = base_on(tmp_path, release=BOOKWORM, sources=sources)
    assert (base.title, base.python_version) == ("Debian 12 (bookworm)", "3.11")
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert base.sources() == [
        "deb http://old.example/debian bookworm main non-free",
        f"deb {key} http://mirror.example/debian bookworm main contrib",
        f"deb {key} http://mirror.example/debian bookworm-updates main contrib",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


@pytest.mark.parametrize("release", ["ID=ubuntu\nVERSION_CODENAME=noble\n", "ID=debian\nVERSION_CODENAME=duke\n", ""])
def test_other_systems_get_the_current_debian(tmp_path: Path, release: str) -> None:
    base = base_on(tmp_path, release=release, sources={"sources.list": ONE_LINE})
    assert (base.title, base.python_version) == ("Debian 13 (trixie)", "3.13")
    assert {line.split()[2] for line in base.sources()} == {
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    }


def test_pythons_of_the_releases() -> None:
    assert [debian_python_version(suite) for suite in ("bullseye", "bookworm", "trixie")] == ["3.9", "3.11", "3.13"]


async def test_without_mmdebstrap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install mmdebstrap" in (DebianBase().obstacle() or "")
    with pytest.raises(StartError, match="apt-get install mmdebstrap"):
        await DebianBase().make(tmp_path / "base", print)
    assert not (tmp_path / "base").exists()


async def test_failure_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho I: working >&2\necho 'E: the mirror is away' >&2\nexit 25\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    lines: list[str] = []
    with pytest.raises(StartError, match=r"^mmdebstrap ended with code 25: the mirror is away$"):
        await DebianBase().make(tmp_path / "bases" / "base", lines.append)
    assert "I: working" in lines
    assert list((tmp_path / "bases").iterdir()) == []


async def test_no_argument_of_mmdebstrap_makes_perl_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks whether a hook is a program; Perl warns of a file's name that ends with a newline."""
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.parent.mkdir()
    tool.write_text(f"#!{sys.executable}\nimport sys\nprint(*map(ascii, sys.argv), sep='\\n')\nsys.exit(1)\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    arguments: list[str] = []
    with pytest.raises(StartError):
        await DebianBase().make(tmp_path / "bases" / "base", arguments.append)
    assert any("--customize-hook=" in argument for argument in arguments)
    assert not [argument for argument in arguments if argument.endswith("\\n'")]


async def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    if DebianBase().obstacle() is None:
        with pytest.raises(StartError, match="can't be written"):
            await DebianBase().make(tmp_path / "file" / "base", print)
