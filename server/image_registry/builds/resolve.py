"""From requirements to a lock: one uv process that reads metadata only, downloads no library and builds none."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urljoin, urlsplit

from packaging.utils import canonicalize_name

from image_registry.builds.faults import PASSING_DISK_FAULTS
from image_registry.builds.plan import PackageIndex, internal, retryable, user_error
from image_registry.builds.platforms import Target
from image_registry.builds.processes import machine_environment, oom_kills, run_tool

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s`'\"<>)\],]+", re.IGNORECASE)
_UV_HINT = re.compile(r"^hint: .*(Wheels are required for|--no-build|--system-certs|--prerelease).*$", re.MULTILINE)
_NO_WHEEL = re.compile(r"no (usable )?wheels|building from source is disabled", re.IGNORECASE)
_REMEDY = (
    "Libraries are taken as wheels only, because nothing is run while an image is built. Choose a version that has a "
    "wheel for this Python and platform, or publish a wheel of it on the deployment's package index."
)
_UNRESOLVED = 1  # uv's exit code when the requirements are to blame; 2 is any other fault
_NETWORK_FAULT = re.compile(r"Failed to fetch|error sending request|timed out|Request failed|\b50[0234] ")
_ADVICE = re.compile(r" Consider adding `[^`]*` to your dependencies or constraints file\.")
_DISK_FAULT = re.compile(rf"\(os error ({'|'.join(str(number) for number in sorted(PASSING_DISK_FAULTS))})\)")
_OUT_OF_MEMORY = "memory allocation of"  # what Rust says before it aborts


@dataclass(frozen=True)
class Wheel:
    """A wheel that the resolver chose, and where the index offers it. `size` is None if the index doesn't say."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Question:
    """Everything that a resolution depends on, except time.

    `pins` are the libraries (normalised name → version) that the base image fixes: whatever needs one of them has
    to agree with its version. `requirements` have passed `plain_requirement`.
    """

    requirements: tuple[str, ...]
    pins: Mapping[str, str]
    target: Target

    @property
    def context(self) -> str:
        """A digest of the question, see `plan.Lock`."""
        target = self.target
        parts = [
            sorted(self.requirements),
            sorted(self.pins.items()),
            [target.python, target.uv_platform],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def resolve(
    question: Question,
    index: PackageIndex,
    *,
    locked: Mapping[str, str],
    cache_dir: Path,
    work_dir: Path,
    on_line: Callable[[str], None],
) -> tuple[Wheel, ...]:
    """Return the wheels that answer the question, sorted by name, without those that are pinned already.

    `locked` are versions to keep to (normalised name → version); `cache_dir` keeps the index's answers, `work_dir`
    takes two small files; `on_line` gets the resolver's warnings. Takes about a second.

    Raises BuildFailed: USER_ERROR with the resolver's explanation, RETRYABLE when the index can't be reached, INTERNAL
    when it refuses the credentials; OSError when the disk is full; MemoryError.
    """
    constraints, answer = work_dir / "constraints.txt", work_dir / "pylock.toml"
    answer.unlink(missing_ok=True)
    fixed = {**locked, **question.pins}
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in fixed.items()))
    kills = oom_kills()
    done = run_tool(
        _command(question.target, constraints if fixed else None, answer),
        _environment(index, cache_dir),
        "".join(f"{requirement}\n" for requirement in question.requirements),
    )
    text = explain(done.stderr)
    if _OUT_OF_MEMORY in done.stderr or (done.returncode == -signal.SIGKILL and oom_kills() > kills):
        raise MemoryError("the resolver")
    if done.returncode != 0:
        _refuse(done.returncode, done.stderr, text, question.pins)
    for line in text.splitlines():
        on_line(line)
    return read_lock(answer.read_text(), question, index)


def trim_index_cache(cache_dir: Path, limit: int) -> None:
    """Empty the cache of the index's answers when it has grown beyond `limit` bytes; other resolvers are waited for."""
    if sum(entry.stat().st_size for entry in cache_dir.rglob("*") if entry.is_file()) > limit:
        run_tool([uv_program(), "cache", "clean", "--cache-dir", str(cache_dir)], machine_environment(), "")


