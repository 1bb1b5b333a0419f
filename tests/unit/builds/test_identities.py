"""Folders with files of sandboxes' users in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_REMOVE = (
    "import sys; from pathlib import Path; from image_registry.builds.packages.identities import remove_tree\n"
    "remove_tree(Path(sys.argv[1]))"
)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="a root that may do less is wanted")
def test_a_root_that_may_not_write_everywhere_removes_them(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "sandbox", tmp_path / "elsewhere"
    inner = folder / "tmp" / "overlay"
    inner.mkdir(parents=True)
    elsewhere.mkdir()
    (inner / "file").touch()
    (inner / "link").symlink_to(elsewhere)
    for place in (inner, inner.parent, folder):
        os.chown(place, 123_456, 123_456)
        place.chmod(0o700)
    less = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    subprocess.run([*less, sys.executable, "-c", _REMOVE, folder], check=True)
    assert not folder.exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o755
