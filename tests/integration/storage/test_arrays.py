"""Arrays in binary are what the database takes them for."""

from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest

from image_registry.storage.arrays import BooleanArray, ByteaArray, TextArray, TimestampArray


@pytest.mark.parametrize("texts", [[], ["one"], ["", "né", '{,"}']])
async def test_texts_and_bytes_arrive(dsn: str, texts: list[str]) -> None:
    values = [text.encode() for text in texts]
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute("select %b, %b", [TextArray.of(texts), ByteaArray.of(values)])
        assert await cursor.fetchone() == (texts, values)


@pytest.mark.parametrize("values", [[], [True], [False, True, True]])
async def test_truth_values_arrive(dsn: str, values: list[bool]) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute("select %b", [BooleanArray.of(values)])
        assert await cursor.fetchone() == (values,)


async def test_moments_arrive_to_the_microsecond(dsn: str) -> None:
    moments = [
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 11, 28, 17, 0, 0, 123_457, tzinfo=timezone(timedelta(hours=2))),
    ]
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute("select %b, %b", [TimestampArray.of(moments), TimestampArray.of([])])
        assert await cursor.fetchone() == (moments, [])
