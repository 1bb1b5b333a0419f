"""The REST interface as an OpenAPI document and as a readable page, both made from the descriptor set.

`python -m image_registry.openapi json` (or `html`) prints them; `docs/openapi.json` and `docs/openapi.html` are kept
equal to that, and the gateway serves them as `/openapi.json` and `/docs`.
"""
