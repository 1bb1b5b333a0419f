"""The REST interface as an OpenAPI document and as a readable page, both made from the descriptor set.

`python -m image_registry.openapi json` (or `html`) prints them; `docs/openapi.json` and `docs/openapi.html` are kept
equal to that, and the gateway serves them as `/openapi.json` and `/docs`.
"""

from image_registry.openapi.document import as_json, build
from image_registry.openapi.page import render


def files() -> dict[str, str]:
    """What the installed release serves, by file name."""
    document = build()
    return {"openapi.json": as_json(document), "openapi.html": render(document)}
