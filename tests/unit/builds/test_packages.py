"""System packages without a sandbox: commands, causes, rules of the network, what stays out of a layer."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from image_registry.builds.base import Base, LayerContents
from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.packages.managers import System, cause, parse_release, recipe
from image_registry.builds.packages.network import rules
from image_registry.builds.packages.tidy import is_dropped, tidy_layer
from image_registry.builds.packages.wanted import Confinement, Manager, SystemPackages
from image_registry.builds.plan import BuildFailed, BuildPlan, FailureReason
from image_registry.builds.targz import EPOCH

DEBIAN = System(parse_release('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'), frozenset({"apt-get"}))
UBUNTU = System(parse_release("ID=ubuntu\nID_LIKE=debian\n"), frozenset({"apt-get"}))
ROCKY = System(parse_release('ID="rocky"\nID_LIKE="rhel centos fedora"\n'), frozenset({"dnf", "yum"}))
MINIMAL = System(parse_release('ID="rocky"\nPRETTY_NAME="Rocky Linux 9"\n'), frozenset({"microdnf"}))
ALPINE = System(parse_release('ID=alpine\nPRETTY_NAME="Alpine Linux v3.20"\n'))

_SCRIPT_FAILED = """\
Connection refused
dpkg: error processing package x (--configure):
 installed x package post-installation script subprocess returned error exit status 3
