"""Objects in the order of a key, where many come and go. Pure.

Kept in buckets of bounded size, so that putting one in moves a bucket and not all that stands
behind it: with a hundred thousand siblings that is a thousandfold less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

FULL = 512
"""A bucket that grows beyond this is cut in half."""


class SortedBuckets(Generic[T]):
    """Objects that each have a key of their own, in its order.

    State:      buckets, none of them empty, in order and each in order.
    Invariants: the key of an object does not change while it is here.
    """

    __slots__ = ("_buckets", "_key")

    def __init__(self, key: Callable[[T], Any]) -> None:
        self._key = key
        self._buckets: list[list[T]] = []

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def add(self, item: T) -> None:
        """Put an object in."""
        if not self._buckets:
            self._buckets.append([item])
            return
        number, place = self._find(self._key(item))
        if number == len(self._buckets):  # behind all: at the end of the last bucket
            number, place = number - 1, len(self._buckets[-1])
        bucket = self._buckets[number]
        bucket.insert(place, item)
        if len(bucket) > FULL:
            half = len(bucket) // 2
            self._buckets[number : number + 1] = [bucket[:half], bucket[half:]]

    def discard(self, item: T) -> None:
        """Take an object out, which is in."""
        number, place = self._find(self._key(item))
        bucket = self._buckets[number]
        del bucket[place]
        if not bucket:
            del self._buckets[number]

    def around(self, key: Any) -> tuple[T | None, T | None]:
        """The object before the place of `key`, and the one there: its key is not below `key`."""
        number, place = self._find(key)
        there = self._buckets[number][place] if number < len(self._buckets) else None
        if place > 0:
            return self._buckets[number][place - 1], there
        return (self._buckets[number - 1][-1] if number > 0 else None), there

    def onward(self, key: Any) -> Iterator[T]:
        """The objects from the place of `key` on; none may come or go meanwhile."""
        number, place = self._find(key)
        for bucket in self._buckets[number:]:
            yield from bucket[place:]
            place = 0

    def _find(self, key: Any) -> tuple[int, int]:
        """Bucket and place of the first object whose key is not below `key`."""
        buckets, key_of = self._buckets, self._key
        number = bisect_left(buckets, key, key=lambda bucket: key_of(bucket[-1]))
        if number == len(buckets):
            return number, 0
        return number, bisect_left(buckets[number], key, key=key_of)
