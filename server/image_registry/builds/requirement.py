"""The last gate before the resolver: names, extras and version specifiers pass, nothing else does.

uv would run a local project's `setup.py` for `-e ./x` and `git` for a `git+` address even when building is switched
off, so whatever the API let through, only text that was parsed and written again from its parts goes on.
"""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from image_registry.builds.plan import user_error

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508, ASCII only
_LONGEST = 1000
_SHOWN = 80


def plain_requirement(text: str) -> str:
    """Return `name[extras]specifier`, normalised and sorted, without blanks.

    Raises BuildFailed (USER_ERROR) for addresses, paths, options, markers, and for anything beyond printable ASCII.
    """
    shown = ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    if len(text) > _LONGEST or not text.isascii() or not text.isprintable():
        user_error(f"The requirement {shown} is too long or holds characters that no requirement has.")
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        user_error(f"{shown} is not a requirement: a library's name, extras and a version specifier are.")
    if parsed.url is not None:
        user_error(f"The requirement {shown} names an address; libraries come from the package index alone.")
    if parsed.marker is not None:
        user_error(f"The requirement {shown} has an environment marker; an image is one environment.")
    if not all(_NAME.fullmatch(name) for name in (parsed.name, *parsed.extras)):
        user_error(f"The requirement {shown} has a name that no library can have.")
    if any(specifier.operator == "===" for specifier in parsed.specifier):
        user_error(f"The requirement {shown} compares versions as text (===); == compares them as versions.")
    extras = sorted(canonicalize_name(extra) for extra in parsed.extras)
    listed = f"[{','.join(extras)}]" if extras else ""
    specifiers = sorted(str(specifier) for specifier in parsed.specifier)
    return f"{canonicalize_name(parsed.name)}{listed}{','.join(specifiers)}"
