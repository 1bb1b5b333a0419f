"""A create that is repeated during an upgrade reaches another release: both must take it for the same."""

import hashlib

from image_registry.models import NewImage, PackageRequirement, PackageType, PipRequirement
from image_registry.registry import images


def test_what_a_request_asks_has_one_fingerprint_in_all_releases() -> None:
    wanted = NewImage(
        "vision",
        "3.12",
        (PipRequirement("numpy", ">=1"), PipRequirement("torch")),
        (PackageRequirement("tree", "1.0", PackageType.APT),),
    )
    text = (
        '{"name": "vision", "python_version": "3.12", "pip_requirements": ['
        '{"name": "numpy", "version_specifier": ">=1"}, {"name": "torch", "version_specifier": ""}], '
        '"package_requirements": [{"name": "tree", "version": "1.0", "package_type": 1}]}'
    )
    assert images._fingerprint(wanted) == hashlib.sha256(text.encode()).digest()
