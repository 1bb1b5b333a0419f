"""What is in deploy/, as data."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def compose() -> Any:
    """The Compose file, its variables at their defaults."""
    text = (DEPLOY / "compose.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def resources() -> list[Any]:
    """What the kustomization puts into a cluster, and the example of its secrets."""
    files = [name for name in documents(KUBERNETES / "kustomization.yaml")[0]["resources"] if name.endswith(".yaml")]
    return [one for name in [*files, "secrets.example.yaml"] for one in documents(KUBERNETES / name)]


def resource(kind: str, name: str) -> Any:
    """One of them."""
    return next(one for one in resources() if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pods() -> Iterator[tuple[str, Any]]:
    """The pods of every workload: name and spec."""
    for one in resources():
        if one["kind"] in {"Deployment", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers() -> Iterator[tuple[str, Any]]:
    """Every container, with its pod's name."""
    for name, pod in pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield name, container
