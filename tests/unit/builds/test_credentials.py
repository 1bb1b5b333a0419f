"""Where credentials of registries come from, and that they are shown nowhere."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_registry.builds import credentials
from image_registry.builds.credentials import Keyring, Login, NoLoginError
from image_registry.builds.faults import UnavailableError
from image_registry.builds.repositories.ecr import EcrHome
from image_registry.builds.repositories.gar import GarHome
from image_registry.builds.repositories.layouts import LayoutHome
from image_registry.builds.repositories.opening import CLOUDS, open_home
from image_registry.builds.repositories.registries import RegistryHome

HOST = "registry.example:5000"
SECRET = "s3cret:with:colons"
WriteConfig = Callable[..., Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes a Docker config file."""

    def write(text: str = "", **config: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(text or json.dumps(config))
        return path

    return write


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a credential helper named `test` on the PATH: a shell script."""

    def put(script: str) -> None:
        program = tmp_path / "bin" / "docker-credential-test"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return put


def basic(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("host", "key", "entry"),
    [
        (HOST, HOST, basic("me", SECRET)),
        (HOST, f"https://{HOST}", basic("me", SECRET)),
        (HOST, f"https://{HOST}/v2/", basic("me", SECRET)),
        (HOST, HOST, {"username": "me", "password": SECRET}),
        ("docker.io", "https://index.docker.io/v1/", basic("me", SECRET)),
        ("docker.io", "docker.io", basic("me", SECRET)),
    ],
)
def test_dockers_config_file(write_config: WriteConfig, host: str, key: str, entry: dict[str, str]) -> None:
    keyring = Keyring(docker_config=write_config(auths={"other.example": basic("other", "x"), key: entry}))
    access = keyring.access(host)
    assert (access.host, access.username, access.password) == (host, "me", SECRET)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "has no entry for"),
        ({"auths": {"other.example": basic("x", "y")}}, "has no entry for"),
        ({"auths": {HOST: {}}}, "has no entry for"),
        ({"auths": {HOST: {"auth": "!"}}}, "not base64"),
        ({"auths": {HOST: {"auth": "AAAA"}}}, "holds no user and password"),
        ({"auths": {HOST: {"username": 7}}}, "holds no user and password"),
        ({"auths": {HOST: {**basic("x", "y"), "identitytoken": "z"}}}, "identity token"),
        ({"auths": []}, "has no entry for"),
        ({"credsStore": "no-such-helper"}, "docker-credential-no-such-helper can't be run (FileNotFoundError)"),
        ({"credsStore": "../bin/sh"}, "no program's name"),
    ],
)
def test_what_the_file_lacks_is_said(write_config: WriteConfig, config: dict[str, Any], says: str) -> None:
    keyring = Keyring(docker_config=write_config(**config))
    assert keyring.access(HOST).username == ""
    assert says in keyring.explain(HOST)
    assert keyring.explain(HOST).startswith(f"no credentials: the settings name none for {HOST}; ")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\xff"])
def test_a_file_that_is_no_config(write_config: WriteConfig, text: str) -> None:
    assert Keyring(docker_config=write_config(text)).access(HOST).username == ""


def test_no_file_at_all(tmp_path: Path) -> None:
    assert f"there is no {tmp_path}/none" in Keyring(docker_config=tmp_path / "none").explain(HOST)


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_credential_helpers(write_config: WriteConfig, helper: Callable[[str], None], key: str) -> None:
    helper('read host; echo "{\\"ServerURL\\": \\"$host\\", \\"Username\\": \\"on $host\\", \\"Secret\\": \\"$1\\"}"')
    keyring = Keyring(docker_config=write_config(**{key: "test" if key == "credsStore" else {HOST: "test"}}))
    access = keyring.access(HOST)
    assert (access.username, access.password) == (f"on {HOST}", "get")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo credentials not found in native keychain; exit 1", f"knows none for {HOST}"),
        (f"echo {SECRET}; echo {SECRET} >&2; exit 3", "ended with 3"),
        ("echo nonsense", "answered what is no login"),
        ('echo "[]"', "answered what is no login"),
        ('echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"s3cret\\"}"', "identity token"),
        ("exec sleep 60", "did not answer within"),
    ],
)
def test_helpers_that_fail(
    write_config: WriteConfig,
    helper: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    says: str,
) -> None:
    monkeypatch.setattr(credentials, "_HELPER_SECONDS", 0.5 if "sleep" in script else 30.0)
    helper(script)
    said = Keyring(docker_config=write_config(credsStore="test")).explain(HOST)
    assert says in said
    assert "s3cret" not in said


def test_the_settings_come_first_and_the_cloud_last(write_config: WriteConfig) -> None:
    def cloud(host: str) -> Login | None:
        return Login("cloud", host)

    file = write_config(auths={HOST: basic("file", "x")})
    everything = Keyring(logins={HOST: Login("settings", "x")}, docker_config=file, clouds=(cloud,))
    assert everything.access(HOST).username == "settings"
    assert Keyring(docker_config=file, clouds=(cloud,)).access(HOST).username == "file"
    assert Keyring(docker_config=file, clouds=(cloud,)).access("other.example").username == "cloud"


def test_a_clouds_login_is_kept_while_a_build_could_end_within_its_life() -> None:
    asked: list[str] = []
    life = 1000.0

    def cloud(host: str) -> Login | None:
        asked.append(host)
        return Login("me", "x", time.time() + life) if host == HOST else None

    keyring = Keyring(clouds=(lambda host: None, cloud), least_life=600.0)
    assert keyring.access(HOST).expires == keyring.access(HOST).expires
    assert keyring.access("other.example").username == ""
    assert asked == [HOST, "other.example"]
    life = 500.0
    short = Keyring(clouds=(cloud,), least_life=600.0)
    assert short.access(HOST).username == short.access(HOST).username == "me"
    assert asked[2:] == [HOST, HOST]


def test_a_cloud_that_knows_nobody_or_is_away() -> None:
    def nobody(host: str) -> Login | None:
        raise NoLoginError("this machine has no identity")

    def away(host: str) -> Login | None:
        raise UnavailableError("the cloud is away")

    assert Keyring(clouds=(nobody,)).explain(HOST).endswith("; this machine has no identity")
    with pytest.raises(UnavailableError):
        Keyring(clouds=(away,)).access(HOST)


def test_nothing_is_shown(write_config: WriteConfig) -> None:
    keyring = Keyring(logins={HOST: Login("me", SECRET)}, clouds=(lambda host: Login("me", SECRET),))
    access = keyring.access("other.example")
    shown = f"{keyring!r} {access!r} {keyring.explain(HOST)} {keyring.explain('other.example')}"
    assert access.password == SECRET
    assert SECRET not in shown


def test_no_helper_is_left(write_config: WriteConfig, helper: Callable[[str], None], monkeypatch: Any) -> None:
    monkeypatch.setattr(credentials, "_HELPER_SECONDS", 0.5)
    helper("exec sleep 4711")
    Keyring(docker_config=write_config(credsStore="test")).access(HOST)
    assert "sleep 4711" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("module", "host", "extra"),
    [
        ("boto3", "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("botocore.exceptions", "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("google.auth.exceptions", "europe-docker.pkg.dev", "gar"),
    ],
)
def test_a_cloud_whose_library_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, host: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    keyring = Keyring(clouds=CLOUDS)
    assert keyring.access(host).username == ""
    assert f"pip install 'image-registry[{extra}]'" in keyring.explain(host)
    assert "pip install" not in keyring.explain(HOST)


@pytest.mark.parametrize(
    ("host", "home"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team", EcrHome),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/team", EcrHome),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/team", EcrHome),
        ("europe-west3-docker.pkg.dev/project/repository/managed", GarHome),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example/team", RegistryHome),
        ("registry.example:5000/team", RegistryHome),
        ("oci:/srv/images", LayoutHome),
    ],
)
def test_which_home_a_root_means(host: str, home: type) -> None:
    assert type(open_home(host, Keyring())) is home
    assert open_home(host, Keyring()).root == host
