"""Arrays as Postgres takes them in binary: many values in one parameter, for a tenth of what a list costs psycopg."""

from __future__ import annotations

import struct
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_BOOLEAN_OID, _BYTEA_OID, _TEXT_OID, _TIMESTAMPTZ_OID = 16, 17, 25, 1184
_BOOLEAN_ARRAY_OID, _BYTEA_ARRAY_OID, _TEXT_ARRAY_OID, _TIMESTAMPTZ_ARRAY_OID = 1000, 1001, 1009, 1185
_HEADER = struct.Struct("!5i")  # dimensions, has nulls, type of elements, length, lower bound (array_send in Postgres)
_EMPTY = struct.Struct("!3i")  # the same without a dimension
_LENGTH = struct.Struct("!i")
_MICROSECONDS = struct.Struct("!q")  # since 2000 (timestamptz_send in Postgres)
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_BOOLEANS = {False: b"\0", True: b"\1"}


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


class BooleanArray(bytes):
    """A `boolean[]`, encoded; a parameter for psycopg."""

    @classmethod
    def of(cls, values: Collection[bool]) -> BooleanArray:
        """Of truth values."""
        return cls(encoded([_BOOLEANS[value] for value in values], _BOOLEAN_OID))


class TimestampArray(bytes):
    """A `timestamptz[]`, encoded; a parameter for psycopg."""

    @classmethod
    def of(cls, moments: Collection[datetime]) -> TimestampArray:
        """Of moments with a time zone."""
        packed = [_MICROSECONDS.pack((moment - _EPOCH) // _MICROSECOND) for moment in moments]
        return cls(encoded(packed, _TIMESTAMPTZ_OID))


def encoded(values: Collection[bytes], element: int = _TEXT_OID) -> bytes:
    """A one-dimensional array without nulls; `element` is the OID of its elements' type."""
    if not values:
        return _EMPTY.pack(0, 0, element)
    parts = [_HEADER.pack(1, 0, element, len(values), 1)]
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _TextArrayDumper(_ArrayDumper):
    oid = _TEXT_ARRAY_OID


class _ByteaArrayDumper(_ArrayDumper):
    oid = _BYTEA_ARRAY_OID


class _BooleanArrayDumper(_ArrayDumper):
    oid = _BOOLEAN_ARRAY_OID


class _TimestampArrayDumper(_ArrayDumper):
    oid = _TIMESTAMPTZ_ARRAY_OID


psycopg.adapters.register_dumper(TextArray, _TextArrayDumper)
psycopg.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
psycopg.adapters.register_dumper(BooleanArray, _BooleanArrayDumper)
psycopg.adapters.register_dumper(TimestampArray, _TimestampArrayDumper)
