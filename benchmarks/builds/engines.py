"""The ways to build that are compared. Each gets a base in a registry and ends with an image in an OCI layout."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from image_registry.builds.plan import BuildPlan, BuildResult, Limits, Lock, PackageIndex, RegistryAccess
from image_registry.builds.runner import run_build

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass
class Layers:
    """This service's builds."""

    folder: Path
    host: str
    index: PackageIndex = field(default_factory=PackageIndex)
    result: BuildResult | None = None

    @property
    def lock(self) -> Lock:
        """The lock of the last build."""
        if self.result is None:
            raise RuntimeError("nothing has been built")
        return self.result.lock

    def forget(self) -> None:
        """Make the next build a cold one."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def build(self, base: str, requirements: tuple[str, ...], *, name: str = "", lock: Lock | None = None) -> float:
        """Build and return the seconds."""
        root = self.folder / "images"
        plan = BuildPlan(
            image_id=f"benchmark/{name or secrets.token_hex(4)}",
            python_version="3.11",
            base=base,
            requirements=requirements,
            destination=f"oci:{root}/{name or secrets.token_hex(4)}",
            destination_root=f"oci:{root}",
            tags=("latest",),
            cache_dir=self.folder / "cache",
            work_dir=self.folder / "work",
            index=self.index,
            registries=(RegistryAccess(host=self.host, endpoint=f"http://{self.host}"),),
            limits=Limits(seconds=900),
            lock=lock,
        )
        began = time.monotonic()
        self.result = asyncio.run(run_build(plan, lambda _: None))
        return time.monotonic() - began


@dataclass
class Buildah:
    """Container builds by buildah with chroot isolation, as root: `pip`, or `uv` with a cache mount."""

    folder: Path
    tool: str

    def forget(self) -> None:
        """Make the next build a cold one: no base, no cache of libraries."""
        if self.folder.exists():
            self._run("rm", "--all")
            self._run("rmi", "--all", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)

    def build(self, base: str, requirements: tuple[str, ...]) -> float:
        """Build, push into a layout, and return the seconds; the layer of the libraries is made anew each time."""
        context = self.folder / "context"
        context.mkdir(parents=True, exist_ok=True)
        (context / "requirements.txt").write_text("\n".join(requirements) + "\n")
        (context / "Containerfile").write_text(self._containerfile(base))
        target = self.folder / "out" / secrets.token_hex(4)
        target.mkdir(parents=True)
        began = time.monotonic()
        mounts = [f"--volume={_CERTIFICATES}:{_CERTIFICATES}:ro", f"--volume={context}:/context:ro"]
        if self.tool == "uv":
            mounts.append(f"--volume={find_uv_bin()}:/usr/local/bin/uv:ro")
        command = ["--isolation=chroot", "--layers=false", "--tls-verify=false", "--quiet", *mounts]
        self._run("build", *command, "--tag=built", str(context))
        self._run("push", "--quiet", "built", f"oci:{target}:latest")
        return time.monotonic() - began

    def _containerfile(self, base: str) -> str:
        if self.tool == "pip":
            install = "RUN pip install --no-cache-dir"
        else:
            install = "RUN --mount=type=cache,target=/root/.cache/uv uv pip install --system --link-mode copy"
        wheels = "--break-system-packages --only-binary :all: -r /context/requirements.txt"
        settings = f"PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 SSL_CERT_FILE={_CERTIFICATES}"
        return f"FROM {base}\nENV {settings}\n{install} {wheels}\n"

    def _run(self, *arguments: str) -> None:
        own = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["buildah", *own, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"buildah {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def versions() -> dict[str, str]:
    """The tools' versions."""
    found = {}
    for tool in ("buildah", "uv", "docker-registry"):
        program = find_uv_bin() if tool == "uv" else tool
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found[tool] = match[0] if (match := re.search(r"\d+\.\d+[\w.+~-]*", said)) else "of unknown version"
    return found
