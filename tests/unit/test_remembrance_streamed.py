"""Rows that are read a part at a time: the same audit as of the same rows in memory, and what is refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from efface import InputError
from efface._errors import FormatError
from efface.audit import Audit, remembered
from efface.audit.remembrance import Entity, Ledger, Mention, Observation, Query, Registry, StreamedLedger, ask, kept
from efface.audit.remembrance.effects import Changes
from efface.audit.remembrance.ledger_file import write_ledger
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.audit.remembrance.totals import totals
from tests.references.remembrance import simulated

COUNT = 14
ROWS = {
    "entity": ["ada", "mary", "ada", "mary"],
    "query": ["q", "q", "q", "q"],
    "arm": [BEFORE, BEFORE, AFTER, AFTER],
    "hit": [1, 1, 1, 0],
    "merit": [1.0, 2.0, 1.0, 2.0],
}


class Naming:
    """Names some of those there are, in an order by seed; refuses at times, and after an edit forgets two of them."""

    def __init__(self, loss: float) -> None:
        self.loss = loss

    def observe(self, query: Query, seed: int) -> Observation:
        rng = np.random.default_rng([seed, int(query.id[1:])])
        if rng.random() < 0.05 + 0.1 * self.loss:
            return Observation((), "refused")
        named = [int(i) for i in rng.permutation(COUNT)[:8] if i not in (0, 5) or rng.random() > self.loss]
        return Observation(tuple(Mention(f"e{i:05d}", rank) for rank, i in enumerate(named)), unresolved=("x",))


def crossed() -> tuple[Ledger, int]:
    loss = np.where(np.arange(24) % 6 == 1, 0.4, 0.0)
    return simulated(np.random.default_rng(0), entities=24, queries=90, loss=loss, again=True), 24


def replicated() -> tuple[Ledger, int]:
    return simulated(np.random.default_rng(1), entities=20, queries=40, loss=0.1, again=True, seeds=3), 20


def ranked() -> tuple[Ledger, int]:
    """Sparse, with grades of merit, ranks, refusals, mentions that are not relevant, and a placebo."""
    rng = np.random.default_rng(2)
    queries = [
        Query(f"q{i}", merit={f"e{j:05d}": 1.0 + (j % 3) for j in rng.permutation(COUNT)[:5].tolist()})
        for i in range(80)
    ]
    registry = Registry([Entity(f"e{i:05d}") for i in range(COUNT)])
    answers = ask(Naming(0.0), Naming(0.9), queries, seeds=(0, 1), placebos=[Naming(0.1)])
    return Ledger.of_answers(answers, queries, registry), COUNT


def registry_of(count: int) -> Registry:
    rng, ids = np.random.default_rng(3), [f"e{i:05d}" for i in range(count)]
    groups = {"guild": [("smith", "weaver")[i % 2] for i in range(count)]}
    return Registry.of(
        ids, target=ids[:2], popularity=np.exp(rng.normal(size=count)), similarity=rng.random(count), groups=groups
    )


def close(one: Any, other: Any) -> bool:
    """Whether plain data are the same but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-9, abs=1e-12, nan_ok=True)
    return one == other


def findings(audit: Audit) -> dict[tuple[str, str, str], Any]:
    every = [found for part in audit.walk() for found in part.findings]
    return {(found.family, found.name, found.condition): vars(found) for found in every}


