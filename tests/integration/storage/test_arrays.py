"""Arrays in binary are what the database takes them for."""

import psycopg
import pytest

from image_registry.storage.arrays import ByteaArray, TextArray


@pytest.mark.parametrize("texts", [[], ["one"], ["", "né", '{,"}']])
async def test_texts_and_bytes_arrive(dsn: str, texts: list[str]) -> None:
    values = [text.encode() for text in texts]
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute("select %b, %b", [TextArray.of(texts), ByteaArray.of(values)])
        assert await cursor.fetchone() == (texts, values)
