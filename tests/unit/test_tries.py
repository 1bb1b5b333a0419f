"""What failed in CI's first tries is run once more; nothing else, and nothing passes that was never seen to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "tries.py"
FLAKY = """
from pathlib import Path
import pytest

@pytest.fixture
def clean():
    yield
    again("clean")

def again(name):
    ran = Path("ran-" + "".join(filter(str.isalnum, name)))
    before = ran.exists()
    ran.touch()
    assert before

def test_steady(): Path("steady").open("a").write("x")
@pytest.mark.parametrize("how", ["a", "b c::d/e[f]"])
def test_flaky(how): again(how)
def test_tidy(clean): pass
"""
STEADY = "def test_steady(): pass\n"
BROKEN = "def test_broken(): assert False\n"
FLAKY_IMPORT = """
from pathlib import Path
imported = Path("imported")
if not imported.exists():
    imported.touch()
    raise ImportError
def test_it(): pass
"""
INTERRUPTED = f"{FLAKY}\ndef test_zzz(): raise KeyboardInterrupt\n"
CRASHED = f"{FLAKY}\ndef test_zzz():\n    import os\n    os._exit(1)\n"
GONE = f"""{FLAKY}
import uuid
@pytest.mark.parametrize("how", [uuid.uuid4().hex])
def test_of_a_name_of_its_own(how): assert False
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin --rootdir ."},
        capture_output=True,
        text=True,
        check=False,
    )


def write(folder: Path, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"test_{name}.py").write_text(text)


def test_what_failed_is_run_again_alone_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, one=FLAKY, two=STEADY)
    assert run(tmp_path, "first", "-n", "2", "--dist", "loadscope").returncode == 1
    done = run(tmp_path, "second")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert (tmp_path / "steady").read_text() == "x"
    assert "workers" not in done.stdout


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    write(tmp_path, one=FLAKY, two=BROKEN)
    assert run(tmp_path, "first").returncode == 1
    done = run(tmp_path, "second")
    assert done.returncode == 1
    assert "1 failed, 3 passed" in done.stdout


def test_each_of_several_first_tries_counts(tmp_path: Path) -> None:
    write(tmp_path, one=FLAKY, two=BROKEN, three=STEADY)
    codes = [run(tmp_path, "first", f"test_{name}.py").returncode for name in ("two", "one", "three")]
    assert codes == [1, 1, 0]
    done = run(tmp_path, "second")
    assert done.returncode == 1
    assert "1 failed, 3 passed" in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        (FLAKY_IMPORT, (), 2),
        (FLAKY_IMPORT, ("-n", "2"), 1),
        (INTERRUPTED, (), 2),
        (CRASHED, (), 1),
        (FLAKY, ("--no-such-option",), 4),
        (STEADY, ("-k", "nothing"), 5),
        (GONE, (), 1),
    ],
    ids=["import", "import in workers", "interrupted", "crashed", "usage", "nothing collected", "gone"],
)
def test_what_was_not_seen_to_its_end_stays_red(
    tmp_path: Path, module: str, arguments: tuple[str, ...], code: int
) -> None:
    write(tmp_path, one=module, two=STEADY)
    flaky = tmp_path / ".cache" / "tries" / "another"
    (flaky / "v" / "cache").mkdir(parents=True)
    (flaky / "status").write_text("1")
    (flaky / "v" / "cache" / "lastfailed").write_text('{"test_two.py::test_steady": true}')
    assert run(tmp_path, "first", "test_one.py", *arguments).returncode == code
    done = run(tmp_path, "second")
    assert done.returncode != 0, done.stdout


def test_no_try_and_no_failure_are_no_success(tmp_path: Path) -> None:
    write(tmp_path, one=STEADY)
    assert run(tmp_path, "second").returncode == 1
    assert run(tmp_path, "first").returncode == 0
    assert run(tmp_path, "second").returncode == 1  # then it was something else that failed


def test_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    write(tmp_path, one=FLAKY, two=STEADY)
    run(tmp_path, "first", "test_one.py")
    run(tmp_path, "second")
    assert run(tmp_path, "first", "test_two.py").returncode == 0
    assert run(tmp_path, "second").returncode == 1
