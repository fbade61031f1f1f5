"""Putting on and taking off, proven once for every kind of edit: nesting, order, failures, threads."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from efface import InputError
from efface.core.edits import Edit
from efface.core.installer import handles_on
from tests.edits import EDITS, FILES, KINDS, ORDERED, Broken, Shift, layers, said, same, state, subject_of
from tests.pipelines import build


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def subject(kind: str) -> Any:
    return subject_of(kind)


def test_on_and_off_bit_for_bit(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    with Shift(0.5, kind).on(subject) as run:
        assert not torch.equal(said(subject), plain) and run.is_on and handles_on(subject) == (run,)
    assert not run.is_on and not handles_on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)
    run.undo()  # a second time does nothing
    assert same(state(subject), before)


def test_until_it_is_undone(kind: str, subject: Any) -> None:
    plain = said(subject)
    run = Shift(0.5, kind).on(subject)
    assert not torch.equal(said(subject), plain)
    with run:
        run.undo()
        assert torch.equal(said(subject), plain)


def test_twice_is_refused(kind: str, subject: Any) -> None:
    plain = said(subject)
    with Shift(0.5, kind).on(subject):
        once = said(subject)
        for again in (Shift(0.5, kind), pickle.loads(pickle.dumps(Shift(0.5, kind)))):
            with pytest.raises(InputError, match=r"already: undo\(\) its handle"):
                again.on(subject)
        assert torch.equal(said(subject), once)
    assert torch.equal(said(subject), plain)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)], ids=str)
def test_several_come_off_in_any_order_that_commutes(kind: str, order: tuple[int, ...]) -> None:
    subject = subject_of(kind)
    before, plain = state(subject), said(subject)
    values = (0.5, 0.25, -0.125)
    runs = [Shift(by, kind).on(subject) for by in values]
    left = list(range(3))
    for i in order:
        if kind in ORDERED and i != left[-1]:
            with pytest.raises(InputError, match="undo that one first"):
                runs[i].undo()
            assert runs[i].is_on
            continue
        runs[i].undo()
        left.remove(i)
        if left:
            now = said(subject)
            fresh = subject_of(kind)
            for j in left:
                Shift(values[j], kind).on(fresh)
            assert torch.equal(said(fresh), now)
    for run in reversed(runs):
        run.undo()
    assert same(state(subject), before) and torch.equal(said(subject), plain)


@pytest.mark.parametrize(
    "kinds", [("states", "weights"), ("text", "unet"), ("prediction", "text"), ("swap", "unet")], ids=str
)
def test_edits_of_other_kinds_are_independent(kinds: tuple[str, str]) -> None:
    subject = subject_of(kinds[0])
    before, plain = state(subject), said(subject)
    for first, second in (kinds, kinds[::-1]):
        one, two = Shift(0.5, first).on(subject), Shift(0.25, second).on(subject)
        one.undo()
        with_two = said(subject)
        two.undo()
        with Shift(0.25, second).on(subject):
            assert torch.equal(said(subject), with_two)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_joined_is_one_after_the_other(kind: str, subject: Any) -> None:
    both = Shift(0.5, kind) & Shift(0.25, kind)
    plain = said(subject)
    with both.on(subject):
        joined = said(subject)
    with Shift(0.5, kind).on(subject), Shift(0.25, kind).on(subject):
        assert torch.equal(said(subject), joined)
    assert torch.equal(said(subject), plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_takes_it_off(kind: str, error: type[BaseException]) -> None:
    subject = subject_of(kind)
    before = state(subject)
    with pytest.raises(error), Shift(0.5, kind).on(subject):
        raise error
    assert same(state(subject), before) and not handles_on(subject)


def test_an_install_that_fails_leaves_nothing(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    with pytest.raises(InputError):
        Broken(kind).on(subject)
    assert same(state(subject), before) and not handles_on(subject) and torch.equal(said(subject), plain)
    with Shift(0.5, kind).on(subject):
        on = said(subject)
        with pytest.raises(InputError):
            Broken(kind).on(subject)
        assert torch.equal(said(subject), on)
    assert same(state(subject), before)


def test_an_interrupt_while_it_is_put_on_leaves_nothing(
    kind: str, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, plain = state(subject), said(subject)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    later = type("Later", (Edit,), {"needs": ("model", "pipeline"), "bind": stop})()
    monkeypatch.setitem(EDITS, "later", lambda by: (*EDITS[kind](by), later))
    with pytest.raises(KeyboardInterrupt):
        Shift(1.0, "later").on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_a_copy_of_a_subject_keeps_what_is_on_it(kind: str) -> None:
    subject = subject_of(kind)
    plain = said(subject)
    with Shift(0.5, kind).on(subject):
        on, copied = said(subject), copy.deepcopy(subject)
    assert torch.equal(said(subject), plain)
    assert torch.equal(said(copied), on) and not handles_on(copied)


@pytest.mark.parametrize("kind", ["rows", "states", "weights", "swap"])
def test_ctrl_c_at_any_line_leaves_nothing(kind: str) -> None:
    """A signal at every line of on() and undo(): it comes through, and the subject is as it was, or can be undone."""
    subject, erasure = subject_of(kind), Shift(0.5, kind)
    before = state(subject)
    erasure.on(subject).undo()
    step = 1 if isinstance(subject, nn.Module) else 41
    for line in itertools.count(1, step):
        if not _interrupted(lambda: erasure.on(subject).undo(), line):
            break
        for run in handles_on(subject):  # it came when on() was done
            run.undo()
        assert not handles_on(subject) and same(state(subject), before), line
    assert line > 100 and same(state(subject), before)


def _interrupted(call: Callable[[], Any], line: int) -> bool:
    """Send the signal of Ctrl-C at the n-th line; whether there is such a line."""
    left = line

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        left -= event == "line" and frame.f_code.co_filename in FILES
        if left == 0:
            left = -1
            signal.raise_signal(signal.SIGINT)
        return trace

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(usual)
    assert left > 0, "the interrupt was swallowed"
    return False


def test_the_wrong_subject_is_refused_untouched(kind: str) -> None:
    wrong = build("sd1") if kind in ("rows", "states", "weights") else layers()
    before = state(wrong)
    with pytest.raises(InputError, match="is for a"):
        Shift(0.5, kind).on(wrong)
    with pytest.raises(InputError, match="an array"):
        Shift(0.5, kind).on(torch.zeros(2, 2))
    with pytest.raises(InputError, match="nothing that efface erases from"):
        Shift(0.5, kind).on(object())
    assert same(state(wrong), before)


def test_an_erasure_that_is_on_is_still_a_value(kind: str, subject: Any) -> None:
    erasure = Shift(0.5, kind)
    with erasure.on(subject) as run:
        assert copy.deepcopy(erasure) == pickle.loads(pickle.dumps(erasure)) == erasure
        with pytest.raises(TypeError, match="save the erasure instead"):
            pickle.dumps(run)


def test_one_erasure_on_two_subjects(kind: str) -> None:
    one, two = subject_of(kind), subject_of(kind)
    erasure, plain = Shift(0.5, kind), said(one)
    first, second = erasure.on(one), erasure.on(two)
    first.undo()
    assert torch.equal(said(one), plain) and not torch.equal(said(two), plain)
    second.undo()
    assert torch.equal(said(two), plain)


def test_threads_that_put_on_and_take_off(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for j in range(20):
                with Shift(0.001 * (1 + 20 * i + j), kind).on(subject):
                    pass
        except InputError as error:  # edits of the same weights may come off in one order alone
            if kind not in ORDERED:
                failures.append(error)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1 if kind in ORDERED else 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not handles_on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_what_fired_is_in_the_log(kind: str, subject: Any) -> None:
    with Shift(0.5, kind).on(subject) as run:
        said(subject)
    counted = {"states": {"0": 1, "1:input": 1}, "rows": {"Sequential": 1}, "text": {"prompts": 1}}
    assert run.log.counts == counted.get(kind, {})


def test_a_subject_that_is_dropped_with_an_erasure_on_is_freed(kind: str) -> None:
    subject = subject_of(kind)
    Shift(0.5, kind).on(subject)
    gone = weakref.ref(subject)
    del subject
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", ["states", "weights"])
def test_a_copy_keeps_what_is_on_and_is_nobodys_business(kind: str) -> None:
    subject = subject_of(kind)
    with Shift(0.5, kind).on(subject) as run:
        on = said(subject)
        twin = copy.deepcopy(subject)
        assert torch.equal(said(twin), on) and not handles_on(twin) and run.is_on
    assert torch.equal(said(twin), on) and not torch.equal(said(subject), on)
