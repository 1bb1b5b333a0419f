"""Where a fault test's images go: a folder of layouts, or a registry server that can be killed; and what is there."""

import contextlib
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

import httpx

from image_registry.builds.oci.manifest import MANIFESTS
from image_registry.builds.oci.push import NOTES
from image_registry.host.addresses import free_port

PREFIX = "managed"
_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_ACCEPT = {"Accept": ", ".join(MANIFESTS), "Accept-Encoding": "identity"}


class Repositories(ABC):
    """The repositories of a deployment, looked at from outside. `folder` is this object's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[object] = set()

    @property
    @abstractmethod
    def setting(self) -> str:
        """The deployment's REPOSITORY."""

    @abstractmethod
    def tags(self, name: str) -> dict[str, str]:
        """The digest of each of an image's tags. Raises OSError for a repository that isn't there."""

    @abstractmethod
    def blob(self, name: str, digest: str) -> Path:
        """A file with a blob or a manifest of an image; it is what its digest says."""

    @abstractmethod
    def remains(self, known: set[str]) -> list[str]:
        """What is there that belongs to none of the images `known`."""

    def _verified(self, path: Path, digest: str, key: object) -> Path:
        if key not in self._sound:
            with path.open("rb") as file:
                assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest, f"{digest} is damaged"
            self._sound.add(key)
        return path


class Layouts(Repositories):
    """OCI image layouts on disk."""

    @property
    def setting(self) -> str:
        """See Repositories."""
        return f"oci:{self.folder}"

    def tags(self, name: str) -> dict[str, str]:
        """See Repositories."""
        entries = json.loads((self.folder / PREFIX / name / "index.json").read_text())["manifests"]
        return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}

    def blob(self, name: str, digest: str) -> Path:
        """See Repositories. The same file (by inode) is read once."""
        path = self.folder / PREFIX / name / "blobs" / digest.replace(":", "/")
        stat = path.stat()
        return self._verified(path, digest, (stat.st_dev, stat.st_ino))

    def remains(self, known: set[str]) -> list[str]:
        """See Repositories."""
        faults = []
        for folder in (self.folder / PREFIX).glob("[!.]*"):
            if folder.name not in known:
                faults.append(f"orphan repository: {folder.name}")
            elif (folder / "index.json").exists():
                faults += [f"unfinished file: {path}" for path in folder.rglob(".part-*")]
        return faults + [f"orphan in the trash: {path}" for path in (self.folder / PREFIX).glob(".trash/*")]


class Registry(Repositories):
    """Debian's `docker-registry`, which keeps what it acknowledged on disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "pulled").mkdir(parents=True)
        self._config = folder / "registry.yml"
        self._config.write_text(_CONFIG.format(root=folder / "storage", port=self.port))

    @staticmethod
    def can_run() -> bool:
        """Whether this machine has it."""
        return shutil.which("docker-registry") is not None

    @property
    def setting(self) -> str:
        """See Repositories."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on its port and with what it had."""
        with (self.folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "docker-registry doesn't start"
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def tags(self, name: str) -> dict[str, str]:
        """See Repositories."""
        found = self._get(f"{PREFIX}/{name}/tags/list").json()["tags"] or []
        manifests = {tag: self._get(f"{PREFIX}/{name}/manifests/{tag}") for tag in found if not tag.startswith("_")}
        return {tag: f"sha256:{hashlib.sha256(answer.content).hexdigest()}" for tag, answer in manifests.items()}

    def blob(self, name: str, digest: str) -> Path:
        """See Repositories. What another repository has too is only asked for."""
        path = self.folder / "pulled" / digest.removeprefix("sha256:")
        kind = next(kind for kind in ("blobs", "manifests") if self._has(f"{PREFIX}/{name}/{kind}/{digest}"))
        if not path.exists():
            with httpx.stream("GET", self._url(f"{PREFIX}/{name}/{kind}/{digest}"), headers=_ACCEPT) as answer:
                answer.raise_for_status()
                with path.open("wb") as file:
                    for chunk in answer.iter_raw():
                        file.write(chunk)
        return self._verified(path, digest, digest)

    def remains(self, known: set[str]) -> list[str]:
        """See Repositories. A repository without a tag is one that is gone: the server never forgets a name."""
        faults = []
        for repository in self._get("_catalog?n=1000").json()["repositories"]:
            name = repository.removeprefix(f"{PREFIX}/")
            if name == repository:
                faults.append(f"repository outside the prefix: {repository}")
            elif name not in known and name != NOTES:
                with contextlib.suppress(OSError):
                    faults += [f"orphan in the registry: {name}:{tag}" for tag in self.tags(name)]
        return faults

    def _has(self, path: str) -> bool:
        return httpx.head(self._url(path), headers=_ACCEPT).status_code == httpx.codes.OK

    def _get(self, path: str) -> httpx.Response:
        answer = httpx.get(self._url(path), headers=_ACCEPT)
        if answer.status_code != httpx.codes.OK:
            raise FileNotFoundError(f"{path}: HTTP {answer.status_code}")
        return answer

    def _url(self, path: str) -> str:
        return f"http://{self.setting}/v2/{path}"