E: Sub-process dpkg returned an error"""


def wanted(manager: Manager, *packages: str) -> SystemPackages:
    return SystemPackages(manager=manager, packages=tuple(package.partition("=")[::2] for package in packages))


def test_versions_are_pinned_in_the_managers_grammar() -> None:
    apt = recipe(wanted(Manager.APT, "jq=1:1.6-2.1+deb12u3", "g++"), UBUNTU)
    assert apt.install[apt.install.index("--") + 1 :] == ("g++", "jq=1:1.6-2.1+deb12u3")
    yum = recipe(wanted(Manager.YUM, "git=2.43.5-1.el9", "R-core"), ROCKY)
    assert yum.install[yum.install.index("--") + 1 :] == ("R-core", "git-2.43.5-1.el9")
    for how in (apt, yum):
        assert all("--" in command or command[1] == "update" for command in how.fetch)


@pytest.mark.parametrize(
    "package",
    [
        "-y",
        "--allow-unauthenticated",
        "git=--reinstall",
        "git=1 2",
        "jq-",
        "a/b",
        "x=1\ny",
        "@group",
        "*",
        "jq^",
        "/bin/sh",
    ],
)
@pytest.mark.parametrize(("manager", "system"), [(Manager.APT, DEBIAN), (Manager.YUM, ROCKY)])
def test_nothing_but_names_and_versions_becomes_an_argument(package: str, manager: Manager, system: System) -> None:
    with pytest.raises(BuildFailed) as failure:
        recipe(wanted(manager, package), system)
    assert failure.value.reason is FailureReason.USER_ERROR


@pytest.mark.parametrize(
    ("manager", "system", "reason", "told"),
    [
        (Manager.YUM, DEBIAN, FailureReason.USER_ERROR, "bookworm), which takes packages of type APT, not ROCKYLINUX."),
        (Manager.APT, ROCKY, FailureReason.USER_ERROR, "rocky, which takes packages of type ROCKYLINUX, not APT."),
        (Manager.APT, ALPINE, FailureReason.USER_ERROR, "Alpine Linux v3.20, which takes no such packages, not APT."),
        (Manager.APT, System(), FailureReason.USER_ERROR, "of an unknown distribution, which takes no such packages"),
        (Manager.YUM, MINIMAL, FailureReason.INTERNAL, "Rocky Linux 9 has only microdnf"),
    ],
)
def test_a_base_takes_its_own_packages(manager: Manager, system: System, reason: FailureReason, told: str) -> None:
    with pytest.raises(BuildFailed) as failure:
        recipe(wanted(manager, "git"), system)
    assert failure.value.reason is reason
    assert told in failure.value.message


@pytest.mark.parametrize(
    ("manager", "fetching", "said", "told", "passing"),
    [
        (Manager.APT, True, "E: Unable to locate package nonesuch", "Unable to locate package nonesuch", False),
        (
            Manager.APT,
            True,
            "E: Failed to fetch http://x/y  Could not connect\nE: Some index files failed to download.",
            "Could not connect; Some index files",
            True,
        ),
        (
            Manager.APT,
            False,
            _SCRIPT_FAILED,
            "A package's own script failed: installed x package post-installation script",
            False,
        ),
        (Manager.APT, False, "tar: write: No space left on device\nE: Sub-process", "The builder's disk is full", True),
        (Manager.APT, False, "Error: exit status 100", "apt says nothing", False),
        (
            Manager.YUM,
            True,
            "No match for argument: hello-3.0\nError: Unable to find a match: hello-3.0",
            "No match for argument: hello-3.0.",
            False,
        ),
        (Manager.YUM, True, "Error: Failed to download metadata for repo 'tests'", "could not be fetched", True),
    ],
)
def test_causes_are_one_line_in_the_managers_words(
    manager: Manager, fetching: bool, said: str, told: str, passing: bool
) -> None:
    why = cause(manager, said.splitlines(), fetching=fetching)
    assert told in why.text
    assert "\n" not in why.text
    assert why.passing is passing


def test_rules_let_exceptions_go_first() -> None:
    text = rules(Confinement(egress_allowed=("198.51.100.7:80",), egress_denied=("10.0.0.0/8",)))
    allowed, metadata = text.index("198.51.100.7/32 tcp dport 80 accept"), text.index("169.254.0.0/16 reject")
    assert allowed < metadata < text.index("10.0.0.0/8 reject") < text.index("ipv6 reject")
    with pytest.raises(ValueError, match="x"):
        rules(Confinement(egress_allowed=("accept; x",)))


@pytest.mark.parametrize(
    "path",
    ["etc/resolv.conf", "var/log/dpkg.log", "var/lib/apt/lists/x_Packages", "run/lock/x", "var/lib/dpkg/status-old",
     "dev/null", "var/cache/apt/pkgcache.bin", "var/log/.wh.dpkg.log", "tmp/x", "etc/shadow-"],
)  # fmt: skip
def test_traces_stay_out(path: str) -> None:
    assert is_dropped(path)


@pytest.mark.parametrize(
    "path", ["etc/passwd", "var/lib/dpkg/status", "usr/bin/jq", "var/log", "usr/lib/.wh.old", "tmp"]
)
def test_the_rest_stays_in(path: str) -> None:
    assert not is_dropped(path)


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, mtime: int = 1000, pax: Mapping[str, str] = MappingProxyType({})
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mtime, member.uname = kind, mtime, "somebody"
    member.pax_headers = dict(pax)
    return member


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target:
        for member in members:
            target.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return path


def test_a_layer_says_nothing_of_its_making(tmp_path: Path) -> None:
    attributes = {"SCHILY.xattr.security.capability": "\x01\udcff", "SCHILY.xattr.user.x": "y"}
    capability = entry("usr/bin/ping", pax=attributes)
    new = entry("./etc/new", mtime=5000)
    changes = archive(tmp_path / "changes", capability, new, entry("run/x"), entry("usr/.wh.old"))
    layer = tidy_layer(changes, 4000, "apt: x", tmp_path / "layer")
    with tarfile.open(tmp_path / "layer") as made:
        found = {member.name: member for member in made}
    assert list(found) == ["usr/bin/ping", "etc/new", "usr/.wh.old"]
    assert (found["usr/bin/ping"].mtime, found["etc/new"].mtime) == (1000, EPOCH)
    assert {member.uname for member in found.values()} == {""}
    assert found["usr/bin/ping"].pax_headers["SCHILY.xattr.security.capability"] == "\x01\udcff"
    assert "SCHILY.xattr.user.x" not in found["usr/bin/ping"].pax_headers
    assert layer.title == "apt: x"


@pytest.mark.parametrize("member", [entry("../etc/x"), entry("a/../../x"), entry("x", tarfile.BLKTYPE)])
def test_what_no_layer_can_hold_ends_the_build(tmp_path: Path, member: tarfile.TarInfo) -> None:
    with pytest.raises(BuildFailed) as failure:
        tidy_layer(archive(tmp_path / "changes", member), 0, "", tmp_path / "layer")
    assert failure.value.reason is FailureReason.INTERNAL


def test_a_machine_without_the_programs_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = look_at_machine(Confinement(), tmp_path)
    assert check.obstacle == "buildah and slirp4netns and nft not installed"
    assert check.remedy == "on Debian: apt-get install buildah slirp4netns nftables"
    assert look_at_machine(Confinement(required=False), tmp_path).obstacle == "buildah not installed"


def test_the_distribution_is_read_from_the_layers() -> None:
    lower = LayerContents(
        release={"usr/lib/os-release": "ID=debian\n", "etc/os-release": ""}, managers={"usr/bin/apt-get": "apt-get"}
    )
    assert Base.of([lower]).system == System({"ID": "debian"}, frozenset({"apt-get"}))
    assert Base.of([lower, LayerContents(removed=["usr/bin/apt-get"])]).system.programs == frozenset()


def test_a_plan_with_packages_travels(tmp_path: Path) -> None:
    plan = BuildPlan(
        image_id="x", python_version="3.12", base="oci:/x", requirements=(), destination="oci:/r/x",
        destination_root="oci:/r", tags=("v1",), cache_dir=tmp_path, work_dir=tmp_path,
        packages=wanted(Manager.APT, "jq=1.6"), confinement=Confinement(egress_allowed=("10.0.0.1",), cpus=1.5),
    )  # fmt: skip
    assert BuildPlan.from_json(plan.to_json()) == plan
