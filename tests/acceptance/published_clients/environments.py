"""Virtual environments with the published clients as PyPI has them, made once and kept below .cache.

Each has a lock beside this file, whose hashes are checked. A change of the lock makes a new environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import uv

HERE = Path(__file__).parent
CACHE = Path(__file__).parents[3] / ".cache/published-clients"


def environment_of(sdk: str) -> Path:
    """The interpreter that has this release of rime-sdk. Raises CalledProcessError when it can't be installed."""
    lock = HERE / f"rime-sdk-{sdk}.lock"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"{sdk}-{digest}"
    complete = folder / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{sdk}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # several test processes may want it at once
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(folder))
            _uv("pip", "install", "--python", str(folder), "--no-deps", "--require-hashes", "--requirements", str(lock))
            complete.touch()
    return folder / "bin/python"


def _uv(*arguments: str) -> None:
    subprocess.run([uv.find_uv_bin(), *arguments, "--quiet"], check=True)
