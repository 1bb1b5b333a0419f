"""Prints the document: `python -m image_registry.openapi json`, or `html` for the page."""

import sys

from image_registry.openapi.document import as_json, build
from image_registry.openapi.page import render

if __name__ == "__main__":
    forms = {"json": as_json, "html": render}
    if len(sys.argv) != 2 or sys.argv[1] not in forms:
        sys.exit("usage: python -m image_registry.openapi json|html")
    sys.stdout.write(forms[sys.argv[1]](build()))
