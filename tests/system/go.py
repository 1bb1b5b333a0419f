"""Go programs, built from Debian's packages and generated code."""

import os
import subprocess
from pathlib import Path


def go_build(folder: Path, path: str, cache: Path, *arguments: str | Path) -> None:
    """Run `go build` in a folder without modules: `path` is where packages are. Fails with what the compiler says."""
    built = subprocess.run(
        ["go", "build", *arguments],
        cwd=folder,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": path, "GOCACHE": str(cache), "GOFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