def _command(target: Target, constraints: Path | None, answer: Path) -> Sequence[str]:
    return (
        *(uv_program(), "pip", "compile", "--no-config", "--color", "never", "--no-progress", "--no-python-downloads"),
        *("--python", sys.executable, "--python-version", target.python, "--python-platform", target.uv_platform),
        *("--only-binary", ":all:", "--keyring-provider", "disabled", "--index-strategy", "first-index"),
        *("--format", "pylock.toml", "--no-header"),
        *(("--constraints", str(constraints)) if constraints else ()),
        *("--output-file", str(answer), "--", "-"),
    )


def uv_program() -> str:
    """Return the path of the uv that is installed beside this package."""
    from uv import find_uv_bin  # noqa: PLC0415 (only this function needs it)

    return str(find_uv_bin())


def _environment(index: PackageIndex, cache_dir: Path) -> dict[str, str]:
    environment = {
        **machine_environment(),
        "HOME": str(cache_dir),
        "UV_CACHE_DIR": str(cache_dir),
        "UV_DEFAULT_INDEX": index.url,
        "UV_INDEX": " ".join(index.extra_urls),
        "UV_HTTP_TIMEOUT": "30",
        "UV_SYSTEM_CERTS": "1",
    }
    if index.ca_bundle is not None:
        environment.pop("SSL_CERT_DIR", None)
        environment["SSL_CERT_FILE"] = str(index.ca_bundle)
    return environment


def explain(text: str) -> str:
    """Turn what uv prints into an explanation for the person who wrote the requirements.

    Keeps the chain of causes; leaves out addresses (they can hold credentials), uv's options and its own labels.
    """
    text = _ADVICE.sub("", _UV_HINT.sub("", _URL.sub(_without_address, text)))
    text = re.sub(r"^(error|warning): |^ *cause: ", "", text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def _without_address(match: re.Match[str]) -> str:
    path = urlsplit(match[0]).path.rstrip("/.,;")
    return f"<index>/{path.rpartition('/')[2]}"


def _refuse(code: int, raw: str, text: str, pins: Mapping[str, str]) -> NoReturn:
    if re.search(r"\b(401 Unauthorized|403 Forbidden)\b", raw):
        internal(f"The package index refused the credentials of this deployment.\n{text}")
    if disk := _DISK_FAULT.search(raw):
        raise OSError(int(disk[1]), os.strerror(int(disk[1])))
    if code < 0:
        retryable(f"The resolver was killed by signal {-code}.")
    if "No solution found" not in raw and _NETWORK_FAULT.search(raw):
        retryable(f"The package index can't be reached.\n{text}")
    if code != _UNRESOLVED:
        internal(f"The resolver ended with code {code}.\n{text}")
    fixed = [f"{name} {version}" for name, version in pins.items() if re.search(rf"\b{re.escape(name)}\b", text)]
    if fixed:
        text = f"{text}\nThe base image fixes {', '.join(fixed)}."
    user_error(f"{text}\n{_REMEDY}" if _NO_WHEEL.search(raw) else text)


def read_lock(text: str, question: Question, index: PackageIndex) -> tuple[Wheel, ...]:
    """Read a `pylock.toml` (PEP 751) and choose each library's wheel. Raises BuildFailed (INTERNAL)."""
    try:
        packages = tomllib.loads(text).get("packages", [])
        wheels = [_read_package(package, question.target, index) for package in packages]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        internal(f"The resolver's lock can't be read: {error!r}", error)
    return tuple(sorted((w for w in wheels if w.name not in question.pins), key=lambda wheel: wheel.name))


def _read_package(package: dict[str, Any], target: Target, index: PackageIndex) -> Wheel:
    name, version = canonicalize_name(package["name"]), package["version"]
    offered = {_filename(wheel): wheel for wheel in package.get("wheels", [])}
    filename = target.best_wheel(list(offered))
    if filename is None:
        internal(f"The resolver offers no wheel of {name} {version} for {target.uv_platform}.")
    chosen = offered[filename]
    sha256, size = chosen.get("hashes", {}).get("sha256", ""), chosen.get("size")
    if not _SHA256.fullmatch(sha256):
        internal(f"The package index gives no SHA-256 of {filename}; without it the file can't be trusted.")
    url = urlsplit(urljoin(index.url, chosen["url"]))
    address = url._replace(netloc=url.netloc.rpartition("@")[2], fragment="").geturl()
    return Wheel(name, version, filename, address, sha256, size)


def _filename(wheel: dict[str, Any]) -> str:
    name = wheel.get("name") or unquote(urlsplit(wheel["url"]).path).rpartition("/")[2]
    return str(name)
