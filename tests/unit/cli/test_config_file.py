"""The configuration file of callers, and what goes before what."""

from pathlib import Path

import click
import pytest

from image_registry.cli.config_file import Profile, read_profile
from image_registry.cli.connection import Connection, connect


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        '[default]\nserver = "a.example:443"\napi_key_file = "key"\n[local]\nserver = "127.0.0.1:1"\ntls = false\n'
    )
    return path


def test_a_profile_is_a_table(config: Path) -> None:
    assert read_profile(config, None) == Profile("a.example:443", config.parent / "key")
    assert read_profile(config, "local") == Profile("127.0.0.1:1", tls=False)


def test_the_usual_file_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert read_profile(None, None) == Profile()
    with pytest.raises(click.UsageError, match="doesn't exist"):
        read_profile(None, "other")
    (tmp_path / "image-registry").mkdir()
    (tmp_path / "image-registry" / "config.toml").write_text('[default]\nserver = "x.example:1"\n')
    assert read_profile(None, None).server == "x.example:1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('server = "x:1"', r"write \[default\] above it"),
        ("[default", "is no TOML"),
        (
            '[default]\nservr = "x:1"',
            "unknown key 'servr'; known are server, api_key_file, tls, ca_file, client_certificate_file",
        ),
        ("[default]\nserver = 5", "must be text in quotes"),
        ('[default]\ntls = "yes"', "must be true or false"),
        ('[default]\napi_key = "secret"', "unknown key 'api_key'"),
    ],
)
def test_a_faulty_file_is_refused_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(click.UsageError, match=fault) as caught:
        read_profile(path, None)
    assert "secret" not in caught.value.message


def test_a_missing_file_or_profile_is_refused(tmp_path: Path, config: Path) -> None:
    with pytest.raises(click.UsageError, match="can't be read"):
        read_profile(tmp_path / "nowhere.toml", None)
    with pytest.raises(click.UsageError, match="no profile 'x'; it has default, local"):
        read_profile(config, "x")


def test_options_go_before_the_file(config: Path) -> None:
    assert connect(config=config) == Connection("a.example:443", config.parent / "key", None, None, None, None, 30.0)
    chosen = connect(config=config, profile="local", api_key_file=Path("mine"), tls=True)
    assert chosen == Connection("127.0.0.1:1", Path("mine"), True, None, None, None, 30.0)


def test_a_profiles_key_goes_to_no_other_server(config: Path) -> None:
    assert connect(config=config, server="b.example:443").api_key_file is None
    assert connect(config=config, server="a.example:443").api_key_file == config.parent / "key"


def test_a_connection_that_cant_be_made_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="write host:port"):
        connect(server="nonsense").client()
    with pytest.raises(click.UsageError, match="can't be read"):
        connect(server="x.example:1", api_key_file=tmp_path / "missing").client()
    with pytest.raises(click.UsageError, match="can't be read"):
        connect(server="x.example:1", ca_file=tmp_path / "missing").client()
    with pytest.raises(click.UsageError, match="needs both"):
        connect(server="x.example:1", client_key_file=tmp_path / "missing").client()
