"""Opening a plan's base image and finding out what an image on top of it has to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_registry.builds.base import Base, LayerContents, read_layer
from image_registry.builds.cache import Cache, CachedLayer
from image_registry.builds.destination import access_to
from image_registry.builds.faults import BaseMovedError, InvalidImageError, UnavailableError
from image_registry.builds.oci.manifest import Descriptor, Manifest
from image_registry.builds.oci.reference import LayoutReference, parse_reference
from image_registry.builds.oci.source import ImageSource, LayoutSource
from image_registry.builds.packages.managers import System
from image_registry.builds.plan import BuildPlan, Library, internal
from image_registry.builds.platforms import Target, checked_target


@dataclass(frozen=True)
class BaseImage:
    """A base image, layers that are put on it before anything else is looked at, and what was found in them.

    `interpreter` is the path of its Python; `pinned` are the libraries of the managed environment that it has already
    (then `has_environment`), `visible` its other libraries that this Python sees, both by normalised name.
    """

    source: ImageSource
    manifest: Manifest
    config: bytes
    added: tuple[CachedLayer, ...]
    contents: tuple[LayerContents, ...]
    system: System
    interpreter: str
    target: Target
    has_environment: bool
    pinned: Mapping[str, Library]
    visible: Mapping[str, Library]

    def layer_files(self) -> list[tuple[Descriptor, Path]]:
        """Return each layer of the base itself and a local file of its blob. Use them within `unmoved`."""
        return [(layer, self.source.layer_file(layer)) for layer in self.manifest.layers]

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Work with the base's files; raises BaseMovedError if one is missing because the base was rebuilt."""
        with _unmoved(self.source, self.manifest):
            yield

    def with_layer(self, plan: BuildPlan, added: CachedLayer) -> BaseImage:
        """Return the same base with one more layer on it. Raises BuildFailed."""
        found = read_layer(lambda: added.path.open("rb"), added.layer.blob, plan.cache_dir / "bases")
        return _described(plan, self.source, self.manifest, (*self.contents, found), (*self.added, added))


def open_base(plan: BuildPlan, cache: Cache, resources: ExitStack) -> BaseImage:
    """Read the plan's base image. Takes milliseconds for layers that this machine has read before.

    It stays open until `resources` is closed.

    Raises BuildFailed, InvalidImageError, BaseMovedError, or UnavailableError when a registry can't be reached.
    """
    source = _open_source(plan, cache, resources)
    manifest = source.manifest()
    with _unmoved(source, manifest):
        contents = tuple(_contents(source, layer, plan.cache_dir / "bases") for layer in manifest.layers)
        return _described(plan, source, manifest, contents)


@contextmanager
def _unmoved(source: ImageSource, manifest: Manifest) -> Iterator[None]:
    try:
        yield
    except (InvalidImageError, FileNotFoundError) as error:
        if _has_moved(source, manifest):
            raise BaseMovedError("the base image was rebuilt meanwhile") from error
        raise


def _has_moved(source: ImageSource, manifest: Manifest) -> bool:
    """Whether the reference leads to another image by now; a base that can't be read any more hasn't moved."""
    try:
        return source.manifest().digest != manifest.digest
    except (InvalidImageError, UnavailableError):
        return False


def _described(
    plan: BuildPlan,
    source: ImageSource,
    manifest: Manifest,
    layers: tuple[LayerContents, ...],
    added: tuple[CachedLayer, ...] = (),
) -> BaseImage:
    contents = Base.of(layers)
    interpreter, full_version = contents.python(plan.python_version)
    has_environment = contents.has_environment(plan.python_version)
    return BaseImage(
        source=source,
        manifest=manifest,
        config=source.config(manifest),
        added=added,
        contents=layers,
        system=contents.system,
        interpreter=interpreter,
        target=checked_target(full_version, plan.architecture, contents.libc),
        has_environment=has_environment,
        pinned=contents.pinned(plan.python_version) if has_environment else {},
        visible=contents.visible(interpreter),
    )


def _open_source(plan: BuildPlan, cache: Cache, resources: ExitStack) -> ImageSource:
    try:
        reference = parse_reference(plan.base)
    except ValueError as error:
        internal(f"The base image's reference is wrong: {error}.", error)
    if isinstance(reference, LayoutReference):
        return LayoutSource(reference.path, reference.reference, plan.architecture)
    from image_registry.builds.oci.registry import RegistryClient, RegistrySource  # noqa: PLC0415 (slow to import)

    client = resources.enter_context(RegistryClient(access_to(reference.host, plan)))
    return RegistrySource(client, reference, plan.architecture, cache)


def _contents(source: ImageSource, layer: Descriptor, kept: Path) -> LayerContents:
    return read_layer(lambda: source.layer_file(layer).open("rb"), layer, kept)
