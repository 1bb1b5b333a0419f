"""Base images for the tests of system packages, made out of the tests' Debian base."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

from image_registry.builds.oci.layout import Layout, LayoutRepository
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
from tests.fixtures.base_image import TestBase

# What apt, dpkg and a shell need; without the rest a build's base is unpacked in a fraction of the time.
_NEEDLESS = re.compile(
    r"\./usr/(?:share/(?!dpkg|keyrings|debconf|perl5/Debconf)|lib/python3|lib/x86_64-linux-gnu/(?:gconv|perl/)|include|games)"
    r".*|\./var/(?:cache|lib/apt/lists)/.+|\./etc/apt/sources\.list\.d/.+"
)
_ROCKY = 'NAME="Rocky Linux"\nVERSION="9.3"\nID="rocky"\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="Rocky Linux 9.3"\n'


def small_base(base: TestBase, folder: Path, files: dict[str, str]) -> TestBase:
    """The Debian base with all that installing a small package doesn't need left out, and `files` put in."""
    layout, manifest = _opened(base)
    data = io.BytesIO()
    with (
        tarfile.open(layout.blob_path(manifest.layers[0].digest), "r:gz") as source,
        tarfile.open(fileobj=data, mode="w") as target,
    ):
        for member in source:
            if not _NEEDLESS.fullmatch(member.name):
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
        _add(target, files)
    return _image(data.getvalue(), folder, base.python_version)


def yum_base(small: TestBase, folder: Path, files: dict[str, str]) -> TestBase:
    """The small base with this machine's dnf, rpm and Python in it, and Rocky Linux's os-release.

    A stand-in: it has the package manager of Rocky Linux, none of its packages; its RPM database is empty.
    """
    layout, manifest = _opened(small)
    known = folder.with_name("status")
    with tarfile.open(layout.blob_path(manifest.layers[0].digest), "r:gz") as source:
        status = source.extractfile("./var/lib/dpkg/status")
        assert status is not None
        known.write_bytes(status.read())
    options = ["-o", f"Dir::State::status={known}", "--no-install-recommends"]
    planned = _output("apt-get", "install", "--simulate", *options, "dnf", "rpm")
    packages = [*re.findall(r"^Inst (\S+)", planned, re.MULTILINE), "python3-minimal"]
    version = small.python_version
    packages += [f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"]
    paths = [path for path in _output("dpkg", "--listfiles", *packages).splitlines() if path.startswith("/usr/")]
    paths += [path for path in ("/etc/dnf/dnf.conf",) if Path(path).exists()]
    listed = folder.with_name("paths")
    listed.write_text("\n".join(sorted({path.lstrip("/") for path in paths if Path(path).exists()})))
    archive = folder.with_name("dnf.tar")
    _output("tar", "--create", f"--file={archive}", "--no-recursion", "--directory=/", f"--files-from={listed}")
    with tarfile.open(archive, mode="a") as target:
        _add(target, {"usr/lib/os-release": _ROCKY, "etc/os-release": _ROCKY, **files})
    return _image(archive.read_bytes(), folder, small.python_version, small)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _opened(base: TestBase) -> tuple[Layout, Manifest]:
    layout = Layout(base.layout)
    return layout, layout.manifest(base.reference.rpartition(":")[2], host_platform().partition("/")[2])


def _add(target: tarfile.TarFile, files: dict[str, str]) -> None:
    for name, text in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        target.addfile(member, io.BytesIO(text.encode()))


def _image(tar: bytes, folder: Path, python: str, below: TestBase | None = None) -> TestBase:
    file = folder.with_name(f"{folder.name}.layer")
    file.write_bytes(gzip.compress(tar, 1, mtime=0))
    layer = Descriptor(OCI_LAYER_GZIP, digest_of(file.read_bytes()), file.stat().st_size)
    layers, diff_ids = [(layer, file)], [digest_of(tar)]
    if below:
        layout, lower = _opened(below)
        layers = [*((one, layout.blob_path(one.digest)) for one in lower.layers), *layers]
        diff_ids = [*json.loads(layout.read_blob(lower.config, 1 << 20))["rootfs"]["diff_ids"], *diff_ids]
    config = canonical_json(
        {
            "architecture": host_platform().partition("/")[2],
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)).to_json(),
            "layers": [one.to_json() for one, _ in layers],
        }
    )
    repository = LayoutRepository(folder, folder.parent)
    repository.push("tests", Manifest.read(manifest, OCI_MANIFEST), layers, config, ["base"])
    return TestBase(f"oci:{folder}:base", folder, python)
