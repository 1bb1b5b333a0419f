"""Control groups of version 2, in a folder that stands for the kernel's tree: which files get which values, and where.

What the kernel makes of them is not shown: no machine with version 2 alone has run this.
"""

from pathlib import Path

import pytest

from image_registry.builds.packages import control_group
from image_registry.builds.packages.control_group import ControlGroup, NoControlGroupError
from image_registry.builds.packages.wanted import Confinement

BOUNDS = Confinement(memory_bytes=1 << 30, cpus=1.5, processes=99)
OWN = "system.slice/worker.service"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree of a machine with version 2 alone, this process being a service's."""
    tree, proc = tmp_path / "cgroup", tmp_path / "proc"
    (tree / OWN).mkdir(parents=True)
    proc.mkdir()
    (proc / "mountinfo").write_text(f"30 24 0:26 / {tree} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    (proc / "cgroup").write_text(f"0::/{OWN}\n")
    monkeypatch.setattr(control_group, "_PROC", proc)
    return tree


def refuse(file: Path) -> None:
    """Let nothing be written to a file of the kernel's."""
    file.mkdir()


def test_a_group_is_made_below_the_own_one_with_all_bounds(tree: Path) -> None:
    group = ControlGroup.make("build", BOUNDS)
    group.add(4711)
    made = tree / OWN / "image-registry" / "build"
    assert {path.name: path.read_text() for path in made.iterdir()} == {
        "memory.max": "1073741824",
        "memory.swap.max": "0",
        "cpu.max": "150000 100000",
        "pids.max": "99",
        "cgroup.procs": "4711",
    }
    for parent in (tree / OWN, tree / OWN / "image-registry"):
        assert (parent / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert group.out_of_memory_kills == 0
    (made / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert group.out_of_memory_kills == 2


def test_a_group_with_processes_hands_nothing_down_so_the_top_does(tree: Path) -> None:
    refuse(tree / OWN / "cgroup.subtree_control")
    ControlGroup.make("build", BOUNDS)
    assert (tree / "image-registry" / "build" / "pids.max").read_text() == "99"
    assert not (tree / OWN / "image-registry" / "build").exists()


def test_where_none_can_be_made_it_says_why(tree: Path) -> None:
    refuse(tree / OWN / "cgroup.subtree_control")
    refuse(tree / "cgroup.subtree_control")
    with pytest.raises(
        NoControlGroupError, match=r"subtree_control: Is a directory; .*subtree_control: Is a directory"
    ):
        ControlGroup.make("build", BOUNDS)


def test_in_a_container_the_tree_begins_at_its_own_group(tree: Path) -> None:
    (tree.parent / "proc" / "cgroup").write_text("0::/kubepods/pod1/container1\n")
    ControlGroup.make("build", BOUNDS)
    assert (tree / "image-registry" / "build" / "memory.max").exists()
