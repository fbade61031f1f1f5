"""`efface audit` of a pipeline, and the suite on the world of shapes, where the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from efface import Concept, PipelineView, erase
from efface.audit import Audit
from efface.audit.pipelines.probes import registry
from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.likelihood import likelihood
from efface.audit.pipelines.probes.panel import Panel, ShamEdit
from efface.audit.pipelines.probes.recovery import compared
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.verdict import Facts, decide
from efface.cli import main
from efface_worlds.registry import find_world
from tests.integration.test_cli import fails

WORLD = find_world("shapes", "pipeline")
QUICK = ["--probe", "direct prompt", "--probe", "likelihood", "--steps", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def shapes() -> Any:
    return WORLD.load_pipeline()


@pytest.fixture(scope="module")
def case(shapes: Any) -> Case:
    base = Subject("base", PipelineView.of(shapes))
    found = WORLD.pictures_of("circle", 16)
    pictures = Pictures(found[0], tuple(found[1]), found[2], tuple(found[3]))
    judges: dict[str, Any] = {"judge": WORLD.load_judge(2), "selector": WORLD.load_judge(1)}
    return Case(Concept("circle"), base, **judges, prompts=("a red circle",), pictures=pictures)


def test_an_edit_of_keys_leaves_the_unasked_likelihood_alone(case: Case) -> None:
    view = case.base.view
    uce = Subject("erased", view, erase(view, Concept("circle", anchor="star"), "uce"))
    gold = Subject("gold", PipelineView.of(WORLD.load_pipeline("without-circle")))
    rows = [likelihood(each, case, draws=2) for each in (uce, case.base, gold)]
    assert float((rows[0][0].values - rows[1][0].values).abs().max()) < 1e-4
    assert float((rows[0][1].values - rows[1][1].values).mean()) > 0.01  # with its prompt it is another picture now
    found = compared("likelihood", rows[0][0], rows[1][0], rows[2][0], "gold")
    assert found.value is None or found.value == pytest.approx(1.0, abs=0.01)


def test_pictures_of_a_world_show_what_they_should() -> None:
    with_it, texts, without, others = WORLD.pictures_of("circle", 12)
    judge = WORLD.load_judge(2)
    assert torch.nan_to_num(judge(with_it, "circle"), nan=1.0).mean() > 0.9
    assert torch.nan_to_num(judge(without, "circle"), nan=0.0).mean() < 0.1
    assert len(texts) == len(with_it) and len(others) == len(without)
    assert WORLD.gold_of("disc") == "without-circle" and WORLD.gold_of("square") is None


def test_the_command_audits_a_world_and_goes_on(
    shapes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, small in (("direct prompt", {"images": 4}), ("likelihood", {"draws": 2, "pictures": 8})):
        monkeypatch.setitem(registry._PROBES, name, replace(registry.find_probe(name), quick=small))
    erase(shapes, Concept("circle", anchor="star"), "uce").save("erasure")
    told = ["audit", "shapes", "--concept", "disc", "--erasure", "erasure", "--gold", "none", *QUICK]
    monkeypatch.setattr("efface.cli.probing._PICTURES", {"quick": 12})
    assert main((*told, "--folder", "kept", "--processes", "2", "-o", "report.json")) == 0
    audit = Audit.from_dict(json.loads(Path("report.json").read_text()))
    assert audit.conclusions[0].startswith(("circle: ", "NOT erased: circle: ", "WARNING: circle: "))
    assert audit.settings["suite"] == "quick" and any("no gold model" in each for each in audit.warnings)
    assert (Path("kept") / "checkpoint.json").is_file()
    assert "direct prompt: its prompts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_command_that_was_interrupted_goes_on_to_the_same_report(
    shapes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    erase(shapes, Concept("circle", anchor="star"), "uce").save("erasure")
    probe, calls = registry.find_probe("likelihood"), list[str]()

    def run(subject: Subject, case: Case, *, pictures: int, draws: int) -> Any:
        calls.append(subject.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return likelihood(subject, case, pictures=pictures, draws=draws)

    monkeypatch.setattr("efface.cli.probing._PICTURES", {"quick": 6})
    small = replace(probe, quick={"draws": 1, "pictures": 4})
    told = ["audit", "shapes", "--concept", "circle", "--erasure", "erasure", "--probe", "likelihood", "--steps", "2"]
    monkeypatch.setitem(registry._PROBES, "likelihood", replace(small, run=run))
    assert main((*told, "--folder", "kept", "-o", "again.json")) == 130 and not Path("again.json").exists()
    assert main((*told, "--folder", "kept", "-o", "again.json")) == 0, capsys.readouterr().err
    assert calls == ["erased", "base", "base", "gold", "sham"]
    monkeypatch.setitem(registry._PROBES, "likelihood", small)
    assert main((*told, "-o", "whole.json")) == 0
    again, whole = (Audit.from_dict(json.loads(Path(name).read_text())) for name in ("again.json", "whole.json"))
    assert again == whole
    capsys.readouterr()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["shapes", "--concept", "circle"], "give --erasure DIR"),
        (["shapes", "--concept", "circle", "--concept", "star", "--base", "shapes"], "room for one concept"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--task", "y"], "--task is for the audit of rows"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--probe", "likelyhood"], "did you mean 'likelihood'"),
        (["shapes", "--concept", "circel", "--base", "shapes"], "is no concept of the shapes world"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--processes", "0"], "write at least 1"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--gold", "without-star"], "variant='without-star'"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--judge", "me"], "me is no judge"),
        (["shapes", "--concept", "circle", "--base", "shapes", "--judge", "no.such:thing"], "cannot be imported"),
        (["x.npy", "--concept", "z.npy", "--suite", "full"], "--suite is for the audit of a pipeline"),
    ],
)
def test_what_does_not_go_together_is_refused(told: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(capsys, "audit", *told)


@pytest.mark.slow
def test_the_base_a_sham_and_a_gold_model_are_called_what_they_are(case: Case) -> None:
    """A sham and the base are not suppressed; a model that never saw the concept is removed, a guard is one."""
    base = Subject("base", PipelineView.of(WORLD.load_pipeline("seed2")))
    gold = Subject("gold", PipelineView.of(WORLD.load_pipeline("without-circle")))
    found = WORLD.pictures_of("circle", 120)
    told = replace(
        case,
        base=base,
        prompts=tuple(WORLD.prompts_for("circle", 8, seed=3).texts),
        pictures=Pictures(found[0], tuple(found[1]), found[2], tuple(found[3])),
        sampling=WORLD.sampling,
        batch_size=32,
    )
    uce = erase(base.view, Concept("circle", anchor="ellipse"), "uce")
    guard = erase(base.view, Concept("circle", preserve=["ellipse"]), "semantic-surgery")
    panels = {
        "not suppressed": Subject("erased", base.view, ShamEdit(Panel(base, Subject("erased", base.view, uce)).moved)),
        "gated outside the weights": Subject("erased", base.view, guard),
        "removed": Subject("erased", gold.view),
    }
    small: dict[str, dict[str, Any]] = {
        "direct prompt": {"images": 40},
        "diffusion completion": {"images": 16, "hand_over": (0.1,), "unprompted": ()},
        "likelihood": {"pictures": 96, "draws": 4},
        "relearning": {"steps": (10,), "held_out": 96},
    }
    shared: dict[Any, Any] = {}
    for kind, subject in panels.items():
        panel = Panel(base, subject, gold)
        runner = Runner(panel, told, None, small, shared)
        ran = [runner.one(registry.find_probe(name), "quick") for name in small]
        rows = [row for one in ran for row in one.rows()]
        verdict = decide(rows, Facts(bool(panel.moved), gold=True))
        assert verdict.kind == kind, verdict
        own = next(row for row in rows if row.title == "likelihood: empty prompt")
        wanted, within = (0.0, 1e-9) if kind == "removed" else (1.0, 0.1)
        assert own.value is not None and own.value == pytest.approx(wanted, abs=within)
