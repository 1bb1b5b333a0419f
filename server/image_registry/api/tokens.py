"""Opaque page tokens: a signed position and the query that it belongs to.

`base64url(HMAC-SHA256[:16] || JSON)`. The signature covers the listing's name, so that a token of one listing
is refused by another; the secret is shared by all replicas through the database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

from image_registry import limits
from image_registry.errors import Fault, Reason, RegistryError

_SIGNATURE = 16  # bytes


class PageTokens:
    """Makes and reads the tokens of one listing."""

    def __init__(self, secret: bytes, listing: str) -> None:
        self._key = hmac.digest(secret, listing.encode(), "sha256")

    def make(self, position: str | int, query: Any) -> str:
        """The token of the page behind `position` for `query` (JSON values)."""
        payload = json.dumps([position, query], separators=(",", ":")).encode()
        return _encode(self._sign(payload) + payload)

    def read(self, token: str) -> tuple[Any, Any]:
        """Position and query of a token that `make` made. Raises RegistryError INVALID_PAGE_TOKEN."""
        if len(token) > limits.PAGE_TOKEN:
            raise bad_token("it is too long to be one of this listing's")
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise bad_token("it is damaged") from None
        signature, payload = raw[:_SIGNATURE], raw[_SIGNATURE:]
        if _encode(raw) != token:  # base64 has several spellings of the same bytes
            raise bad_token("it is damaged")
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise bad_token("it is not one that this listing gave out")
        position, query = json.loads(payload)
        return position, query

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, hashlib.sha256)[:_SIGNATURE]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def bad_token(why: str) -> RegistryError:
    """The refusal of a token."""
    description = f"{why}: pass nextPageToken back unchanged, or start again without a token"
    return RegistryError(
        Reason.INVALID_PAGE_TOKEN,
        f"the page token can't be used: {description}",
        faults=(Fault("pageToken", description),),
    )
