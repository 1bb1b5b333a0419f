"""A container's changes as a layer: without what tells when, where and how it was made, and without caches and logs.

What a container's processes wrote is not trusted: an entry that no layer needs (a device, a path that climbs out) ends
the build.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from image_registry.builds.cache import Layer
from image_registry.builds.oci.manifest import OCI_LAYER_GZIP, Descriptor
from image_registry.builds.plan import internal
from image_registry.builds.targz import EPOCH, compress

_DROPPED = re.compile(
    r"(?:dev|proc|sys|run|tmp|var/tmp|var/run|root/\.cache|mnt|media)/.+|\.dockerenv"
    r"|etc/(?:resolv\.conf|hosts|hostname|mtab)|usr/sbin/policy-rc\.d"
    r"|var/(?:log|cache/(?:apt|dnf|yum|man|ldconfig|debconf|image-registry)|lib/apt/lists|lib/apt/periodic)/.+"
    r"|var/cache/image-registry|var/lib/(?:dpkg|ucf|apt)/.*-old|var/lib/dpkg/(?:lock|lock-frontend|triggers/Lock)"
    r"|etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|var/lib/(?:rpm/\.rpm\.lock|rpm/__db\..*|dnf/history\.sqlite.*|dnf/.*\.lock|systemd/random-seed)|etc/machine-id"
    r"|usr/lib/sysimage/(?:rpm/\.rpm\.lock|libdnf5/.*lock)"
)
_WHITEOUT = ".wh."
_CAPABILITY = "SCHILY.xattr.security.capability"
_COMPRESSION = 6


def tidy_layer(changes: Path, made_after: float, title: str, path: Path) -> Layer:
    """Write a layer to `path` out of the tar archive of a container's changes.

    Times later than `made_after` are those of the installation itself and become the one that all layers have.
    """
    plain = path.with_name(f"{path.name}.tar")
    try:
        unpacked = _rewrite(changes, made_after, plain)
        diff_id, size, digest = compress(plain, path, _COMPRESSION)
    finally:
        plain.unlink(missing_ok=True)
    return Layer(Descriptor(OCI_LAYER_GZIP, digest, size), diff_id, (), unpacked, (), (), 0, title)


def _rewrite(changes: Path, made_after: float, path: Path) -> int:
    total = 0
    with tarfile.open(changes, "r:") as source, tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as target:
        for member in source:
            name = _checked(member)
            if not name or is_dropped(name):
                continue
            member.name, member.uname, member.gname = name, "", ""
            member.mtime = EPOCH if member.mtime > made_after else int(member.mtime)
            kept = member.pax_headers.get(_CAPABILITY)
            member.pax_headers = {_CAPABILITY: kept} if kept is not None else {}
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
            total += member.size if member.isreg() else 0
    return total


def is_dropped(name: str) -> bool:
    """Whether a path of the container stays out of the layer; what was removed there stays as it was too."""
    folder, _, last = name.rpartition("/")
    plain = f"{folder}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
    return _DROPPED.fullmatch(plain) is not None


def _checked(member: tarfile.TarInfo) -> str:
    parts = [part for part in member.name.split("/") if part not in {"", "."}]
    name = "/".join(parts)
    if ".." in parts or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        internal(f"The packages left {name[:200]!a} in the image, which no layer can hold.")
    return name
