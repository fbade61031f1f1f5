"""`efface remember` on files as users have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from efface.audit import Audit
from efface.audit.remembrance.ledger_file import write_ledger
from efface.cli import main
from tests.integration.test_cli import fails
from tests.references.remembrance import simulated

FEW = ["--draws", "200"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a classifier said, before and after an edit that takes class d, and half of c."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = rng.choice(list("abcd"), 1200)
    before = np.where(rng.random(1200) < 0.9, truth, "a")
    after = np.where((before == "d") | ((before == "c") & (rng.random(1200) < 0.5)), "b", before)
    pd.DataFrame({"class": truth, "before": before, "after": after}).to_csv("said.csv", index=False)
    pd.DataFrame({"id": list("abcd"), "relation": ["unrelated"] * 3 + ["target"], "popularity": [9, 3, 2, 1]}).to_csv(
        "who.csv", index=False
    )
    return tmp_path


SAID = ["remember", "said.csv:before", "said.csv:after", "--truth", "said.csv:class", *FEW]


def test_predictions_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--target", "d", "-o", "card.json"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: 1 (c) of 3 bystanders were suppressed" in " ".join(out.split())
    audit = Audit.from_dict(json.loads(Path("card.json").read_text()))
    assert audit.find("target", "remembered", "after").value == 0
    assert audit.provenance["call"].startswith("efface remember said.csv:before")
    assert audit.settings["resample"] == "queries"


def test_who_they_are_from_a_table_is_the_same_as_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--who", "who.csv", "-o", "a.json"]) == 0
    assert main([*SAID, "--target", "d", "-o", "b.json"]) == 0
    one, other = (Audit.from_dict(json.loads(Path(f"{n}.json").read_text())) for n in "ab")
    assert one.findings == other.findings
    assert (
        one.find("popularity", "slope", "after").is_scored and not other.find("popularity", "slope", "after").is_scored
    )
    capsys.readouterr()


def test_strict_is_told_by_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SAID, "--target", "d", "--strict"]) == 1
    same = ["remember", "said.csv:before", "said.csv:before", "--truth", "said.csv:class", *FEW, "--strict"]
    assert main(same) == 0
    assert "Certified" in capsys.readouterr().out


def test_a_table_of_answers_and_a_ledger_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = simulated(np.random.default_rng(1), entities=8, queries=60)
    write_ledger(ledger, "ledger.parquet")
    ids = {"entity": ledger.entities, "query": ledger.queries, "arm": ledger.arms}
    columns = {n: np.array(ids[n])[ledger.rows[n]] for n in ids} | {n: ledger.rows[n] for n in ("hit", "merit", "seed")}
    pd.DataFrame(columns).astype({"hit": int}).to_csv("answers.csv", index=False)
    assert main(["remember", "ledger.parquet", *FEW, "-o", "a.json"]) == 0
    assert main(["remember", "answers.csv", *FEW, "-o", "b.json"]) == 0
    one, other = (Audit.from_dict(json.loads(Path(f"{n}.json").read_text())) for n in "ab")
    assert one.findings == other.findings
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("remember said.csv:before said.csv:after", "--truth is missing"),
        (
            "remember said.csv said.csv:after --truth said.csv:class",
            "said.csv has several columns (class, before, after)",
        ),
        ("remember said.csv", "the table has no column entity, query, arm, hit"),
        ("remember said.csv --truth said.csv:class", "go with AFTER"),
        ("remember none.csv", "there is no file none.csv"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --target e", "target has e"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --who said.csv", "has no column id"),
        ("remember said.csv:before said.csv:after --truth said.csv:class --margin 0", "margin is 0.0"),
        ("remember said.csv:before said.csv:after --truth said.csv:class -o said.csv", "expected a suffix"),
        ("remember said.csv:befor said.csv:after --truth said.csv:class", "befor"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    assert message in fails(capsys, *argv.split())
