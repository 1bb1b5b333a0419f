"""`make docs` refuses what a reader would miss."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make_docs(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = ["make", "-o", "install", "docs", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("Makefile", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_pages_make_a_site(copy: Path) -> None:
    done = make_docs(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (copy / "build" / "docs" / "index.html").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# A page that nobody finds\n", "not included in the"),
        ("[gone](nowhere.md)\n", "nowhere.md' is not found"),
        ("[gone](deploy.md#no-such-heading)\n", "no-such-heading"),
    ],
)
def test_a_page_outside_the_navigation_and_a_dead_link_fail(copy: Path, text: str, complaint: str) -> None:
    (copy / "docs" / "how-to" / "stray.md").write_text(text)
    done = make_docs(copy)
    assert done.returncode != 0
    assert complaint in done.stdout
