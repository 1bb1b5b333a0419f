"""A Debian base image made on this machine, for where no container registry can be reached.

mmdebstrap installs a minimal Debian with Python and pip from the machine's own package sources into an archive, which
becomes a one-layer image. As root it takes about 40 s; any other user needs subordinate ids (`/etc/subuid`).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from image_registry.builds.oci.layout import LayoutRepository
from image_registry.builds.oci.manifest import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    digest_of,
)
from image_registry.builds.plan import host_platform
from image_registry.builds.processes import machine_environment
from image_registry.builds.targz import compress
from image_registry.host import StartError
from image_registry.host.processes import Command, TetheredProcess, describe_exit, last_lines

_RELEASES = {"bullseye": (11, "3.9"), "bookworm": (12, "3.11"), "trixie": (13, "3.13")}
"""Number and Python of the releases that are known."""
_CURRENT = "trixie"
_OWNER = "debian-base"
_PACKAGES = "python3,python3-pip,ca-certificates"
_POLL_SECONDS = 0.2
_UNSHARE_SECONDS = 10.0
_LEVEL = 3  # the layer stays on this machine, so speed goes before size
_APT_SETTINGS = re.compile(r"^Acquire::(?:https?|ftp|Retries|Proxy)[^\n]*;$", re.MULTILINE | re.IGNORECASE)
_SMALL_AND_QUICK = (
    *("--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"),
    *("--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=path-exclude=/usr/share/man/*"),
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
# mmdebstrap leaves this machine's settings in the image; people who install packages there need Debian's own.
_NEUTRAL = """\
set -e
rm -rf "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/apt/sources.list"
rm -rf "$1/etc/apt/sources.list.d" && mkdir "$1/etc/apt/sources.list.d"
cat > "$1/etc/apt/sources.list.d/debian.sources" <<END
{sources}END"""  # without a newline at its end: mmdebstrap looks for a program of this name, and Perl would warn of it
_SOURCES = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def debian_python_version(suite: str) -> str:
    """Return the Python (X.Y) of a Debian release, by its code name. Raises KeyError for one that isn't known."""
    return _RELEASES[suite][1]


class DebianBase:
    """Makes a base image of this machine's Debian, or of the current one on other systems."""

    def __init__(self, etc: Path = Path("/etc")) -> None:
        self._etc = etc
        host_suite = _host_suite(etc)
        self._is_debian_host = host_suite is not None
        self.suite = host_suite or _CURRENT

    @property
    def python_version(self) -> str:
        """The Python of the base, X.Y."""
        return debian_python_version(self.suite)

    @property
    def title(self) -> str:
        """What the base is, for people: 'Debian 12 (bookworm)'."""
        return f"Debian {_RELEASES[self.suite][0]} ({self.suite})"

    def obstacle(self) -> str | None:
        """Say in one sentence what has to be installed first, or None."""
        if shutil.which("mmdebstrap"):
            return None
        return "mmdebstrap is needed to make a base image; install it with: apt-get install mmdebstrap"

    async def make(self, destination: Path, on_line: Callable[[str], None]) -> None:
        """Write an OCI image layout to `destination`, which doesn't exist yet; its tag is the suite.

        The image appears whole or not at all. `on_line` gets mmdebstrap's progress. When the task is cancelled, or
        this process killed, nothing keeps running. Call it from the main thread.

        Raises StartError with one sentence.
        """
        if obstacle := self.obstacle():
            raise StartError(obstacle)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            for left in destination.parent.glob(f".{destination.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=destination.parent) as folder:
                archive = Path(folder, "root.tar")
                await self._install(archive, on_line)
                on_line("packing the base image")
                await asyncio.to_thread(self._pack, archive, destination)
        except OSError as error:
            raise StartError(f"{error.filename or destination} can't be written: {error.strerror}") from error

    async def _install(self, archive: Path, on_line: Callable[[str], None]) -> None:
        log, sources = archive.with_name("log"), archive.with_name("sources.list")
        sources.write_text("".join(f"{line}\n" for line in self.sources()))
        # Files from before midnight keep their times, the others get that of midnight: the same packages, installed
        # on the same day, make the same image.
        midnight = int(time.time()) // 86400 * 86400
        environment = {**machine_environment(), "SOURCE_DATE_EPOCH": str(midnight)}
        if os.geteuid() == 0:  # other users' systems have to be where their subordinate users can get at them
            environment["TMPDIR"] = str(archive.parent)
        process = await TetheredProcess.start(Command(self._command(archive, sources), env=environment, log=log))
        try:
            with log.open(errors="replace") as lines:
                while process.returncode is None:
                    await asyncio.sleep(_POLL_SECONDS)
                    for line in lines:
                        on_line(line.rstrip())
        finally:
            await process.stop()
        if code := await process.wait():
            raise StartError(f"mmdebstrap {describe_exit(code)}: {_cause(log)}")

    def _command(self, archive: Path, sources: Path) -> list[str]:
        hook = _NEUTRAL.format(sources=_SOURCES.format(suite=self.suite))
        return [
            *_own_mounts(),
            *("mmdebstrap", "--variant=minbase", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}"),
            *(f"--include={_PACKAGES}", *_SMALL_AND_QUICK, f"--customize-hook={hook}"),
            *(f"--aptopt={setting}" for setting in _apt_settings()),
            *(self.suite, str(archive), str(sources)),
        ]

    def sources(self) -> list[str]:
        """Return this machine's own sources of the suite, in the form of `sources.list`, else Debian's."""
        apt = self._etc / "apt"
        texts = [
            path.read_text()
            for path in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list")))
            if path.is_file()
        ]
        lines = [line for text in texts for line in text.splitlines()]
        for path in sorted(apt.glob("sources.list.d/*.sources")):
            lines += _as_lines(path.read_text())
        own = [line for line in lines if _is_debian(line, self.suite)] if self._is_debian_host else []
        return own or _as_lines(_SOURCES.format(suite=self.suite))

    def _pack(self, archive: Path, destination: Path) -> None:
        """Make an image of the archive, and put it in place."""
        layer_file = archive.with_name("layer.tar.gz")
        diff_id, size, digest = compress(archive, layer_file, _LEVEL)
        layer = Descriptor(OCI_LAYER_GZIP, digest, size)
        config = canonical_json(
            {
                "architecture": host_platform().partition("/")[2],
                "os": "linux",
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": ["bash"],
                },
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
                "history": [{"created_by": f"image-registry: {self.title} by mmdebstrap"}],
            }
        )
        manifest = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)).to_json(),
                "layers": [layer.to_json()],
            }
        )
        repository = LayoutRepository(destination, destination.parent)
        repository.push(_OWNER, Manifest.read(manifest, OCI_MANIFEST), [(layer, layer_file)], config, [self.suite])


