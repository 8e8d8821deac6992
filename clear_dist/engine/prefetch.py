"""Items made ahead in a background thread: batches are packed and their pictures decoded while a step runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Failed:
    """What ended the items early."""

    error: BaseException


class _End:
    """There are no more items."""


class _Ahead(Generic[T]):
    """Iterates over ``items`` in their order, a thread keeping at most ``depth`` of them ready."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items, self._depth = items, depth
        self._ready: deque[T | _Failed | _End] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            if not self._ready:
                raise StopIteration
            item = self._ready[0]
            if isinstance(item, _End):
                raise StopIteration
            if isinstance(item, _Failed):
                raise item.error
            self._ready.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Returns once the thread has ended: at the latest when it has made the item it is at."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wanted():
                self._put(next(self._items, _End()))
        except BaseException as error:  # whatever it is, it belongs to whoever asks for the item
            self._put(_Failed(error))

    def _wanted(self) -> bool:
        """Waits for room; False once nothing more is to be made."""
        with self._changed:
            if self._ready and isinstance(self._ready[-1], _End):
                return False
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed

    def _put(self, item: T | _Failed | _End) -> None:
        with self._changed:
            self._ready.append(item)
            self._changed.notify_all()


@contextmanager
def prefetched(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Inside, the same items in the same order, up to ``depth`` of them made ahead in a thread (0: none, no thread).

    What ``items`` raises is raised where the item is asked for. On leaving, by whatever way, the thread has ended.
    """
    assert depth >= 0
    if depth == 0:
        yield items
        return
    ahead = _Ahead(items, depth)
    try:
        yield ahead
    finally:
        ahead.close()
