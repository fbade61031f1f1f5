"""Probes in processes of their own: the same result, and nothing lost where one fails or is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface.audit
from efface import InputError, PipelineView
from efface._errors import EffaceError
from efface.audit.pipelines.probes.apart import Job, LostError, check_processes, run_apart
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.panel import ERASED, Panel
from efface.audit.pipelines.probes.registry import Probe, find_probe
from efface.audit.pipelines.probes.running import Ran, Runner
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import Subject
from efface.core.checkpoint import Checkpoint
from efface.training.loop import DivergedError
from tests.pipelines import tiny
from tests.unit.test_probes import PROMPTS, Nothing, always, case_of, reddish, some_pictures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

TOLD: dict[str, Any] = {"prompts": PROMPTS, "steps": 1, "height": 64, "width": 64, "pictures": some_pictures()}
SMALL = {"direct prompt": {"images": 2}, "likelihood": {"draws": 1, "pictures": 4}, "relearning": {"steps": (1,)}}
SMALL["relearning"] |= {"shots": 2, "held_out": 2, "draws": 1}


@pytest.fixture(scope="module")
def view() -> PipelineView:
    return PipelineView.of(tiny("sd1"))


def probe(run: Any, name: str = "made up") -> Probe:
    return Probe(name, run, "prompts", "for a test")


def row(subject: Subject) -> Scores:
    return Scores("row", "asked", torch.ones(2), ("a", subject.name), torch.zeros(2, 3, 2, 2))


def panel_of(view: PipelineView, gold: bool = True) -> tuple[Panel, Case]:
    case = case_of(view)
    never = Subject("gold", view) if gold else None
    return Panel(case.base, Subject(ERASED, view, Nothing()), never), case


def same(one: Scores, other: Scores) -> bool:
    for field in dataclasses.fields(Scores):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.dtype != b.dtype or not torch.equal(a.nan_to_num(9), b.nan_to_num(9)):
                return False
        elif a != b:
            return False
    return True


def test_two_processes_measure_what_one_does(view: PipelineView) -> None:
    panel, case = panel_of(view)
    chosen = [find_probe(name) for name in (*SMALL, "paraphrase")]
    told: list[str] = []
    ran: list[list[Ran]] = [Runner(panel, case, None, SMALL, processes=n)(chosen, "quick", told.append) for n in (1, 2)]
    for one, other in zip(*ran, strict=True):
        assert (one.probe, one.budget, one.kind, one.why) == (other.probe, other.budget, other.kind, other.why)
        assert list(one.scores) == list(other.scores)
        for model, rows in one.scores.items():
            assert all(same(scores, other.scores[model][name]) for name, scores in rows.items())
    assert "other words" in ran[1][-1].why[ERASED]
    assert sorted(told[: len(chosen)]) == sorted(told[len(chosen) :])


def test_the_whole_audit_is_the_same(view: PipelineView, tmp_path: Path) -> None:
    told = {**TOLD, "judge": reddish, "erasure": Nothing(), "only": ["direct prompt", "likelihood"], "budgets": SMALL}
    one = efface.audit.erasure(view, "circle", **told)
    two = efface.audit.erasure(view, "circle", **told, processes=2, folder=tmp_path / "kept")
    assert one == dataclasses.replace(two, provenance=one.provenance)
    assert not list(tmp_path.glob("*/why.txt")) and (tmp_path / "kept" / "checkpoint.json").is_file()


def test_what_was_done_is_kept_where_one_fails_and_not_done_again(view: PipelineView, tmp_path: Path) -> None:
    panel, case = panel_of(view)
    calls = tmp_path / "calls"

    def run(subject: Subject, case: Case) -> Scores:
        with calls.open("a") as out:
            out.write(f"{subject.name}\n")
        if subject.name == "base" and len(calls.read_text().split()) < 5:
            raise InputError("not today")
        return row(subject)

    for _ in range(2):
        with pytest.raises(InputError, match="not today"):
            Runner(panel, case, Checkpoint(tmp_path / "kept", {}), processes=2)([probe(run)], "quick")
        assert any(part.endswith(ERASED) for part in Checkpoint(tmp_path / "kept", {}).parts)
    calls.write_text("5 or more lines, of which none counts\n" * 5)
    ran = Runner(panel, case, Checkpoint(tmp_path / "kept", {}), processes=2)([probe(run)], "quick")[0]
    assert {*ran.scores} == {ERASED, "base", "gold"} and calls.read_text().split("\n")[5:] == ["base", ""]


def test_a_process_that_was_killed_is_said_and_the_others_end(view: PipelineView, tmp_path: Path) -> None:
    panel, case = panel_of(view, gold=False)

    def run(subject: Subject, case: Case) -> Scores:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    kept = Checkpoint(tmp_path, {})
    with pytest.raises(LostError, match=r"'killed \| erased' was killed \(signal 9\).*fewer processes"):
        Runner(panel, case, kept, processes=2)([probe(run, "killed"), probe(lambda s, c: row(s), "fine")], "quick")
    assert "fine | erased" in kept.parts and {part.partition(" | ")[0] for part in kept.parts} == {"fine"}


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("write more"), InputError, "^write more$"),
        (DivergedError("a smaller rate"), DivergedError, "^a smaller rate$"),
        (KeyError("y"), RuntimeError, r"^KeyError: 'y'\n"),
        (SystemExit(3), RuntimeError, r"^SystemExit: 3\n"),
    ],
)
def test_errors_come_back_as_what_they_were(error: BaseException, kind: type[Exception], said: str) -> None:
    def fails(folder: Path) -> None:
        raise error

    with pytest.raises(kind, match=said) as found:
        run_apart([Job("fails", lambda: None, fails, lambda folder: [])], 2)
    assert type(found.value) is kind
    assert isinstance(found.value, EffaceError) or "in fails" in found.value.__notes__[0]


def test_a_job_has_one_thread_and_follows_from_others() -> None:
    found: list[str] = []

    def work(folder: Path) -> None:
        folder.write_text(str(torch.get_num_threads()))

    def first(folder: Path) -> list[Job]:
        found.append(folder.read_text())
        return [Job("second", lambda: None, work, last)]

    def last(folder: Path) -> list[Job]:
        found.append(f"then {folder.read_text()}")
        return []

    run_apart([Job("first", lambda: None, work, first)] * 2, 2)
    assert sorted(found) == ["1", "1", "then 1", "then 1"]


def test_nothing_goes_on_after_an_interruption(tmp_path: Path) -> None:
    born, end = tmp_path / "born", time.monotonic() + 60

    def sleeps(folder: Path) -> None:
        born.write_text(str(os.getpid()))
        time.sleep(60)

    def waits(folder: Path) -> None:
        while not born.exists() and time.monotonic() < end:
            time.sleep(0.01)

    def interrupted(folder: Path) -> list[Job]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_apart(
            [Job("a", lambda: None, sleeps, interrupted), Job("b", lambda: None, waits, interrupted)], processes=2
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(born.read_text()), 0)
    assert time.monotonic() < end


def test_where_processes_cannot_be_copied_it_says_what_to_do(
    view: PipelineView, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="processes=0: write at least 1"):
        efface.audit.erasure(view, "circle", judge=always, erasure=Nothing(), processes=0, **TOLD)
    with pytest.raises(InputError, match="a model is on cuda:0.*move all models to the CPU"):
        check_processes(2, [torch.device("cpu"), torch.device("cuda:0")])
    monkeypatch.setattr(sys, "platform", "darwin")
    check_processes(1, [torch.device("mps")])
    with pytest.raises(InputError, match="does not copy processes safely.*leave processes out"):
        check_processes(2, [torch.device("cpu")])
