"""Looking further while a verdict is open: how often it errs, what is looked at, and where it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from efface import InputError, PipelineView
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.direct import direct
from efface.audit.pipelines.probes.looks import joined, level_of, looks
from efface.audit.pipelines.probes.panel import ERASED, GOLD, SHAM, Panel, ShamEdit, weights_of
from efface.audit.pipelines.probes.ran import Ran
from efface.audit.pipelines.probes.recovery import Row, compared
from efface.audit.pipelines.probes.registry import Probe, find_probe
from efface.audit.pipelines.probes.relearning import relearning
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.settling import settled
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.verdict import Facts, decide
from efface.core.checkpoint import Checkpoint
from efface.stats.intervals import wilson_interval
from tests.pipelines import tiny
from tests.unit.test_probes import CLEAN, Nothing, case_of, row, some_pictures

DIRECT = find_probe("direct prompt")


@pytest.fixture(scope="module")
def view() -> PipelineView:
    return PipelineView.of(tiny("sd1"))


def outcomes(rate: float, n: int, more: int, *, honest: bool = True) -> dict[str, float]:
    """How often the rule ends where, exactly: hits of each look are binomial, looks stop where the verdict is clear.

    The base draws it always, the floor never, as a row by hand has it.
    """
    ends = {"not suppressed": 0.0, "removed": 0.0, "inconclusive": 0.0}
    open_, seen = np.ones(1), 0
    for times in looks(more):
        total = n * times
        open_ = np.convolve(open_, binom.pmf(np.arange(total - seen + 1), total - seen, rate))
        seen, level = total, level_of(DIRECT, times, more) if honest else 0.95
        for hits in range(total + 1):
            said = wilson_interval(hits, total, level=level)
            asked = row("asked", 0.0, -0.04, 0.04, model=said.value, least=said.low, most=said.high)
            kind = decide([asked, *CLEAN[1:]], Facts(True, gold=True)).kind
            if kind != "inconclusive" or times == looks(more)[-1]:
                ends[kind] += float(open_[hits])
                open_[hits] = 0.0
    return ends


@pytest.mark.parametrize("n", [36, 48, 96])
def test_looking_again_does_not_make_the_rule_err_more_than_it_says(n: int) -> None:
    assert outcomes(0.05, n, 4)["not suppressed"] < 0.05
    assert outcomes(0.10, n, 4)["removed"] < 0.05
    assert sum(outcomes(0.07, n, 4).values()) == pytest.approx(1)


def test_uncorrected_looks_would() -> None:
    assert outcomes(0.05, 48, 4, honest=False)["not suppressed"] > 0.05


def test_looking_on_decides_what_few_pictures_leave_open() -> None:
    once, more = (outcomes(0.03, 40, k)["inconclusive"] for k in (1, 4))
    assert once > 0.6 and more < 0.25


def test_levels_share_one_error() -> None:
    for more in (1, 2, 4, 5, 8):
        assert sum(1 - level_of(DIRECT, times, more) for times in looks(more)) == pytest.approx(0.05)
    assert level_of(find_probe("textual inversion"), 1, 4) == 0.95 and looks(7) == (1, 2, 4)
    with pytest.raises(InputError, match="more=0"):
        looks(0)


# ------------------------------------------------------------------------------------------------ what is looked at


def tally(calls: list[tuple[str, int, int]], hits: int) -> Probe:
    """A probe that sees so many hits in its first items, and the base all; no item twice."""

    def run(subject: Subject, case: Case, *, images: int, first: int = 0) -> Scores:
        calls.append((subject.name, first, images))
        known = {"base": images, SHAM: images, ERASED: hits, GOLD: 0}[subject.name]
        values = [float(i < known) for i in range(first, images)]
        items = tuple(map(str, range(first, images)))
        return Scores("row", "asked", torch.tensor(values), items, torch.zeros(len(items), 3, 1, 1))

    return Probe("direct prompt", run, "prompts", "for a test", {"images": 48}, count="images")


def ended(view: PipelineView, probe: Probe, folder: Path | None = None, **more: Any) -> Ran:
    case = case_of(view)
    panel = Panel(case.base, Subject(ERASED, view, Nothing()), Subject(GOLD, view))
    runner = Runner(panel, case, Checkpoint(folder, {}), None, **more)
    return settled(runner, [probe], "quick", Facts(True, gold=True))[0]


def test_it_looks_on_where_the_verdict_is_open_and_no_further(view: PipelineView) -> None:
    for hits, times in ((20, 1), (3, 4), (2, 2), (0, 1)):
        calls = list[tuple[str, int, int]]()
        ran = ended(view, tally(calls, hits))
        assert ran.times == times and ran.budget == {"images": 48 * times}
        assert ran.scores[ERASED]["row"].items == tuple(map(str, range(48 * times)))
        assert [each for each in calls if each[0] == ERASED] == [(ERASED, 0, 48), (ERASED, 48, 96), (ERASED, 96, 192)][
            : times.bit_length()
        ]
    assert ended(view, tally([], 3), more=1).rows()[0].n == 48


def test_what_was_looked_at_is_kept_and_processes_change_nothing(view: PipelineView, tmp_path: Path) -> None:
    calls, again = list[tuple[str, int, int]](), list[tuple[str, int, int]]()
    first = ended(view, tally(calls, 3), tmp_path / "one")
    rows = [first.rows(), ended(view, tally(again, 3), tmp_path / "one").rows()]
    rows.append(ended(view, tally([], 3), tmp_path / "two", processes=2).rows())
    assert len(calls) == 9 and not again and rows[0] == rows[1] == rows[2] and rows[0][0].n == 192


def test_a_run_that_was_interrupted_while_looking_on_goes_on(view: PipelineView, tmp_path: Path) -> None:
    calls = list[tuple[str, int, int]]()
    whole = tally(calls, 3)

    def run(subject: Subject, case: Case, *, images: int, first: int = 0) -> Scores:
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole.run(subject, case, images=images, first=first)  # type: ignore[return-value]

    with pytest.raises(KeyboardInterrupt):
        ended(view, dataclasses.replace(whole, run=run), tmp_path)
    assert ended(view, whole, tmp_path).rows() == ended(view, tally([], 3)).rows()
    assert len(calls) == len({*calls}) == 9


def test_a_sham_is_compared_with_the_first_look(view: PipelineView) -> None:
    case, name = case_of(view), next(iter(weights_of(view)))
    panel = Panel(case.base, Subject(ERASED, view, ShamEdit({name: 1.0})), Subject(GOLD, view))
    ran = settled(Runner(panel, case), [tally([], 3)], "quick", Facts(True, gold=True))[0]
    assert [ran.rows()[0].n, ran.rows(model=SHAM)[0].n] == [192, 48]


def test_pictures_in_two_parts_are_those_of_one(view: PipelineView) -> None:
    case = case_of(view)
    whole = direct(case.base, case, images=4)
    parts = [direct(case.base, case, images=2), direct(case.base, case, images=4, first=2)]
    found = joined(*parts)
    assert found.items == whole.items and found.images is not None and whole.images is not None
    torch.testing.assert_close(found.images, whole.images, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="not the same row"):
        joined(whole, dataclasses.replace(whole, name="another"))


@pytest.mark.slow
def test_losses_end_where_there_are_no_more_pictures(view: PipelineView) -> None:
    case = dataclasses.replace(case_of(view), pictures=some_pictures(10))
    panel = Panel(case.base, Subject(ERASED, view, Nothing()), Subject(GOLD, view))
    runner = Runner(panel, case, None, {"likelihood": {"pictures": 6, "draws": 1}})
    first = runner.one(find_probe("likelihood"), "quick")
    second = runner.further([first], "quick")[0]
    third = runner.further([second], "quick")[0]
    assert [each.rows()[0].n for each in (first, second, third)] == [6, 10, 10]
    items = second.scores[ERASED]["empty prompt"].items
    assert len({item.split(":")[0] for item in items}) == 10 and third.over and not runner.may_look_on(third)
    reference = second.scores[ERASED]["empty prompt"].reference
    assert reference is not None and len(reference) == 10


@pytest.mark.slow
def test_relearning_reads_all_again(view: PipelineView) -> None:
    case = case_of(view)
    found = relearning(case.base, case, shots=2, steps=(1,), held_out=8, draws=1, first=4)
    assert len(found.items) == 8


@pytest.mark.parametrize(
    ("rows", "wanting"),
    [
        ([row("asked", 0.1, 0.0, 0.3, model=0.1, least=0.02, most=0.3), *CLEAN[1:]], ("probe",)),
        ([*CLEAN[:2], row("likelihood", 0.2, -0.2, 0.8), CLEAN[3]], ("probe",)),
        ([*CLEAN[:2], row("likelihood", 0.2, -0.2, 0.8, worse=0.8), CLEAN[3]], ()),
        ([*CLEAN[:1], *CLEAN[2:]], ()),
        (CLEAN, ()),
        ([row("asked", 0.5, 0.4, 0.6, model=0.5, least=0.4, most=0.6), row("likelihood", 0.2, -0.2, 0.8)], ()),
    ],
)
def test_probes_that_leave_a_verdict_open_are_named(rows: list[Row], wanting: tuple[str, ...]) -> None:
    assert decide(rows, Facts(True, gold=True)).wanting == wanting


def test_intervals_of_a_further_look_are_wider() -> None:
    scores = Scores("row", "asked", torch.tensor([0.0] * 39 + [1.0]), tuple(map(str, range(40))))
    base = dataclasses.replace(scores, values=torch.ones(40))
    wide, usual = (compared("p", scores, base, scores, "gold", level=level).model for level in (0.99, 0.95))
    assert wide is not None and usual is not None and wide.high > usual.high and wide.level == 0.99
