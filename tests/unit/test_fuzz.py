"""Short runs of the fuzzers, with a seed of their own: `make fuzz` is the long one."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import pytest

from tests.fuzz import calls, files, scales
from tests.fuzz.outcome import Tally


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_harness_finds_what_is_wrong() -> None:
    """A fuzzer that counts nothing proves nothing."""
    tally = Tally()
    tally.take("good", lambda: 1)
    tally.take("ours", lambda: files.efface.load("nowhere"))
    tally.take("theirs", lambda: [][1])
    assert (tally.good, tally.refused, len(tally.faults)) == (1, 1, 1) and tally.faults[0].error == "IndexError"
    assert len(calls.doors()) > 250 and {"efface.moments.streaming.Moments.merge"} < {d.name for d in calls.doors()}


def test_every_public_callable_is_called() -> None:
    called = {door.call for door in calls.doors()}
    for room in calls.rooms():
        for name in getattr(room, "__all__", ()):
            value = getattr(room, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and not calls.is_skipped(value)):
                assert value in called, f"{room.__name__}.{name}"
    with_methods = {door.call.__name__ for door in calls.doors() if door.method}
    assert {"PipelineView", "Scrubber", "DiET", "Cgce", "LeaceTransformer"} < with_methods


def test_damaged_files(tmp_path: Path) -> None:
    tally = Tally()
    saved = [*files.statistics(tmp_path), *files.plain(tmp_path), *files.older()]
    for each in random.Random(1).sample(saved, 5):
        files.mutate(each, tally, share=0.04, rng=random.Random(1))
    assert len(tally) > 60 and not tally.faults, tally.report("files")


def test_odd_arguments() -> None:
    tally = calls.run(120, seed=1, most=300)
    assert len(tally) == 300 and not tally.faults, tally.report("calls")


def test_numbers_of_any_size() -> None:
    tally = Tally()
    scales.run(tally, seed=1, share=0.05)
    assert len(tally) > 50 and not tally.faults, tally.report("scales")
