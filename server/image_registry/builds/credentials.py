"""Credentials of container registries: out of the settings, Docker's config file, or the machine's cloud identity.

They are looked for in that order whenever a build begins, so what is rotated meanwhile is found. They are handed to the
build's process through a pipe and shown nowhere. Format of the file: Docker's `config.json` with `auths`, `credHelpers`
and `credsStore`; helpers speak the protocol of docker-credential-helpers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from image_registry.builds.plan import RegistryAccess

_DOCKER_HUB = "docker.io"
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HELPER_SECONDS = 15.0
_NOT_FOUND = "credentials not found"  # docker-credential-helpers, credentials/error.go
_TOKEN_USER = "<token>"  # noqa: S105 (what a helper says for an identity token)


@dataclass(frozen=True)
class Login:
    """A user name and a password, and the time (of `time.time`) from which they are worthless; 0: never."""

    username: str
    password: str = field(repr=False)
    expires: float = 0.0


class NoLoginError(Exception):
    """There is no login in one place; the text says why, without secrets."""


@dataclass(frozen=True)
class Keyring:
    """How to get at registries.

    `logins` are those of the settings, by host. `docker_config` is Docker's config file, `endpoints` says where hosts
    really are, `ca_bundle` holds authorities to trust besides the machine's own. `clouds` give the identity of this
    machine: each returns a login, None for a host that is not its own, or raises NoLoginError.
    A login of a cloud is used for `least_life` seconds less than it lives, so that a build that begins can end.
    """

    logins: Mapping[str, Login] = field(default_factory=dict)
    docker_config: Path | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    clouds: tuple[Callable[[str], Login | None], ...] = ()
    least_life: float = 0.0
    _kept: dict[str, Login] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def access(self, host: str) -> RegistryAccess:
        """Return how to talk to a registry; without credentials if there are none. May take seconds; threads may share.

        Raises UnavailableError when a cloud can't be asked.
        """
        login, _ = self._find(host)
        plain = RegistryAccess(host=host, endpoint=self.endpoints.get(host, ""), ca_bundle=self.ca_bundle)
        if login is None:
            return plain
        return RegistryAccess(
            host=host,
            username=login.username,
            password=login.password,
            expires=login.expires,
            endpoint=plain.endpoint,
            ca_bundle=plain.ca_bundle,
        )

    def explain(self, host: str) -> str:
        """Say where credentials for a registry were found, or that they were not, and why."""
        login, places = self._find(host)
        return (
            f"credentials of {login.username!r} from {places[-1]}" if login else f"no credentials: {'; '.join(places)}"
        )

    def _find(self, host: str) -> tuple[Login | None, list[str]]:
        """A login with the place that it is from last, or None with what each place lacks."""
        if host in self.logins:
            return self.logins[host], ["the settings"]
        lacks = [f"the settings name none for {host}"]
        for look, place in ((self._in_docker_config, f"{self.docker_config}"), (self._in_cloud, "the cloud identity")):
            try:
                login = look(host)
            except NoLoginError as error:
                lacks.append(str(error))
            else:
                if login is not None:
                    return login, [place]
        return None, lacks

    def _in_docker_config(self, host: str) -> Login | None:
        if self.docker_config is None:
            return None
        try:
            config = json.loads(self.docker_config.read_text())
        except FileNotFoundError:
            raise NoLoginError(f"there is no {self.docker_config}") from None
        except (OSError, ValueError) as error:
            raise NoLoginError(f"{self.docker_config} can't be read ({type(error).__name__})") from None
        if not isinstance(config, dict):
            raise NoLoginError(f"{self.docker_config} is not a JSON object")
        keys = _HUB_KEYS if host == _DOCKER_HUB else (host, f"https://{host}")
        if helper := _first(config.get("credHelpers"), keys) or config.get("credsStore"):
            return _from_helper(str(helper), _HUB_KEYS[0] if host == _DOCKER_HUB else host)
        if entry := _first(config.get("auths"), keys):
            return _from_entry(entry, f"{self.docker_config}: the entry of {host}")
        raise NoLoginError(f"{self.docker_config} has no entry for {host}")

    def _in_cloud(self, host: str) -> Login | None:
        with self._lock:
            kept = self._kept.get(host)
            if kept is None or (kept.expires and kept.expires - self.least_life < time.time()):
                kept = next((login for cloud in self.clouds if (login := cloud(host))), None)
                if kept is not None and 0 < kept.expires <= time.time():
                    return replace(kept, expires=0.0)  # new, and yet over: the clocks differ, so its time says nothing
                if kept is not None:
                    self._kept[host] = kept
            return kept


def _first(entries: object, keys: tuple[str, ...]) -> Any:
    """The entry of a host; Docker's own files have addresses with paths as keys, too."""
    if not isinstance(entries, dict):
        return None
    by_host = {str(key).removeprefix("https://").removeprefix("http://").partition("/")[0]: key for key in entries}
    found = next((key for key in keys if key in entries), None) or by_host.get(keys[0])
    return entries.get(found)


def _from_entry(entry: object, where: str) -> Login:
    values = entry if isinstance(entry, dict) else {}
    username, password = values.get("username"), values.get("password")
    if isinstance(values.get("auth"), str) and values["auth"]:
        try:
            username, _, password = base64.b64decode(values["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise NoLoginError(f"{where} holds an `auth` that is not base64 of user:password") from None
    if values.get("identitytoken"):
        raise NoLoginError(f"{where} holds an identity token, which is not supported")
    if not isinstance(username, str) or not isinstance(password, str) or not username or not password:
        raise NoLoginError(f"{where} holds no user and password")
    return Login(username, password.rstrip("\0"))


def _from_helper(name: str, host: str) -> Login:
    """Ask a credential helper, a program of the machine's owner that stands on the PATH."""
    program = f"docker-credential-{name}"
    if not _HELPER.fullmatch(name):
        raise NoLoginError("Docker's config names a credential helper that is no program's name")
    try:
        done = subprocess.run(
            [program, "get"], input=host, capture_output=True, text=True, timeout=_HELPER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoLoginError(f"{program} did not answer within {_HELPER_SECONDS:g} s") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NoLoginError(f"{program} can't be run ({type(error).__name__})") from None
    if done.returncode:
        known = _NOT_FOUND in done.stdout
        raise NoLoginError(f"{program} knows none for {host}" if known else f"{program} ended with {done.returncode}")
    try:
        values = json.loads(done.stdout)
        username, secret = values["Username"], values["Secret"]
    except (ValueError, KeyError, TypeError):
        raise NoLoginError(f"{program} answered what is no login") from None
    if username == _TOKEN_USER:
        raise NoLoginError(f"{program} has an identity token for {host}, which is not supported")
    return Login(str(username), str(secret))
