"""The programs that measure: two in Go, built here from Debian's packages, and pgbench. Each may be missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.console import say

CACHE = Path(".cache/benchmarks")
_SOURCES = Path(__file__).parent / "go"
_GO_PACKAGES = "golang golang-google-grpc-dev golang-github-jackc-pgx-v4-dev"


def go_program(name: str) -> Path | None:
    """Build `go/NAME` if its source is newer than the program; None, with a word, where Go can't be had."""
    program = (CACHE / name).absolute()
    newest = max(file.stat().st_mtime for file in (_SOURCES / name).iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return program
    if shutil.which("go") is None:
        say(f"skipped: what needs go/{name} (on Debian: apt-get install {_GO_PACKAGES})")
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "-trimpath"}
    built = subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=_SOURCES / name,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        say(f"skipped: go/{name} can't be built: {built.stderr.strip().splitlines()[-1]}")
        return None
    return program


def pgbench() -> str | None:
    """The path of pgbench; None, with a word, where it isn't installed."""
    found = shutil.which("pgbench")
    if found is None:
        say("skipped: pgbench (on Debian: apt-get install postgresql-contrib)")
    return found


def version_of(*command: str) -> str:
    """What a program says of its version; '' if it isn't there."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.strip().splitlines()[0]
