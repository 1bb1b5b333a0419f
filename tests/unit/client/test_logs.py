"""Log text: lines out of pieces, also after the stream broke off."""

import pytest

from image_registry.client import NotFoundError, RetryPolicy, UnavailableError
from image_registry.client.logs import LogText


def fed(text: LogText, *pieces: bytes) -> list[str]:
    return [line for piece in pieces for line in text.feed(piece)]


def test_lines_are_put_together_whatever_the_pieces() -> None:
    text = LogText(RetryPolicy())
    data = "grün\nblau\nrest".encode()
    assert fed(text, *(data[i : i + 1] for i in range(len(data)))) == ["grün", "blau"]
    assert list(text.end()) == ["rest"]


def test_a_stream_that_starts_anew_repeats_nothing() -> None:
    text = LogText(RetryPolicy())
    assert fed(text, b"one\ntw") == ["one"]
    assert text.broken_off(UnavailableError("away", retry_after=0.5)) == 0.5
    assert fed(text, b"on", b"e\ntwo\nth") == ["two"]
    text.broken_off(UnavailableError("away"))
    assert fed(text, b"one\ntwo\nthree\n") == ["three"]
    assert list(text.end()) == []


def test_other_errors_and_too_many_are_raised() -> None:
    with pytest.raises(NotFoundError):
        LogText(RetryPolicy()).broken_off(NotFoundError("none"))
    text = LogText(RetryPolicy(attempts=2))
    text.broken_off(UnavailableError("away"))
    with pytest.raises(UnavailableError):
        text.broken_off(UnavailableError("away"))
