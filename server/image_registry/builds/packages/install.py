"""The stage of a build that installs system packages: the layer of the same packages on the same base, or a new one.

The layer is kept by the base's digest and what was asked for. Unpinned packages therefore stay at the versions of the
first build on that base; a new base, or a pinned version, brings others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from image_registry.builds.base_image import BaseImage
from image_registry.builds.cache import Cache, Layer
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.files import link_whole
from image_registry.builds.oci.layout import Layout
from image_registry.builds.oci.manifest import (
    LARGEST_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    digest_of,
)
from image_registry.builds.packages.control_group import group_name
from image_registry.builds.packages.identities import remove_tree
from image_registry.builds.packages.managers import Recipe, cause, container_environment, recipe
from image_registry.builds.packages.sandbox import (
    OUTPUT,
    OutOfDiskError,
    OutOfMemoryError,
    OutOfTimeError,
    Sandbox,
    SandboxError,
    Step,
    StepFailedError,
)
from image_registry.builds.packages.tidy import tidy_layer
from image_registry.builds.packages.wanted import Confinement, Manager, SystemPackages
from image_registry.builds.plan import BuildFailed, BuildPlan, FailureReason, internal, retryable, user_error

_FORMAT = 1
"""Change it with anything that changes a layer's bytes."""
_FETCH, _INSTALL = "fetch", "install"
_TAG = "image"
_CONTAINER = "packages"
_ENGINE = ("buildah", "--root", "/build/storage", "--runroot", "/run/buildah")
_NEEDLESS = (
    "CAP_SYS_CHROOT",
    "CAP_NET_BIND_SERVICE",
    "CAP_KILL",
)  # of the capabilities that containers have by default
# The engine ends with the command without waiting for what it has still to pass on (`chroot/run_common.go` of buildah
# 1.28 and 1.44): the command passes it by. A container has the sandbox's /dev, read-only.
_PAST_THE_ENGINE = ("sh", "-c", f'exec "$@" > {OUTPUT} 2>&1', "sh")
_NO_SERVICES = "#!/bin/sh\nexit 101\n"  # invoke-rc.d(8): starting is forbidden


def with_packages(
    plan: BuildPlan, base: BaseImage, cache: Cache, own: Path, on_line: Callable[[str], None]
) -> BaseImage:
    """Return the base with a layer of the plan's packages on it. `own` is the build's folder.

    Raises BuildFailed, OSError.
    """
    if plan.packages is None:
        return base
    how = recipe(plan.packages, base.system)
    key = _key(base.manifest.digest, plan.packages)
    installation = _Installation(plan, base, own, on_line, how)
    cached = cache.layer(key, installation.make)
    on_line(f"{_title(plan.packages)}: {'reused' if cached.reused else 'made'} layer {cached.layer.blob.digest}")
    return base.with_layer(plan, cached)


