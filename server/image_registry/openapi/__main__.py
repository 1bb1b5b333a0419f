"""Prints the document: `python -m image_registry.openapi json`, or `html` for the page."""

import sys

from image_registry.openapi import files

if __name__ == "__main__":
    forms = {name.rpartition(".")[2]: text for name, text in files().items()}
    if len(sys.argv) != 2 or sys.argv[1] not in forms:
        sys.exit(f"usage: python -m image_registry.openapi {'|'.join(forms)}")
    sys.stdout.write(forms[sys.argv[1]])
