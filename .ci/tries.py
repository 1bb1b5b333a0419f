"""Two tries of the tests, for machines where a test can fail by what runs beside it.

- `python .ci/tries.py first ARGUMENTS`: pytest with these arguments, several at a time if need be. Where each ended and
  what failed in it is kept in `.cache/tries`.
- `python .ci/tries.py second`: runs what failed in the first ones once more, alone. Passes only if each of them ran to
  its end with failed tests (status 1) or without any, at least one had some, and all of these pass now: what a crash,
  an interruption or a fault of collection left untried isn't known.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TRIES = Path(".cache/tries")
_FAILED_TESTS = 1  # of pytest's exit codes


def first(arguments: list[str]) -> int:
    """Run pytest, and keep its status; there is none while it runs, or if it is killed."""
    TRIES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=TRIES))
    status = _pytest("-o", f"cache_dir={folder.resolve()}", *arguments)
    (folder / "status").write_text(str(status))
    return status


def second() -> int:
    """Run what failed, by its names: one that isn't found any more is an error of pytest's."""
    folders = sorted(TRIES.iterdir()) if TRIES.exists() else []
    states = {folder: _status(folder) for folder in folders}
    names = sorted({name for folder in folders for name in _failed(folder)})
    lost = [state for folder, state in states.items() if state == str(_FAILED_TESTS) and not _failed(folder)]
    odd = [state for state in states.values() if state not in {"0", str(_FAILED_TESTS)}]
    shutil.rmtree(TRIES, ignore_errors=True)
    if odd or lost or not names:
        sys.stderr.write(f"no second try: the first ones ended with {', '.join(states.values()) or 'no test run'}\n")
        return 1
    sys.stderr.write(f"second try, alone, of {len(names)} that failed\n")
    return _pytest(*names)


def _status(folder: Path) -> str:
    return (folder / "status").read_text() if (folder / "status").exists() else "no status"


def _failed(folder: Path) -> list[str]:
    kept = folder / "v" / "cache" / "lastfailed"
    return list(json.loads(kept.read_text())) if kept.exists() else []


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def main(arguments: list[str]) -> int:
    """The command line."""
    match arguments:
        case ["first", *rest]:
            return first(rest)
        case ["second"]:
            return second()
        case _:
            sys.stderr.write(__doc__ or "")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
