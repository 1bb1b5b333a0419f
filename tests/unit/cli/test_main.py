"""The command as a whole: help, what it imports, exit codes of bad input."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from image_registry.cli.main import COMMANDS, SECTIONS, cli

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "image_registry", *arguments], capture_output=True, text=True, check=False
    )


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    """Every command below a group with its full name."""
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += (
            commands(command, f"{path} {name}") if isinstance(command, click.Group) else [(f"{path} {name}", command)]
        )
    return found


def test_help_lists_every_command_in_a_section() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert [title for title in (*SECTIONS, "Others") if f"{title}:\n" in output] == list(SECTIONS)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from image_registry.cli.main import cli; cli.main(['--help'], standalone_mode=False); "
        "heavy = ('grpc', 'psycopg', 'rich', 'pydantic', 'httpx'); "
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(("name", "command"), commands(cli, "image-registry"), ids=str)
def test_every_command_explains_itself(name: str, command: click.Command) -> None:
    assert command.help
    assert "..." not in command.get_short_help_str(110)
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_page_names_every_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [name for name, _ in commands(cli, "image-registry") if not name.startswith("image-registry keys")]
    assert [name for name in names if name not in text] == []


def test_the_page_names_every_variable_of_callers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    variables = {
        str(parameter.envvar)
        for _, command in commands(cli, "image-registry")
        for parameter in command.params
        if parameter.envvar
    }
    assert variables == {f"IMAGE_REGISTRY_{name}" for name in ("SERVER", "API_KEY_FILE", "PROFILE", "CONFIG")}
    assert [name for name in sorted(variables) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_IMAGE_REGISTRY_COMPLETE" in result.output


def test_completion_completes() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'image-registry'; from image_registry.cli.main import main; main()",
        ],
        env={
            "_IMAGE_REGISTRY_COMPLETE": "bash_complete",
            "COMP_WORDS": "image-registry im",
            "COMP_CWORD": "1",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,images\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["images", "list", "--nonsense"], "No such option"),
        (["images", "get"], "Missing argument 'NAME'"),
        (["images", "list", "--server", "nonsense"], "write host:port"),
        (["images", "list", "-o", "xml"], "'xml' is not one of"),
        (["images", "create", "x"], "at least one library or package is needed"),
        (["images", "create", "x", "--pip", "a=1"], "a single = compares nothing"),
        (["images", "create", "x", "-r", "nowhere.txt"], "nowhere.txt can't be read"),
        (["images", "list", "--with", "numpy>=1"], "`image-registry images find`"),
        (["jobs", "list", "--status", "nonsense"], "is not one of"),
        (["images", "list", "--profile", "nowhere", "--config", "/dev/null"], "has no profile 'nowhere'"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_code_2(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_the_program_itself_keeps_the_codes() -> None:
    assert run("images", "get").returncode == 2
    version = run("--version")
    assert (version.returncode, version.stderr) == (0, "")
    refused = run("images", "get", "x", "--server", "127.0.0.1:1")
    assert refused.returncode == 4
    assert refused.stdout == ""
    assert "127.0.0.1:1 can't be reached: Connection refused" in refused.stderr


def test_lines_of_a_requirements_file_that_cant_be_taken_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy\n-e .\ngit+https://example.org/x.git\nx; sys_platform == 'win32'\n")
    result = CliRunner().invoke(cli, ["images", "create", "vision", "-r", str(path), "--apt", "git=="])
    assert result.exit_code == 2
    assert f"{path}:2: -e .: editable installs aren't taken" in result.output
    assert f"{path}:3: git+https://example.org/x.git: URLs aren't taken" in result.output
    assert f"{path}:4: x; sys_platform == 'win32': left out, its marker is not for this image" in result.output
    assert "--apt 'git==': must be a package's name" in result.output


def test_of_a_file_that_is_no_requirements_file_the_first_faults_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("two words\n" * 65)
    result = CliRunner().invoke(cli, ["images", "create", "vision", "-r", str(path)])
    assert result.output.count("two words") == 20
    assert result.output.endswith("  and 45 more\n")
