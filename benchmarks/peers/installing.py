"""Peers are no dependencies of the product: each gets a virtual environment under the cache, from a list of versions.

`NAME.in` says what is wanted, `NAME.txt` what it was resolved to, so that a run in a year measures the same:
`uv pip compile --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url NAME.in -o NAME.txt`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import tools
from benchmarks.console import say

_LISTS = Path(__file__).parent


def programs(peer: str) -> Path | None:
    """The folder of a peer's programs, installed if need be; None, with a word, where it can't be had."""
    versions = _LISTS / f"{peer}.txt"
    home = (tools.CACHE / f"{peer}-{hashlib.sha256(versions.read_bytes()).hexdigest()[:12]}").absolute()
    complete = home / "complete"
    if not complete.exists():
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else shutil.which("uv")
        if uv is None:
            say(f"skipped: {peer} (uv, which installs it, is missing)")
            return None
        say(f"installing {peer} into {home.relative_to(Path.cwd())}, once")
        for command in (
            ["venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--python",
                str(home / "bin/python"),
                "-r",
                str(versions),
            ],
        ):
            done = subprocess.run([uv, *command], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                say(f"skipped: {peer} can't be installed: {' '.join(done.stderr.split())[-300:]}")
                return None
        complete.touch()
    return home / "bin"


def version(peer: str) -> str:
    """Its version, as the list has it."""
    lines = (_LISTS / f"{peer}.txt").read_text(encoding="ascii").splitlines()
    return next(line.removeprefix(f"{peer}==").split()[0] for line in lines if line.startswith(f"{peer}=="))
