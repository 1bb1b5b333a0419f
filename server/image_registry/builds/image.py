"""The new image's config and manifest: the base's, with layers and the environment's variables added.

Nothing in them depends on when, where or by whom the image is made, or on what its base is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from image_registry.builds.cache import Layer
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.layer import PREFIX
from image_registry.builds.oci.manifest import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    digest_of,
    parse_object,
)

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what container engines take
_BASE_DIGEST = "org.opencontainers.image.base.digest"
_EARLIEST = "1980-01-02T00:00:00Z"


def compose(base: Manifest, config: bytes, layers: Sequence[Layer]) -> tuple[Manifest, bytes]:
    """Return the manifest and the config of the base with the layers on top of it.

    `config` is the base's. Without layers both are the base's own, unchanged. Raises InvalidImageError when the base's
    config and manifest don't belong together.
    """
    if not layers:
        return base, config
    image = parse_object(config, "the base image's config")
    _add_layers(image, base, layers)
    _add_environment(image, base)
    data = canonical_json(image)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, digest_of(data), len(data)).to_json(),
        "layers": [layer.to_json() for layer in (*base.layers, *(layer.blob for layer in layers))],
        "annotations": {_BASE_DIGEST: base.digest},
    }
    return Manifest.read(canonical_json(manifest), OCI_MANIFEST), data


def _add_layers(image: dict[str, Any], base: Manifest, layers: Sequence[Layer]) -> None:
    diff_ids = image.get("rootfs", {}).get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != len(base.layers):
        raise InvalidImageError("the base image's config names other layers than its manifest")
    created = image.setdefault("created", _EARLIEST)
    image["rootfs"] = {"type": "layers", "diff_ids": [*diff_ids, *(layer.diff_id for layer in layers)]}
    history = image.get("history")
    history = history if isinstance(history, list) else []
    if sum(not entry.get("empty_layer", False) for entry in history) != len(diff_ids):
        history = [{"created": created, "comment": "base image"} for _ in diff_ids]
    added = [{"created": created, "created_by": f"image-registry: {_describe(layer)}"} for layer in layers]
    image["history"] = [*history, *added]


def _describe(layer: Layer) -> str:
    names = [f"{name} {version}" for name, version in layer.libraries]
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or layer.title or "environment"
    )


def _add_environment(image: dict[str, Any], base: Manifest) -> None:
    settings = image.get("config") or {}
    variables = dict(text.partition("=")[::2] for text in settings.get("Env") or [])
    path = [part for part in variables.get("PATH", _DEFAULT_PATH).split(":") if part != f"/{PREFIX}/bin"]
    variables["PATH"] = ":".join([f"/{PREFIX}/bin", *path])
    variables["VIRTUAL_ENV"] = f"/{PREFIX}"
    settings["Env"] = [f"{name}={value}" for name, value in variables.items()]
    settings["Labels"] = {**(settings.get("Labels") or {}), _BASE_DIGEST: base.digest}
    image["config"] = settings
