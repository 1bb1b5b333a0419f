"""The log of a build as lines, out of the pieces in which it arrives."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from image_registry.client.errors import CallError, UnavailableError
from image_registry.client.flow import RetryPolicy


class LogText:
    """Puts pieces together to lines. A stream that was broken off starts anew; what was seen before is skipped."""

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._received = 0
        self._skip = 0
        self._attempt = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The lines that are complete with this piece."""
        fresh = piece[self._skip :]
        self._skip -= len(piece) - len(fresh)
        self._received += len(fresh)
        if fresh:
            self._attempt = 0
        *lines, self._rest = (self._rest + self._decoder.decode(fresh)).split("\n")
        yield from lines

    def end(self) -> Iterator[str]:
        """The last line, if it has no end."""
        if self._rest:
            yield self._rest

    def broken_off(self, error: CallError) -> float:
        """Seconds until the stream can be asked for again. Raises the error if that makes no sense."""
        self._attempt += 1
        if not isinstance(error, UnavailableError) or self._attempt >= self._retry.attempts:
            raise error
        self._skip = self._received
        return error.retry_after or self._retry.delay(self._attempt)
