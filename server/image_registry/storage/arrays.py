"""Arrays as Postgres takes them in binary: many values in one parameter, for a tenth of what a list costs psycopg."""

from __future__ import annotations

import struct
from collections.abc import Collection

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_BYTEA_OID, _TEXT_OID = 17, 25
_BYTEA_ARRAY_OID, _TEXT_ARRAY_OID = 1001, 1009
_HEADER = struct.Struct("!5i")  # dimensions, has nulls, type of elements, length, lower bound (array_send in Postgres)
_EMPTY = struct.Struct("!3i")  # the same without a dimension
_LENGTH = struct.Struct("!i")


class TextArray(bytes):
    """A `text[]`, encoded; a parameter for psycopg. None of the texts may hold a zero byte."""

    @classmethod
    def of(cls, texts: Collection[str]) -> TextArray:
        """Of texts."""
        return cls(encoded([text.encode() for text in texts], _TEXT_OID))


class ByteaArray(bytes):
    """A `bytea[]`, encoded; a parameter for psycopg."""

    @classmethod
    def of(cls, values: Collection[bytes]) -> ByteaArray:
        """Of bytes."""
        return cls(encoded(values, _BYTEA_OID))


def encoded(values: Collection[bytes], element: int = _TEXT_OID) -> bytes:
    """A one-dimensional array without nulls; `element` is the OID of its elements' type."""
    if not values:
        return _EMPTY.pack(0, 0, element)
    parts = [_HEADER.pack(1, 0, element, len(values), 1)]
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


class _TextArrayDumper(Dumper):
    format = Format.BINARY
    oid = _TEXT_ARRAY_OID

    def dump(self, obj: TextArray) -> bytes:
        return obj


class _ByteaArrayDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEA_ARRAY_OID

    def dump(self, obj: ByteaArray) -> bytes:
        return obj


psycopg.adapters.register_dumper(TextArray, _TextArrayDumper)
psycopg.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
