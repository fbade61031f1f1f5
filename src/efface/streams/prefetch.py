"""Reading ahead: a thread reads the next chunks of a file while the one before is worked on."""

from __future__ import annotations

import contextvars
import dataclasses
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from efface._validate import check_positive_int
from efface.core.doors import check_call

T = TypeVar("T")

MOST_BYTES = 2**25
"""What waits, at most, beside one chunk: 32 MiB."""

_LEAST_BYTES = 1024
"""What an item counts for at least, or there would be no end of small ones."""


def prefetched(
    items: Iterable[T], *, most_bytes: int = MOST_BYTES, size: Callable[[Any], int | None] | None = None
) -> Prefetched[T]:
    """The same items in the same order, read by a thread ahead of whoever asks for them.

        with prefetched(source.chunks(4096)) as chunks:
            for chunk in chunks:
                fitter.update(chunk.numbers(columns), chunk.labels("sex"))

    What is computed while `items` is gone through happens in that thread, too. What fails there is raised here, as it
    was, in its turn: after all items before it.

    Args:
        items: An iterable, gone through once; a generator is closed at the end.
        most_bytes: The next item is read as long as fewer bytes wait, so that at most these and one item do, beside
            the item that is worked on. One item is read ahead in any case.
        size: Bytes of an item, None if nobody knows: then it waits alone. Left out, those of what has `nbytes`.

    Returns:
        An iterator that stops its thread at the end, by `close`, at the end of a `with` block, or when it is forgotten.
        A chunk that is being read is waited for.

    Raises:
        InputError: If `items` cannot be gone through.

    >>> with prefetched(range(3)) as numbers:
    ...     list(numbers)
    [0, 1, 2]
    """
    check_call(prefetched, locals())
    return Prefetched(iter(items), check_positive_int(most_bytes, "most_bytes"), size or size_of)


def size_of(item: Any) -> int | None:
    """Bytes of an item with `nbytes`, or of a tuple, list or dataclass of such; None if nobody knows."""
    found = getattr(item, "nbytes", None)
    if isinstance(found, int):
        return found
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        item = [getattr(item, field.name) for field in dataclasses.fields(item)]
    if isinstance(item, int | float | str | None):
        return 0
    if not isinstance(item, tuple | list):
        return None
    sizes = [size_of(part) for part in item]
    known = [each for each in sizes if each is not None]
    return sum(known) if len(known) == len(sizes) else None


class _Line(Generic[T]):
    """What waits between the thread that reads and whoever takes."""

    def __init__(self, most: int, size: Callable[[Any], int | None]) -> None:
        self._most, self._size = most, size
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def fill(self, items: Iterator[T]) -> None:
        """Read, in the thread, until the end, an error, or `stop`."""
        error = None
        try:
            while self._has_room():
                try:
                    item = next(items)
                except StopIteration:
                    break
                self._put(item)
                del item
        except BaseException as raised:  # of whatever is read: it is raised where that is asked for
            error = raised
        finally:
            try:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
            except BaseException as raised:
                error = error or raised
            with self._changed:
                self._ended, self._error = True, None if self._stopped else error
                self._changed.notify_all()
            del error

    def _has_room(self) -> bool:
        """Wait until there is room for an item; False if none is wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._items or self._bytes < self._most)
            return not self._stopped

    def _put(self, item: T) -> None:
        size = self._size(item)
        with self._changed:
            if not self._stopped:
                size = self._most if size is None else max(size, _LEAST_BYTES)
                self._items.append((item, size))
                self._bytes += size
            self._changed.notify_all()

    def take(self) -> T:
        """The next item, waited for.

        Raises:
            StopIteration: After the last one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended or self._items)
            if self._items:
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        try:
            raise error or StopIteration
        finally:
            del error  # Its traceback holds this frame, and all that is in it.

    def stop(self) -> None:
        """Nothing more is wanted; what waits is dropped."""
        with self._changed:
            self._stopped, self._error = True, None
            self._items.clear()
            self._changed.notify_all()


class Prefetched(Iterator[T]):
    """An iterator whose items are read ahead by a thread: see `prefetched`."""

    def __init__(self, items: Iterator[T], most: int, size: Callable[[Any], int | None]) -> None:
        self._line: _Line[T] = _Line(most, size)
        context = contextvars.copy_context()
        # Of the interpreter's end: a thread of which nobody knows must not keep it waiting.
        self._thread = threading.Thread(
            target=context.run, args=(self._line.fill, items), name="efface reads ahead", daemon=True
        )
        # Without a way back to this object, so that it can be forgotten while the thread runs.
        self._forgotten = weakref.finalize(self, self._line.stop)
        self._thread.start()

    def __next__(self) -> T:
        try:
            return self._line.take()
        except BaseException:  # the end, an error of the reader, or Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """Stop the thread, and wait for it: until it has read what it is about to read."""
        self._forgotten()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
