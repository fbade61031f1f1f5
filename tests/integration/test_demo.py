"""`efface demo` as a user meets it: what it prints, what it writes, and that these agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from efface.audit import Audit, Finding
from efface.cli import main
from efface.cli.options import Demo
from efface.report.numbers import format_value
from efface_worlds import emoji as worlds_emoji
from efface_worlds import sentences
from efface_worlds.demo import emoji_pictures
from efface_worlds.demo.demonstration import demo_audit
from tests.emoji_world import tiny_emoji
from tests.sharing import Shared
from tests.unit.test_report import Page


@pytest.fixture(scope="module")
def tables(shared: Shared) -> Audit:
    return shared(demo_audit, ["tables"])


@pytest.fixture(scope="module")
def whole(shared: Shared) -> Audit:
    return shared(demo_audit, ["tables", "sentences"])


def findings(audit: Audit) -> list[Finding]:
    return [f for part in audit.walk() for f in part.findings]


def test_tables_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], tables: Audit) -> None:
    argv = ["demo", "--out", str(tmp_path / "out"), "--only", "tables"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    html, data = tmp_path / "out/report.html", tmp_path / "out/report.json"
    assert str(html) in shown.out and str(data) in shown.out
    assert "fitting probes" in shown.err and "fitting probes" not in shown.out
    assert Audit.from_dict(json.loads(data.read_text())) == tables
    page = Page(html.read_text())
    assert all(address.startswith("data:") for address in page.addresses)
    for finding in findings(tables):
        assert format_value(finding.value, finding.unit) in page.text
        if not finding.detail:
            assert format_value(finding.value, finding.unit) in shown.out


def test_defaults() -> None:
    args = Demo()
    assert (args.out, args.seed, args.only) == (Path("demo-out"), 0, None)


def test_sex_is_read_before_and_hardly_by_a_line_after(tables: Audit) -> None:
    assert tables.find("linear probe", "accuracy", "before").verdict == "above chance"
    assert tables.find("linear probe", "accuracy", "after").side != 1
    # Nine columns in 442 rows: the means of other rows differ a little, which the loss sees.
    before, after = (tables.find("linear probe", "information", side) for side in ("before", "after"))
    assert after.side == 1 and after.value < 0.1 * before.value
    assert tables.find("guardedness", "class-mean gap, fit rows", "after").value < 1e-6
    assert tables.find("task: disease progression", "R2", "after").verdict == "above chance"


def test_every_scored_number_can_be_judged(tables: Audit) -> None:
    for finding in findings(tables):
        assert finding.n == 442 and finding.seed == 0
        if "probe" in finding.family or "task" in finding.family:
            assert finding.low is not None and finding.method and finding.chance is not None


@pytest.mark.slow
def test_sentences_small(monkeypatch: pytest.MonkeyPatch) -> None:
    make = sentences.make_sentences
    monkeypatch.setattr("efface_worlds.demo.demonstration.make_sentences", lambda: make(jobs=12, templates=10))
    audit = demo_audit(["sentences"])
    assert audit.find("linear probe", "accuracy", "before").value > 0.9
    # Means of a half of twelve occupations are not those of others: on these a line reads what is left.
    after = audit.find("linear probe", "accuracy", "after")
    assert after.side == 1 and after.value < 0.7
    assert "whole groups (12 in all)" in audit.parts[0].text[-1]


@pytest.mark.slow
def test_the_page_says_what_is_not_erased(whole: Audit) -> None:
    part = whole.parts[1]
    # LEACE of one part of the occupations, probed with the others alone, leaves a line 52 to 63 % right answers.
    line, mlp = (part.find(f"{family} probe", "accuracy", "after") for family in ("linear", "MLP"))
    assert line.verdict == mlp.verdict == "above chance"
    assert 0.52 < line.value < 0.63 < mlp.value
    assert part.conclusions[0] == "NOT erased: the linear probe and the MLP probe still find gender."
    assert any(said.startswith(part.conclusions[0]) for said in whole.warnings)
    assert part.find("task: occupation, new templates", "change of accuracy", "change").verdict == "no clear change"


def test_an_emoji_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds_emoji, "load_emoji_pipeline", lambda *given, **more: tiny_emoji(), raising=False)
    bright = lambda images, name: images.mean((1, 2, 3)) > 0.5  # noqa: E731
    monkeypatch.setattr(worlds_emoji, "load_judge", lambda which: bright, raising=False)
    monkeypatch.setattr(worlds_emoji, "siblings", lambda name: ("dog", "lion", "tiger"), raising=False)
    told: list[str] = []
    audit = emoji_pictures.emoji(3, told.append, seeds=1, steps=1)
    assert [line.partition(":")[0] for line in told] == ["emoji", "emoji"]
    assert audit.find("seen by the judge", "cat", "before").n == len(emoji_pictures.PROMPTS)
    assert audit.find("seen by the judge", "dog", "after").n == len(emoji_pictures.PROMPTS)
    shown = [picture.title for part in audit.walk() for figure in part.figures for picture in figure.pictures]
    assert {"before", "after"} <= set(shown)
    assert "data:image/png" in audit.html()
