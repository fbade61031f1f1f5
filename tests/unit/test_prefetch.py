"""Reading ahead: the same items in the same order, within bounds, and no thread that is left behind."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from efface._errors import InputError
from efface.cli import main
from efface.streams import open_source, prefetched
from efface.streams.prefetch import size_of


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "efface reads ahead"]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert not readers()


def until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    return true()


class Items:
    """Items that say how many were read, and whether they were closed."""

    def __init__(self, count: int, *, bytes_each: int = 1000, fails_at: int | None = None) -> None:
        self.read, self.closed, self.threads = 0, False, set[str]()
        self._count, self._bytes, self._fails = count, bytes_each, fails_at

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for i in range(self._count):
                if i == self._fails:
                    raise InputError(f"row {i} is bad")
                self.read += 1
                self.threads.add(threading.current_thread().name)
                yield np.full(self._bytes, i, np.uint8)
        finally:
            self.closed = True


def test_the_same_items_in_the_same_order_read_by_another_thread() -> None:
    items = Items(100)
    with prefetched(items) as ahead:
        assert [int(item[0]) for item in ahead] == list(range(100))
        assert next(ahead, None) is None and not readers()
    assert items.closed and items.threads == {"efface reads ahead"}


def test_reads_while_the_consumer_works() -> None:
    items = Items(10)
    with prefetched(items) as ahead:
        next(ahead)
        assert until(lambda: items.read == 10)  # and nobody asked


@pytest.mark.parametrize(("most", "bytes_each", "waiting"), [(10_000, 2000, 5), (10_000, 3000, 4), (1, 1000, 1)])
def test_memory_has_a_bound(most: int, bytes_each: int, waiting: int) -> None:
    items = Items(50, bytes_each=bytes_each)
    with prefetched(items, most_bytes=most) as ahead:
        for taken, _ in enumerate(ahead, 1):
            assert until(lambda taken=taken: items.read == min(50, taken + waiting))
            time.sleep(0.002)
            assert items.read == min(50, taken + waiting)


def test_an_item_of_unknown_size_waits_alone() -> None:
    read = []
    with prefetched(map(read.append, range(9)), size=lambda _: None) as ahead:
        next(ahead)
        assert until(lambda: len(read) == 2)
        time.sleep(0.01)
        assert len(read) == 2


def test_an_error_comes_in_its_turn_and_as_it_was() -> None:
    items = Items(9, fails_at=5)
    ahead, seen = prefetched(items), []
    with pytest.raises(InputError, match="row 5 is bad") as caught:
        seen.extend(int(item[0]) for item in ahead)
    assert seen == [0, 1, 2, 3, 4] and items.closed
    assert any(entry.name == "__iter__" for entry in caught.traceback)  # where it was raised
    assert next(ahead, None) is None


def test_an_error_that_nobody_asked_for_is_not_raised() -> None:
    items = Items(9, fails_at=2)
    with prefetched(items) as ahead:
        next(ahead)
        assert until(lambda: items.closed)


@pytest.mark.parametrize("way", ["block", "raise", "close", "forget"])
def test_the_thread_stops_when_nobody_takes_any_more(way: str) -> None:
    items = Items(10**9)
    if way in ("block", "raise"):
        with pytest.raises(KeyError) if way == "raise" else prefetched([]), prefetched(items) as ahead:
            next(ahead)
            if way == "raise":
                raise KeyError
    else:
        ahead = prefetched(items)
        next(ahead)
        ahead.close() if way == "close" else None
        del ahead
        gc.collect()
        assert until(lambda: not readers())
    assert items.closed and not readers()


def test_an_interrupt_stops_it_while_it_waits() -> None:
    started, items = threading.Event(), Items(10**9)

    def slow() -> Iterator[Any]:
        for item in items:
            started.set()
            time.sleep(0.3)
            yield item

    def interrupt() -> None:
        started.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), prefetched(slow()) as ahead:
        thread.start()
        for _ in ahead:
            pass
    thread.join()
    assert items.read <= 3 and not readers()


def test_what_is_no_iterable_and_no_size() -> None:
    with pytest.raises(InputError, match="items is 3: write a list"):
        prefetched(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="most_bytes must be an integer of at least 1"):
        prefetched([], most_bytes=0)


def test_bytes_of_what_waits() -> None:
    assert size_of((torch.zeros(4), [np.zeros(2)], "name", 3, None)) == 16 + 16
    assert size_of(object()) is None and size_of([torch.zeros(4), object()]) is None


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet", ".safetensors"])
def test_a_file_reads_the_same(tmp_path: Path, suffix: str) -> None:
    from tests.unit.test_streams import rows_like, write

    source = open_source(write(tmp_path / f"X{suffix}", rows_like(torch.float64, 500, 3))).select(["2", "0"])
    plain = [(chunk.first_row, chunk.numbers(["2", "0"])) for chunk in source.chunks(64)]
    with prefetched(source.chunks(64), most_bytes=4000) as ahead:
        for (first, x), chunk in zip(plain, ahead, strict=True):
            assert chunk.first_row == first and torch.equal(chunk.numbers(["2", "0"]), x)
            assert size_of(chunk) == chunk.nbytes > 0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_line_leaves_no_thread_whether_it_works_or_not(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 3))
    for name, bad in [("good", False), ("bad", True)]:
        x[333, 1] = np.nan if bad else 0
        np.save(tmp_path / f"{name}.npy", x)
    np.save(tmp_path / "z.npy", np.arange(400) % 2)
    fit = ["--concept", f"{tmp_path / 'z.npy'}", "--chunk-rows", "50"]
    assert main(["fit", f"{tmp_path / 'good.npy'}", *fit, "-o", f"{tmp_path / 'e'}"]) == 0 and not readers()
    assert main(["fit", f"{tmp_path / 'bad.npy'}", *fit, "-o", f"{tmp_path / 'f'}"]) != 0 and not readers()
