"""The limits of requests and answers: generous, but finite, so that no single call can take the service down.

They are printed as `docs/reference/limits.md` by `python -m image_registry.limits`, and a test keeps the page equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A documented limit: `value` counts `unit`s of `what`; `beyond` says what happens above it."""

    value: int
    unit: str
    what: str
    beyond: str


CATALOGUE: list[Limit] = []
_REFUSED = "INVALID_ARGUMENT"


def _limit(value: int, unit: str, what: str, beyond: str = _REFUSED) -> int:
    CATALOGUE.append(Limit(value, unit, what, beyond))
    return value


REQUEST_BYTES = _limit(4 << 20, "bytes", "one request message", "RESOURCE_EXHAUSTED, by the gRPC library (REST: 413)")
RESPONSE_BYTES = _limit(64 << 20, "bytes", "one answer", "not reached: pages end earlier")
REPOSITORY_NAME = _limit(
    255, "characters", "an image's name together with the deployment's prefix and a slash (OCI distribution)"
)
FIELD = _limit(256, "characters", "any other name, version or specifier in a request")
REQUIREMENTS = _limit(500, "entries", "`pipRequirements`, and `packageRequirements`, of one CreateImage or FindImages")
FILTERS = _limit(20, "entries", "`pipLibraries` of one ListImages")
QUERY_VALUES = _limit(20, "entries", "`selectedStatuses`, and `selectedTypes`, of one ListJobs")
REPORTED_LIBRARIES = _limit(5_000, "entries", "`pipLibraries` of one UpdateBuildInfo")
PAGE_TOKEN = _limit(16_384, "characters", "a page token; one that carries the largest filter has about 14,500")
REQUEST_ID = _limit(128, "characters", "`x-request-id` of a CreateImage")
REQUEST_ID_SECONDS = _limit(
    24 * 3600, "seconds", "the memory of an `x-request-id`", "it is forgotten at the next look, within minutes"
)
DEFAULT_PAGE = _limit(50, "entries", "a page when `pageSize` is 0", "a `pageSize` asks for more")
LARGEST_PAGE = _limit(1_000, "entries", "a page", "a greater `pageSize` is taken as this")
FOUND_IMAGES = _limit(10, "entries", "an answer of FindImages when `maxResults` is 0", "a `maxResults` asks for more")
MOST_FOUND_IMAGES = _limit(100, "entries", "an answer of FindImages", "a greater `maxResults` is taken as this")
PAGE_BYTES = _limit(32 << 20, "bytes", "the images on one page, or found", "it ends earlier; a page's token leads on")
CHILDREN_SHOWN = _limit(10_000, "entries", "`childImages` of one image", "the first in the order of names are shown")
CHILDREN_NAMED = _limit(20, "entries", "the child images that a refused DeleteImage names", "the first are named")
PROGRESS = _limit(8_192, "characters", "`jobProgressStr`", "its end is cut off")
STATUS_MESSAGE = _limit(900, "bytes", "the message of an error, percent-encoded", "its end is cut off")
STATUS_BYTES = _limit(
    4_800, "bytes", "an error with its details (clients take 8 KiB of trailers)", "the last faults are counted only"
)


def page() -> str:
    """The limits as the Markdown page `docs/reference/limits.md`."""
    rows = "\n".join(f"| {one.what} | {one.value:,} {one.unit} | {one.beyond} |" for one in CATALOGUE)
    return f"""# Limits

<!-- Written by `make generate` from server/image_registry/limits.py; edit that. -->

What goes beyond a limit of a request's fields is refused with the field's path and the limit. How many calls may
wait for the database, and how long, is configuration: `IMAGE_REGISTRY_POOL_SIZE`, `IMAGE_REGISTRY_POOL_WAIT`.

| what | at most | beyond it |
| --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