@pytest.mark.parametrize(
    ("make", "resample"), [(crossed, "both"), (crossed, "queries"), (replicated, "both"), (ranked, "queries")]
)
def test_streamed_in_parts_it_is_the_audit_of_the_same_rows_in_memory(make: Any, resample: Any, tmp_path: Path) -> None:
    ledger, count = make()
    write_ledger(ledger, tmp_path / "rows.parquet")
    options: dict[str, Any] = {"registry": registry_of(count), "resample": resample, "draws": 100, "smallest_cell": 2}
    whole = remembered(ledger, **options)
    with StreamedLedger(tmp_path / "rows.parquet", at_once=len(ledger) // 5) as rows:
        parts = remembered(rows, **options)
        assert rows.parts >= 4 and len(rows) == len(ledger)
    assert whole.conclusions == parts.conclusions
    tables = [[table for part in each.walk() for table in part.tables] for each in (whole, parts)]
    assert len(tables[0]) >= 4 and all(close(vars(a), vars(b)) for a, b in zip(*tables, strict=True))
    alone, own = findings(whole), findings(parts)
    left_out = {key for key in alone if key[1] in ("slope", "loss of expected exposure")}
    assert len(own.keys() - left_out) > 20
    assert all(close(own[key], alone[key]) for key in alone.keys() - left_out)
    assert any("were streamed" in text for text in parts.caveats)
    assert parts.find("popularity", "slope", AFTER).why == "it needs all rows at once, and they are streamed"


class Watched:
    """Rows that note how many changes of single questions are in memory whenever the next panel is asked for."""

    folder = None

    def __init__(self, rows: StreamedLedger) -> None:
        self._rows, self.arms, self.parts, self.held = rows, rows.arms, rows.parts, []

    def panels(self, registry: Registry, arms: Any) -> Any:
        for panel in self._rows.panels(registry, arms):
            self.held.append(sum(len(each.value) for each in gc.get_objects() if type(each) is Changes))
            yield panel


def test_what_is_kept_meanwhile_does_not_grow_with_parts(tmp_path: Path) -> None:
    ledger, _ = crossed()
    write_ledger(ledger, tmp_path / "rows.parquet")
    with StreamedLedger(tmp_path / "rows.parquet", at_once=len(ledger) // 6) as rows:
        watched = Watched(rows)
        totals(watched, registry_of(24), (BEFORE, AFTER, AGAIN), Plan())
    # Of the part before, after and again; and of none that was before it.
    assert len(watched.held) == 6 and max(watched.held) <= 2 * 90 * 24 // 6


def test_random_numbers_that_are_too_many_for_memory_are_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [(np.full((3, 2), i, dtype=np.int8), np.arange(4) + i) for i in range(6)]
    monkeypatch.setattr(kept, "BUDGET", 80)  # two of the blocks
    with kept.Kept(iter(blocks), tmp_path) as found:
        for _ in range(2):
            assert [tuple(part.tolist() for part in block) for block in found] == [
                tuple(part.tolist() for part in block) for block in blocks
            ]
        assert found._file is not None and len(found._inside) == 2
    write_ledger(crossed()[0], tmp_path / "rows.parquet")
    cases = []
    for budget in (2**27, 0):
        monkeypatch.setattr(kept, "BUDGET", budget)
        with StreamedLedger(tmp_path / "rows.parquet", at_once=3500) as rows:
            cases.append(findings(remembered(rows, registry=registry_of(24), draws=40)))
    assert cases[0] == cases[1]


@pytest.mark.parametrize("folder", [False, True])
def test_a_table_or_a_folder_of_them_is_read_as_a_ledger_of_it(folder: bool, tmp_path: Path) -> None:
    table = pd.DataFrame({**ROWS, "status": "ok", "unresolved": [0, 0, 3, 3]})
    path = tmp_path / ("rows" if folder else "rows.parquet")
    if folder:
        path.mkdir()
        table[:2].to_parquet(path / "a.parquet")
        table[2:].to_parquet(path / "b.parquet")
    else:
        table.to_parquet(path)
    registry = Registry.of(["ada", "mary"])
    with StreamedLedger(path, at_once=1) as rows:
        panels = list(rows.panels(registry, (BEFORE, AFTER)))
        assert rows.parts == 2 and [p.merit.tolist() for p in panels] == [[1.0], [2.0]]
        assert panels[1].hit[AFTER].tolist() == [0.0] and panels[0].unresolved[AFTER].tolist() == [3.0]
        assert len(rows.digest) == 64
        kept = rows.folder
    assert not kept.exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"arm": None}, "has no column arm"),
        ({"merit": None}, "has no column merit, which says who should be remembered"),
        ({"hit": [1, 1, 1, 2]}, "hit has values other than 0 and 1.*1 rows"),
        ({"hit": [1, 1, 1, None]}, "column hit has 1 values that are missing"),
        ({"hit": ["yes", "no", "no", "no"]}, "column hit has 4 values that are missing, infinite or no numbers"),
        ({"merit": [1.0, 2.0, 1.0, np.inf]}, "column merit has 1 values that are missing, infinite"),
        ({"merit": [1.0, 2.0, 1.0, -2.0]}, "never below 0"),
        ({"seed": [0.5, 0, 0, 0]}, "seed has fractions"),
        ({"status": ["ok", "maybe", "ok", "ok"]}, "status has others than ok, refused, error"),
        ({"status": ["ok", "refused", "ok", "ok"]}, "rows of one answer have different statuses"),
        ({"rank": [1, 2, 3, 4]}, "has ranks and no exposure"),
        ({"query": ["q", None, "q", "q"]}, "column query has 1 values"),
        ({"arm": [BEFORE] * 4, "query": ["q", "q", "r", "r"]}, "no arm 'after'; they have 'before'$"),
        ({"arm": [BEFORE, BEFORE, "After", "After"]}, "no arm 'after'.*did you mean 'After'"),
        ({"arm": [BEFORE, BEFORE, AFTER, BEFORE]}, "one \\(arm, query, seed, entity\\)|unbalanced"),
        ({"merit": [1.0, 2.0, 1.0, 3.0]}, "disagree on merit"),
    ],
)
def test_rows_that_are_no_ledger_are_refused(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    table = {name: values for name, values in {**ROWS, **columns}.items() if values is not None}
    pl.DataFrame(table, strict=False).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=said):
        remembered(StreamedLedger(tmp_path / "rows.parquet", at_once=2), draws=50)


def test_what_is_no_file_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        StreamedLedger(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match="no .parquet file"):
        StreamedLedger(tmp_path)
    (tmp_path / "odd.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="cannot be read as parquet"):
        StreamedLedger(tmp_path / "odd.parquet")
    pl.DataFrame({name: [] for name in ROWS}).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="has no rows"):
        StreamedLedger(tmp_path / "empty.parquet")
    pl.DataFrame(ROWS).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="write outcome='hit'"):
        remembered(StreamedLedger(tmp_path / "rows.parquet"), outcome="score")
    with pytest.raises(InputError, match="mary is not in the registry"):
        remembered(StreamedLedger(tmp_path / "rows.parquet"), registry=Registry.of(["ada", "eve"]))


def test_files_of_one_folder_may_differ_in_types_and_in_columns_that_are_not_read(tmp_path: Path) -> None:
    rows = pd.DataFrame({**ROWS, "entity": [1, 2, 1, 2]})
    rows[:2].to_parquet(tmp_path / "a.parquet")
    rows[2:].astype({"entity": float, "hit": float}).assign(note="x").to_parquet(tmp_path / "b.parquet")
    with StreamedLedger(tmp_path) as found:
        assert (found.entities, len(found)) == (("1", "2"), 4)
        assert found.entities == Ledger.of_table(rows.astype({"entity": float})).entities
