"""Images as pages show them, kept by what they were made of (decision 0018).

Nothing here can be stale: a key holds status, and SHA-256 and length of the definition, of each image that it stands
for, so what it stands for never changes. Which keys a page is made of is asked of the database in each call, and an
image that changed has another one.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeAlias

Key: TypeAlias = bytes  # of some images that follow each other: what `_IMAGE` holds, for each
_IMAGE = struct.Struct("!qh36s")  # id, status, and `definition_key`, as the database puts them together
_LENGTH = struct.Struct("!42xi")  # the end of `definition_key`
_HASH_END = 41
_LAST = re.compile(b"[\x00-\x0f]")  # the last byte of a hash that ends a group, one in 16
_BESIDE = 256  # bytes that a group takes beside its key and its images: the heads of two objects, places in two tables


def count_images(key: Key) -> int:
    """How many images it stands for."""
    return len(key) // _IMAGE.size


def first_images(key: Key, count: int) -> Key:
    """The key of the first of them."""
    return key[: count * _IMAGE.size]


def parts_of(key: Key) -> Iterator[tuple[int, int, bytes]]:
    """Id, status, and key of the definition of each image."""
    return _IMAGE.iter_unpack(key)


def definition_bytes(key: Key) -> int:
    """How long their definitions are together."""
    return sum(chain.from_iterable(_LENGTH.iter_unpack(key)))


def groups_of(key: Key) -> list[Key]:
    """The same images in groups of about 16, so that a page is made of some dozens of pieces and not of a thousand.

    Where a group ends is told by its last image alone. So whatever comes, goes or changes elsewhere, and wherever the
    page begins, the other groups are what they were.
    """
    size, groups, begin = _IMAGE.size, [], 0
    for last in _LAST.finditer(key[_HASH_END::size]):
        end = last.end() * size
        groups.append(key[begin:end])
        begin = end
    return groups if begin == len(key) else [*groups, key[begin:]]


class KeptImages:
    """As many groups as `capacity` bytes of memory hold: those that came last."""

    def __init__(self, capacity: int) -> None:
        self._left = capacity
        self._kept: OrderedDict[Key, bytes] = OrderedDict()

    def find(self, groups: Iterable[Key]) -> list[bytes | None]:
        """The images of each group; None: not kept."""
        return [*map(self._kept.get, groups)]

    def keep(self, group: Key, images: bytes) -> None:
        """Keep a group, in the place of those that have been here for longest."""
        kept = self._kept
        if group in kept:
            return
        kept[group] = images
        self._left -= _size(group, images)
        while self._left < 0:
            self._left += _size(*kept.popitem(last=False))


def _size(group: Key, images: bytes) -> int:
    return len(group) + len(images) + _BESIDE
