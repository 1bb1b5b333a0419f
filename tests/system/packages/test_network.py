"""What a sandbox can reach: rules in a network of its own, tried from inside."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from image_registry.builds.packages.engine import look_at_machine
from image_registry.builds.packages.sandbox import Sandbox, Step
from image_registry.builds.packages.wanted import Confinement
from tests.fixtures.loopback import serve
from tests.system.packages.repositories import AptRepository, _Quiet, address, served

METADATA = "169.254.169.254"
_TRY = """\
import json, socket, sys
reached = []
for target in sys.argv[1:]:
    host, port = target.split(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
        reached.append(target)
    except OSError:
        pass
print(json.dumps(reached))
"""


def reached(folder: Path, targets: Sequence[str], *, offline: bool = False, **confinement: Any) -> list[str]:
    """The targets that a program in a sandbox can connect to."""
    inside = Path(tempfile.mkdtemp(dir=folder))
    lines: list[str] = []
    step = Step("try", ("/usr/bin/python3", "-I", "-c", _TRY, *targets), offline=offline)
    Sandbox(inside, f"test-{folder.name}", Confinement(**confinement), lines.append).run([step])
    found: list[str] = json.loads(lines[-1])
    return found


def test_this_machine_can_confine(tmp_path: Path) -> None:
    assert look_at_machine(Confinement(), tmp_path).obstacle == ""
    assert look_at_machine(Confinement(), tmp_path).gaps == ()


def test_machine_and_metadata_are_out_of_reach(apt: AptRepository, tmp_path: Path) -> None:
    with serve(_Quiet) as on_loopback, address(METADATA), served(tmp_path, METADATA) as metadata:
        targets = [on_loopback, f"198.18.77.2:{on_loopback.rpartition(':')[2]}", metadata, apt.location]
        assert reached(tmp_path, targets) == []


def test_named_networks_of_the_machine_stay(apt: AptRepository, tmp_path: Path) -> None:
    """Those of other containers, whose mounts a sandbox could take along when it goes."""
    name = f"test-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        assert reached(tmp_path, [apt.location], egress_allowed=(apt.location,)) == [apt.location]
        subprocess.run(["ip", "netns", "exec", name, "true"], check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_an_exception_is_for_its_port_alone(apt: AptRepository, tmp_path: Path) -> None:
    with served(tmp_path) as other:
        assert reached(tmp_path, [apt.location, other], egress_allowed=(apt.location,)) == [apt.location]
        whole = (apt.location.partition(":")[0],)
        assert reached(tmp_path, [apt.location, other], egress_allowed=whole) == [apt.location, other]


def test_scripts_of_packages_reach_nothing(apt: AptRepository, tmp_path: Path) -> None:
    assert reached(tmp_path, [apt.location], offline=True, egress_allowed=(apt.location,)) == []