def _key(base: str, wanted: SystemPackages) -> str:
    parts = ["packages", _FORMAT, base, wanted.manager, sorted(wanted.packages)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _title(wanted: SystemPackages) -> str:
    return f"{wanted.manager}: " + ", ".join(" ".join(filter(None, package)) for package in sorted(wanted.packages))


class _Installation:
    """Makes the layer of one set of packages on one base."""

    def __init__(
        self, plan: BuildPlan, base: BaseImage, own: Path, on_line: Callable[[str], None], how: Recipe
    ) -> None:
        self._confinement: Confinement = plan.confinement
        self._wanted = plan.packages or SystemPackages(manager=Manager.APT, packages=())
        self._base = base
        self._folder = own / "packages"
        self._group = group_name(own)
        self._on_line = on_line
        self._how = how

    def make(self, path: Path) -> Layer:
        """Install, and write the layer of what that changed to `path`."""
        began = int(time.time())
        try:
            self._lay_out()
            self._install()
            return tidy_layer(self._changes(), began, _title(self._wanted), path)
        finally:
            remove_tree(self._folder)

    def _lay_out(self) -> None:
        """Put the base into the sandbox's folder as an OCI image layout: links to blobs that are here already."""
        blobs = self._folder / "base" / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers = self._base.layer_files()
        for descriptor, path in layers:
            target = blobs / descriptor.digest.removeprefix("sha256:")
            link_whole(path, target)
            if not target.stat().st_mode & stat.S_IROTH:  # the sandbox's root is nobody outside
                target.unlink()
                shutil.copyfile(path, target)
        config = self._base.config
        manifest = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)).to_json(),
                "layers": [descriptor.to_json() for descriptor, _ in layers],
            }
        )
        entry = Descriptor(
            OCI_MANIFEST, digest_of(manifest), len(manifest), {"org.opencontainers.image.ref.name": _TAG}
        )
        for data in (config, manifest):
            (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
        index = {"schemaVersion": 2, "manifests": [entry.to_json()]}
        (self._folder / "base" / "index.json").write_bytes(canonical_json(index))
        (self._folder / "base" / "oci-layout").write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))
        for number in range(len(self._how.folders)):
            (self._folder / f"shared-{number}").mkdir()
        (self._folder / "policy-rc.d").write_text(_NO_SERVICES)
        (self._folder / "policy-rc.d").chmod(0o755)

    def _install(self) -> None:
        steps = [
            Step("unpack the base", (*_ENGINE, "from", "--quiet", "--name", _CONTAINER, f"oci:/build/base:{_TAG}")),
            *(Step(_FETCH, self._in_container(command)) for command in self._how.fetch),
            Step(_INSTALL, self._in_container(self._how.install), offline=True),
            Step("commit", (*_ENGINE, "commit", "--quiet", "--disable-compression", _CONTAINER, "oci:/build/out:out")),
        ]
        limits = self._confinement
        try:
            Sandbox(self._folder, self._group, limits, self._on_line).run(steps)
        except SandboxError as error:
            internal(f"This builder can't install system packages: {error}.", error)
        except OutOfMemoryError:
            _out_of_memory(limits)
        except OutOfTimeError as error:
            if error.step == _INSTALL:
                user_error(f"Installing the packages took longer than {limits.seconds:g} s: a script may never end.")
            retryable(f"The packages could not be fetched within {limits.seconds:g} s.")
        except OutOfDiskError:
            user_error(f"The packages, unpacked on their base, take more than {limits.disk_bytes // 1_000_000} MB.")
        except StepFailedError as error:
            self._explain(error)

    def _explain(self, error: StepFailedError) -> NoReturn:
        why = cause(self._wanted.manager, error.lines, fetching=error.step == _FETCH)
        if why.out_of_memory:
            _out_of_memory(self._confinement)
        if why.passing:
            retryable(why.text)
        if error.step in {_FETCH, _INSTALL}:
            user_error(why.text)
        internal(f"The container engine failed: {error}: {error.lines[-1] if error.lines else 'it says nothing'}")

    def _in_container(self, command: Sequence[str]) -> tuple[str, ...]:
        volumes = [f"/build/shared-{number}:{folder}" for number, folder in enumerate(self._how.folders)]
        if self._wanted.manager is Manager.APT:
            volumes.append("/build/policy-rc.d:/usr/sbin/policy-rc.d:ro")
        options = [
            *("--isolation", "chroot", "--network", "host", "--user", "0:0", "--workingdir", "/"),
            *(part for name in _NEEDLESS for part in ("--cap-drop", name)),
            *(
                part
                for name, value in container_environment(self._how).items()
                for part in ("--env", f"{name}={value}")
            ),
            *(part for volume in volumes for part in ("--volume", volume)),
        ]
        return (*_ENGINE, "run", *options, _CONTAINER, "--", *_PAST_THE_ENGINE, *command)

    def _changes(self) -> Path:
        """The archive of the layer that the engine made on top of the base's. Raises InvalidImageError."""
        layout = Layout(self._folder / "out")
        descriptors = list(layout.tags().values())
        if len(descriptors) != 1:
            raise InvalidImageError("the container engine wrote no image")
        manifest = Manifest.read(layout.read_blob(descriptors[0], LARGEST_MANIFEST), descriptors[0].media_type)
        if len(manifest.layers) != len(self._base.manifest.layers) + 1:
            raise InvalidImageError("the container engine changed the base's layers")
        return layout.blob_path(manifest.layers[-1].digest)


def _out_of_memory(limits: Confinement) -> NoReturn:
    megabytes = limits.memory_bytes // 1_000_000
    raise BuildFailed(
        FailureReason.OUT_OF_MEMORY, f"Installing the packages needs more memory than its {megabytes} MB."
    )