def _own_mounts() -> Sequence[str]:
    """What a command is put behind whose mounts nobody else is to see.

    As root mmdebstrap mounts this machine's /dev and /proc into the system that it makes. Killed, it leaves them, and
    to remove its folder would be to remove what is in them. In a namespace of their own they are gone with it. Where
    there can be none there can be no mounts either.
    """
    own = ("unshare", "--mount", "--propagation", "private")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return ()
    tried = subprocess.run([*own, "true"], check=False, capture_output=True, timeout=_UNSHARE_SECONDS)
    return own if tried.returncode == 0 else ()


def _host_suite(etc: Path) -> str | None:
    """Return the suite of the machine if it is a Debian that is known here."""
    try:
        text = (etc / "os-release").read_text()
    except OSError:
        return None
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    suite = values.get("VERSION_CODENAME", "")
    return suite if values.get("ID") == "debian" and suite in _RELEASES else None


def _as_lines(text: str) -> list[str]:
    """Turn deb822 sources (see sources.list(5)) into lines of the older form."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", text):
        unfolded = re.sub(r"\n[ \t]+", " ", re.sub(r"^#.*\n?", "", paragraph, flags=re.MULTILINE))
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in unfolded.splitlines())
        }
        key = fields.get("signed-by", "")
        options = f"[signed-by={key}] " if key.startswith("/") and " " not in key else ""
        if fields.get("enabled", "yes") == "yes" and "deb" in fields.get("types", "").split():
            lines += [
                f"deb {options}{uri} {suite} {fields.get('components', '')}"
                for uri in fields.get("uris", "").split()
                for suite in fields.get("suites", "").split()
            ]
    return lines


def _is_debian(line: str, suite: str) -> bool:
    """Whether a line of `sources.list` is one of Debian's own archives for the suite."""
    match = re.fullmatch(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
    if match is None:
        return False
    key = re.search(r"signed-by=(\S+)", match[1] or "")
    is_own_key = key is None or "debian-archive" in key[1]
    return is_own_key and match[3] in {suite, f"{suite}-updates", f"{suite}-security"} and "main" in match[4].split()


def _apt_settings() -> list[str]:
    """Return how this machine's apt reaches its sources: proxies, certificates, retries."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _APT_SETTINGS.findall(dump)


def _cause(log: Path) -> str:
    lines = [line for line in last_lines(log, 20) if line.startswith("E:")]
    return (lines or last_lines(log, 1) or ["it says nothing"])[0].removeprefix("E:").strip()
