"""Package repositories of a test's own: made with dpkg-deb and rpmbuild, served on an address of this machine."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ADDRESS = "198.51.100.77"
"""Of a network for documentation (RFC 5737); the tests put it on the loopback interface, nothing of it leaves."""

_SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: A package of a test
License: MIT
BuildArch: noarch
%description
A package of a test.
%install
mkdir -p %{{buildroot}}/usr/bin
printf '#!/bin/sh\\necho {name} {version}\\n' > %{{buildroot}}/usr/bin/{name}
chmod 755 %{{buildroot}}/usr/bin/{name}
%pre
{before}
%post
{script}
%files
/usr/bin/{name}
"""
_SHELL = """\
Name: shell
Version: 1.0
Release: 1
Summary: Stands for the shell
License: MIT
BuildArch: noarch
Provides: /bin/sh
%description
Stands for the shell.
%files
"""


@contextlib.contextmanager
def address(text: str) -> Iterator[None]:
    """Let the machine have one more address of its own for a while."""
    subprocess.run(["ip", "address", "replace", f"{text}/32", "dev", "lo"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "delete", f"{text}/32", "dev", "lo"], check=True, capture_output=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, host: str = ADDRESS) -> Iterator[str]:
    """Serve a folder over HTTP; yields host:port."""
    server = ThreadingHTTPServer((host, 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class AptRepository:
    """A flat repository; `location` is its host:port."""

    folder: Path
    location: str
    entries: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The line of `sources.list`."""
        return f"deb [trusted=yes] http://{self.location} ./\n"

    def add(self, name: str, version: str = "1.0", script: str = "", depends: str = "") -> None:
        """Add a package with the program `/usr/bin/NAME`; `script` is run when it is installed."""
        tree = self.folder.parent / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/bin").mkdir(parents=True)
        program = tree / "usr/bin" / name
        program.write_text(f"#!/bin/sh\necho {name} {version}\n")
        program.chmod(0o755)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: tests <tests@example.com>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Description: a package of a test\n"
        (tree / "DEBIAN/control").write_text(control)
        if script:
            (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{script}\n")
            (tree / "DEBIAN/postinst").chmod(0o755)
        file = f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", tree, self.folder / file], check=True, capture_output=True
        )
        data = (self.folder / file).read_bytes()
        facts = f"Filename: ./{file}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        self.entries.append(control + facts)
        text = "\n".join(self.entries).encode()
        (self.folder / "Packages").write_bytes(text)
        (self.folder / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
        listed = {name: (self.folder / name).read_bytes() for name in ("Packages", "Packages.gz")}
        sums = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in listed.items())
        (self.folder / "Release").write_text(f"Origin: tests\nSuite: tests\nSHA256:\n{sums}")


@dataclass
class YumRepository:
    """A repository made by createrepo_c; `location` is its host:port."""

    folder: Path
    location: str

    @property
    def source(self) -> str:
        """The file for `/etc/yum.repos.d`."""
        return f"[tests]\nname=tests\nbaseurl=http://{self.location}\nenabled=1\ngpgcheck=0\n"

    def __post_init__(self) -> None:
        self._build("shell", _SHELL)  # the stand-in's own shell is in no RPM

    def add(self, name: str, version: str = "1.0", script: str = ":", before: str = ":") -> None:
        """Add a package with the program `/usr/bin/NAME`; `script` runs after its installation, `before` before."""
        self._build(f"{name}-{version}", _SPEC.format(name=name, version=version, script=script, before=before))

    def _build(self, name: str, spec: str) -> None:
        work = self.folder.parent / f"rpm-{name}"
        work.mkdir()
        (work / "it.spec").write_text(spec)
        defines = {"_topdir": work, "_rpmdir": self.folder, "_build_id_links": "none"}
        options = [part for key, value in defines.items() for part in ("--define", f"{key} {value}")]
        subprocess.run(["rpmbuild", *options, "-bb", work / "it.spec"], check=True, capture_output=True)
        subprocess.run(["createrepo_c", self.folder], check=True, capture_output=True)
