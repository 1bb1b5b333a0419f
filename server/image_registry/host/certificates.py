"""When certificates end, read out of their files: the one field that nothing in the standard library shows.

A certificate is DER (X.690) within PEM; its form is that of RFC 5280, section 4.1.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG = 0x80  # a length of several octets


def chain_end(pem: bytes) -> datetime:
    """When a chain is good no more: with the first of its certificates. Raises ValueError if it holds none."""
    return min(_ends(pem))


def authority_end(pem: bytes) -> datetime:
    """When no authority of a bundle is left: with the last one, since an old one may stand there beside its successor.

    Raises ValueError if it holds none.
    """
    return max(_ends(pem))


def _ends(pem: bytes) -> list[datetime]:
    try:
        found = [_not_after(base64.b64decode(body)) for body in _PEM.findall(pem)]
    except (IndexError, ValueError) as error:
        raise ValueError("a certificate in it is damaged") from error
    if not found:
        raise ValueError("there is no certificate in it")
    return found


def _not_after(der: bytes) -> datetime:
    [(_, certificate)] = _elements(der)
    to_be_signed = _elements(certificate)[0][1]
    fields = [content for tag, content in _elements(to_be_signed) if tag != _VERSION]
    _, (tag, text) = _elements(fields[3])  # after serial number, signature algorithm and issuer: validity
    written = text.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year, from 1950 on
        written = ("19" if written >= "5" else "20") + written
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    found, at = [], 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & _LONG:
            octets = length & ~_LONG
            length, at = int.from_bytes(data[at : at + octets]), at + octets
        if at + length > len(data):
            raise ValueError("an element is cut off")
        found.append((tag, data[at : at + length]))
        at += length
    return found
