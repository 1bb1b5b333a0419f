"""Requirements files: what is read, what is refused and why."""

from pathlib import Path

import pytest

from image_registry.client.requirements import RequirementError, pip_requirement
from image_registry.client.requirements_file import RequirementsFile, read_requirements_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def read(folder: Path, text: str, python_version: str = "") -> RequirementsFile:
    path = folder / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    return read_requirements_file(path, python_version=python_version)


def taken(result: RequirementsFile) -> list[str]:
    return [str(requirement) for requirement, _ in result.requirements]


def test_comments_blank_lines_and_continuations(folder: Path) -> None:
    result = read(
        folder, "# all\n\nnumpy>=1.26  # arrays\npandas \\\n  >=2 \\\n  ,<3\r\nuvicorn[standard]#not-a-comment\n"
    )
    assert taken(result) == ["numpy>=1.26", "pandas>=2   ,<3"]
    assert [origin.line for _, origin in result.requirements] == [3, 4]
    assert [(line.origin.line, line.text) for line in result.refused] == [(7, "uvicorn[standard]#not-a-comment")]


@pytest.mark.parametrize("text", ["--index-url https://me:token@x.example/simple", "y @ https://me:token@x.example/y"])
def test_a_login_in_a_line_is_not_shown(folder: Path, text: str) -> None:
    [line] = read(folder, text).refused
    assert line.text == text.replace("me:token", "…")
    with pytest.raises(RequirementError) as caught:
        pip_requirement(text)
    assert "token" not in str(caught.value)
    assert caught.value.text == text


def test_hashes_are_counted_and_dropped(folder: Path) -> None:
    result = read(
        folder, "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\npandas==2.0 --hash sha256:cc\n"
    )
    assert taken(result) == ["numpy==1.26.4", "pandas==2.0"]
    assert result.hashes == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-e ./project", "editable installs"),
        ("--index-url https://example.org/simple", "one package index of its own"),
        ("-i https://example.org/simple", "one package index of its own"),
        ("-c constraints.txt", "constraint files"),
        ("--pre", "the option --pre isn't taken"),
        ("numpy --no-binary :all:", "the option --no-binary isn't taken"),
        ("git+https://example.org/x.git#egg=x", "URLs aren't taken"),
        ("x @ https://example.org/x ; python_version > '3'", "URLs aren't taken"),
        ("./local.whl", "files and folders"),
        ("numpy ; nonsense", "malformed"),
        ("numpy ; platform_machine == 'x86_64'", "platform_machine, which isn't known here"),
        ("numpy ; python_version < '3.12'", "name the image's, such as 3.11"),
        ("numpy ; extra == 'x'", "extra, which isn't known here"),
    ],
)
def test_a_line_that_cant_be_taken_says_why(folder: Path, line: str, why: str) -> None:
    result = read(folder, f"pandas\n{line}\n")
    assert taken(result) == ["pandas"]
    assert [(refused.origin.line, refused.text) for refused in result.refused] == [(2, line)]
    assert why in result.refused[0].why


def test_markers_are_decided_for_the_image_not_for_this_machine(folder: Path) -> None:
    text = (
        "a; sys_platform == 'linux'\nb; sys_platform == 'win32'\nc; python_version < '3.10'\n"
        "d; python_version >= \"3.10\" and platform_system == 'Linux'\n"
    )
    result = read(folder, text, python_version="3.9")
    assert taken(result) == ["a", "c"]
    assert [line.origin.line for line in result.skipped] == [2, 4]
    assert result.refused == []


def test_included_files_are_read_once_relative_to_the_including_one(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "base.txt").write_text("numpy\n-r ../requirements.txt\n")
    result = read(folder, "-r more/base.txt\n--requirement=more/base.txt\npandas\n")
    assert taken(result) == ["numpy", "pandas"]
    assert str(result.requirements[0][1]).endswith("more/base.txt:1")


def test_a_byte_order_mark_is_no_part_of_the_first_name(folder: Path) -> None:
    assert taken(read(folder, "\ufeffnumpy\n")) == ["numpy"]


def test_an_included_file_that_cant_be_read_is_a_fault_of_its_line(folder: Path) -> None:
    (folder / "picture.txt").write_bytes(b"\x89PNG")
    result = read(folder, "numpy\n-r nowhere.txt\n-r picture.txt\n--pre\n")
    assert taken(result) == ["numpy"]
    assert [(line.origin.line, line.text) for line in result.refused] == [
        (2, "-r nowhere.txt"), (3, "-r picture.txt"), (4, "--pre"),
    ]  # fmt: skip
    assert result.refused[0].why == f"{folder}/nowhere.txt can't be read: No such file or directory"
    assert result.refused[1].why == f"{folder}/picture.txt is no text in UTF-8"


def test_a_file_that_is_missing_itself_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_requirements_file(folder / "nowhere.txt")
