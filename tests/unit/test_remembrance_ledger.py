"""Who may be remembered, what is asked, and the ledger of answers: what is kept, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from efface import InputError
from efface._errors import FormatError
from efface.audit.remembrance import (
    RBP,
    Entity,
    Flat,
    Ledger,
    Mention,
    Observation,
    Query,
    Registry,
    StreamedLedger,
    ask,
)
from efface.audit.remembrance.classes import declared
from efface.audit.remembrance.ledger_file import read_ledger, write_ledger
from efface.audit.remembrance.panel import aligned
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from tests.references.remembrance import simulated

TABLE = {
    "entity": ["ada", "mary", "ada", "mary"],
    "query": ["q", "q", "q", "q"],
    "arm": [BEFORE, BEFORE, AFTER, AFTER],
    "hit": [1, 1, 1, 0],
    "merit": [1.0, 2.0, 1.0, 2.0],
}


def changed(**columns: Any) -> dict[str, Any]:
    return {**TABLE, **columns}


class Answering:
    """Names everyone of merit but those who are gone, in an order by seed."""

    def __init__(self, gone: tuple[str, ...] = (), status: Any = "ok") -> None:
        self.gone, self.status = gone, status

    def observe(self, query: Query, seed: int) -> Observation:
        names = [name for name in sorted(query.merit) if name not in self.gone]
        order = np.random.default_rng(seed).permutation(len(names))
        mentions = tuple(Mention(names[i], rank) for rank, i in enumerate(order.tolist()))
        return Observation(mentions, self.status, ("nobody",) * len(self.gone))


ENTITIES = [Entity("ada", ("Ada Lovelace",)), Entity("mary"), Entity("grace")]
QUERIES = [Query(f"q{i}", merit={"ada": 1.0, "mary": 2.0}) for i in range(3)]


# Registry


def test_names_are_resolved_whatever_their_case_width_and_spaces() -> None:
    registry = Registry(ENTITIES)
    assert [registry.resolve(n) for n in ("ADA", "ada  lovelace", "Ａｄａ", "lovelace")] == ["ada", "ada", "ada", None]


@pytest.mark.parametrize(
    ("entities", "said"),
    [
        ([Entity("a"), Entity("a")], "a more than once"),
        ([Entity("a", ("Ann",)), Entity("b", ("ANN",))], "'ann' stands for a and for b"),
        ([Entity("a", ("b",)), Entity("b")], "'b' stands for a and for b"),
        ([], "at least one Entity"),
        (["a"], "expected a Entity"),
    ],
)
def test_a_registry_with_names_that_are_not_one_entitys_is_refused(entities: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Registry(entities)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": " "}, "at least one sign"),
        ({"id": "a", "popularity": -1.0}, "a number from 0"),
        ({"id": "a", "popularity": float("inf")}, "a number from 0"),
        ({"id": "a", "similarity": float("nan")}, "a finite number"),
        ({"id": "a", "relation": "cousin"}, "relation='cousin': write one of 'target'"),
        ({"id": 3}, "id is 3"),
    ],
)
def test_an_entity_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Entity(**fields)


def test_strata_hold_a_third_of_popularity_each_and_do_not_hang_on_order() -> None:
    rng = np.random.default_rng(0)
    popularity = np.round(np.exp(2 * rng.normal(size=300)), 1)
    ids = [f"e{i:03d}" for i in range(300)]
    found = Registry.of(ids, popularity=popularity).strata()
    held = {name: popularity[found == name].sum() / popularity.sum() for name in ("head", "torso", "tail")}
    assert all(share == pytest.approx(1 / 3, abs=0.1) for share in held.values())
    assert (found == "head").sum() < (found == "torso").sum() < (found == "tail").sum()
    assert all(len(set(found[popularity == value])) == 1 for value in popularity)
    order = rng.permutation(300)
    other = Registry.of([ids[i] for i in order], popularity=popularity[order])
    assert np.array_equal(found, other.strata())


def test_who_has_no_popularity_has_no_stratum_and_who_has_none_at_all_is_in_the_tail() -> None:
    assert Registry.of("abc", popularity=[5.0, float("nan"), 0.0]).strata().tolist() == ["head", "", "tail"]
    assert Registry.of("ab", popularity=[0.0, 0.0]).strata().tolist() == ["head", "head"]  # all alike
    assert Registry.of("ab").strata().tolist() == ["", ""]
    assert Registry.of("abc", popularity=[3, 2, 1]).strata("equal thirds").tolist() == ["head", "torso", "tail"]


def test_columns_of_other_lengths_and_strange_targets_are_refused() -> None:
    with pytest.raises(InputError, match="popularity has 1 values for 2 ids"):
        Registry.of("ab", popularity=[1.0])
    with pytest.raises(InputError, match="target has c, which is none of the ids"):
        Registry.of("ab", target=["c"])
    for aliases in (["Ann", "Bob"], [["Ann"], None], [["Ann"], 3]):
        with pytest.raises(InputError, match="aliases of [ab] is .*: write a list of names"):
            Registry.of("ab", aliases=aliases)  # type: ignore[arg-type]
    assert Registry.of("ab", aliases=[["Ann"], []]).resolve("ANN") == "a"


@pytest.mark.parametrize("seed", range(20))
def test_no_class_of_a_few_is_shown_or_can_be_told_by_difference(seed: int) -> None:
    rng, count, smallest = np.random.default_rng(seed), 60, 5
    ids = [f"e{i:02d}" for i in range(count)]
    groups = rng.choice(["a", "b", "c", "d"], count, p=[0.6, 0.25, 0.1, 0.05]).tolist()
    registry = Registry.of(ids, popularity=np.exp(rng.normal(size=count)), groups={"kind": groups})
    strata, there = registry.strata(), np.ones(count, dtype=bool)
    kept, withheld = declared(registry, strata, there, smallest)
    shown = {(each.kind, each.name, each.stratum): int(each.members.sum()) for each in kept}
    assert min(shown.values()) >= smallest and len(kept) + len(withheld) > 3
    sizes = {"": count, **{layer: int((strata == layer).sum()) for layer in ("head", "torso", "tail")}}
    for layer, whole in sizes.items():
        parts = [size for (kind, _, stratum), size in shown.items() if kind == "kind" and stratum == layer]
        assert not parts or not 0 < whole - sum(parts) < smallest
    for name in "abcd":
        parts = [size for (kind, group, stratum), size in shown.items() if (kind, group) == ("kind", name) and stratum]
        whole = shown.get(("kind", name, ""))
        assert not parts or whole is None or not 0 < whole - sum(parts) < smallest


# Ledger


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_a_table_of_any_kind_is_the_same_ledger(kind: Any) -> None:
    found = Ledger.of_table(kind(TABLE))
    assert found.digest == Ledger.of_table(TABLE).digest
    assert found.rows["hit"].tolist() == [True, False, True, True] and found.arms == (AFTER, BEFORE)


def test_order_of_rows_and_ids_does_not_count_and_any_content_does() -> None:
    table = pd.DataFrame(changed(seed=[0, 0, 0, 0], score=[0.5, 1.0, 0.2, 0.0], status="ok"))
    digest = Ledger.of_table(table).digest
    assert Ledger.of_table(table.sample(frac=1, random_state=1)).digest == digest
    others = {
        "entity": "bea", "query": "r", "arm": "before again", "hit": 0, "merit": 3.0, "seed": 1, "score": 0.7,
        "status": "refused",
    }  # fmt: skip
    for column, value in others.items():
        other = table.copy()
        other.loc[0 if column != "status" else slice(0, 1), column] = value
        assert Ledger.of_table(other).digest != digest, column
    assert Ledger.of_table(table, attention=Flat()).digest == digest  # no ranks: no model of users is used


def test_a_file_gives_the_ledger_back_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    answers = ask(Answering(), Answering(("mary",)), QUERIES, seeds=(0, 1))
    ledger = Ledger.of_answers(answers, QUERIES, Registry(ENTITIES))
    write_ledger(ledger, tmp_path / "a.parquet")
    assert read_ledger(tmp_path / "a.parquet").digest == ledger.digest
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("entity").null_count == len(ledger.answers["query"])
    hits = table.column("hit").to_pylist()
    place = table.column_names.index("hit")
    turned = pa.array([hits[0] is False, *hits[1:]], type=table.column("hit").type)
    pq.write_table(table.set_column(place, table.schema.field("hit"), turned), tmp_path / "b.parquet")
    with pytest.raises(FormatError, match="changed after it was written"):
        read_ledger(tmp_path / "b.parquet")
    pq.write_table(pa.table(TABLE), tmp_path / "c.parquet")
    with pytest.raises(FormatError, match="no ledger of efface"):
        read_ledger(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="no ledger of efface"):
        read_ledger(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({k: v for k, v in TABLE.items() if k != "arm"}, "no column arm"),
        ({k: v for k, v in TABLE.items() if k != "merit"}, "no column merit, which says who should be remembered"),
        (changed(hit=[1, 1, 1, 2]), "values other than 0 and 1"),
        (changed(hit=[1, 1, 1, None]), "column hit is missing"),
        (changed(merit=[1.0, 2.0, 1.0, float("nan")]), "column merit is missing"),
        (changed(merit=[1.0, 2.0, 1.0, -2.0]), "never below 0"),
        (changed(arm=[BEFORE] * 4), "have one \\(arm, query, seed, entity\\)"),
        (changed(seed=[0.5, 0, 0, 0]), "seed has fractions"),
        (changed(status=["ok", "maybe", "ok", "ok"]), "status has 'maybe'"),
        (changed(status=["ok", "refused", "ok", "ok"]), "rows of one answer have different statuses"),
        (changed(entity=["ada", "mary", "ada"]), "has shape"),
        ({name: [] for name in TABLE}, "there are no rows"),
        ([1, 2], "give a data frame or a mapping"),
    ],
)
def test_a_table_that_is_no_ledger_is_refused(table: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ledger.of_table(table)


def test_what_a_table_says_itself_is_not_declared_again(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="merit=1.0 is declared, and the table has a column merit of its own"):
        Ledger.of_table(TABLE, merit=1.0)
    with pytest.raises(InputError, match="the table has exposure already"):
        Ledger.of_table(changed(rank=[0, 1, 0, 1], exposure=[1.0] * 4), attention=RBP(0.5))
    pq.write_table(pa.table(TABLE), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"merit=1.0 is declared, and .*rows.parquet has a column merit"):
        StreamedLedger(tmp_path / "rows.parquet", merit=1.0)


def test_ranks_become_attention() -> None:
    found = Ledger.of_table(changed(rank=[1, 0, 0, 5]), attention=RBP(0.5))
    assert found.rows["exposure"].tolist() == [1.0, 0.0, 0.5, 1.0]  # after: ada, mary; before: ada, mary
    assert found.attention == RBP(0.5).name


def test_unresolved_names_of_a_table_are_those_of_its_answers() -> None:
    found = Ledger.of_table(changed(unresolved=[0, 0, 3, 3]))
    assert found.answers["unresolved"].tolist() == [3.0, 0.0]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Series, pl.Series])
def test_predictions_of_any_kind(kind: Any) -> None:
    found = Ledger.of_predictions(kind([3, 5, 5]), before=kind([3, 5, 3]), after=kind([5, 5, 3]))
    panel = aligned(found, Registry.of(found.entities), (BEFORE, AFTER))
    relevant = panel.relevant
    assert panel.hit[BEFORE][relevant].tolist() == [1, 1, 0] and panel.hit[AFTER][relevant].tolist() == [0, 1, 0]
    # Who was said wrongly is mentioned without being relevant.
    assert panel.by_entity(panel.exposure[BEFORE]).tolist() == [2, 1]
    assert panel.by_entity(panel.exposure[AFTER]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("truth", "before", "after"),
    [
        ([1, 2, 3], [1.0, 2.0, 3.0], ["1", "2", "2"]),
        (np.array([1, 2, 3], dtype=np.float16), [1, 2, 3], [1, 2, 2]),
        (torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0]), [1, 2, 2]),
    ],
)
def test_a_class_has_one_name_whatever_type_of_number_it_comes_as(truth: Any, before: Any, after: Any) -> None:
    found = Ledger.of_predictions(truth, before, after)
    assert found.entities == ("1", "2", "3")
    hits = {
        arm: found.rows["hit"][(found.rows["merit"] > 0) & (found.rows["arm"] == i)].tolist()
        for i, arm in enumerate(found.arms)
    }
    assert hits == {AFTER: [True, True, False], BEFORE: [True, True, True]}


def test_among_numbers_true_is_one() -> None:
    assert Ledger.of_predictions([True, False], [1, 0], [1.0, 1.0]).entities == ("0", "1")
    assert Ledger.of_predictions([True, False], [True, False], [True, True]).entities == ("False", "True")


def test_an_arm_that_never_names_a_true_class_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="no answer of 'after' is a true class"):
        Ledger.of_predictions(["Cat", "Dog"], ["Cat", "Dog"], ["cat", "dog"])


def test_a_status_that_is_none_is_refused_and_not_wrapped_into_one() -> None:
    with pytest.raises(InputError, match="status"):
        Ledger.of_table(changed(status=[256] * 4))


def test_what_is_not_known_of_an_entity_may_be_missing_in_any_way() -> None:
    found = Registry.of(
        [1.0, np.float32(2.0)],
        target=[1],
        popularity=[None, 3],
        similarity=np.array([math.nan, 0.5]),
        relation=[None, "sibling"],
        groups={"field": [math.nan, "x"], "year": [1852.0, None]},
        aliases=[["Ada"], []],
    )
    ada, mary = found.entities
    assert (ada.id, ada.relation, ada.popularity, ada.groups) == ("1", "target", None, {"field": "", "year": "1852"})
    assert (mary.aliases, mary.relation, mary.similarity) == ((), "sibling", 0.5)
    assert mary.groups == {"field": "x", "year": ""}


def test_predictions_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="after has shape \\(1,\\), truth \\(2,\\)"):
        Ledger.of_predictions([1, 2], [1, 2], [1])


# Systems and arms


def test_arms_are_asked_by_common_random_numbers_and_the_one_again_by_others() -> None:
    seen: list[tuple[str, int]] = []

    class Noting(Answering):
        def observe(self, query: Query, seed: int) -> Observation:
            seen.append((query.id, seed))
            return super().observe(query, seed)

    answers = ask(Noting(), Noting(("mary",)), QUERIES, seeds=(4, 7), placebos=[Noting()])
    assert list(answers) == [BEFORE, AFTER, "placebo 1", AGAIN]
    each = [(q.id, s) for q in QUERIES for s in (4, 7)]
    assert seen == each * 3 + [(q.id, s) for q in QUERIES for s in (8, 9)]
    assert set(answers[AGAIN]) == set(answers[BEFORE])  # paired by the same seeds
    ledger = Ledger.of_answers(answers, QUERIES, Registry(ENTITIES))
    panel = aligned(ledger, Registry(ENTITIES), (BEFORE, AFTER))
    assert panel.by_entity(panel.hit[AFTER]).tolist() == [6, 0, 0]
    assert panel.unresolved[AFTER].tolist() == [1.0] * 6
    with pytest.raises(InputError, match="all different"):
        ask(Noting(), Noting(), QUERIES, seeds=(1,), again=(1,))


def test_a_refusal_is_no_omission() -> None:
    answers = {BEFORE: Answering(), AFTER: Answering(status="refused")}
    told = {arm: {(q.id, 0): system.observe(q, 0) for q in QUERIES} for arm, system in answers.items()}
    panel = aligned(Ledger.of_answers(told, QUERIES, Registry(ENTITIES)), Registry(ENTITIES), (BEFORE, AFTER))
    assert panel.fine(BEFORE).all() and not panel.fine(AFTER).any()


def test_answers_with_someone_unknown_or_without_ranks_are_refused() -> None:
    stranger = {BEFORE: {("q0", 0): Observation((Mention("byron", 0),))}}
    with pytest.raises(InputError, match="byron is not in the registry"):
        Ledger.of_answers(stranger, QUERIES, Registry(ENTITIES))
    with pytest.raises(InputError, match="some mentions have no rank"):
        mixed = {BEFORE: {("q0", 0): Observation((Mention("ada", 0), Mention("mary")))}}
        Ledger.of_answers(mixed, QUERIES, Registry(ENTITIES))
    with pytest.raises(InputError, match="none of the queries"):
        Ledger.of_answers({BEFORE: {("q9", 0): Observation()}}, QUERIES, Registry(ENTITIES))
    with pytest.raises(InputError, match="merit of ada is 0"):
        Query("q", merit={"ada": 0.0})


def test_names_in_an_answer_are_mentions_in_order_once_each_or_unresolved() -> None:
    found = Observation.of(["Mary", "Byron", "Ada Lovelace", "ADA"], Registry(ENTITIES))
    assert [(m.entity, m.rank) for m in found.mentions] == [("mary", 0), ("ada", 1)]
    assert found.unresolved == ("Byron",)


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (lambda t: t[~((t.arm == AFTER) & (t["query"] == "q00001"))], "1 answers are in one of them"),
        (lambda t: t[~((t.arm == AFTER) & (t["query"] == "q00001") & (t.entity == "e00000"))], "1 rows of relevant"),
        (lambda t: t.assign(merit=t.merit.where(t.arm == BEFORE, 2.0)), "disagree on merit"),
        (lambda t: t[t.arm == BEFORE], "no arm 'after'"),
    ],
)
def test_unbalanced_arms_are_refused(drop: Any, said: str) -> None:
    ledger = simulated(np.random.default_rng(0), entities=3, queries=4)
    ids = {"entity": ledger.entities, "query": ledger.queries, "arm": ledger.arms}
    table = pd.DataFrame({n: np.array(ids[n])[v] if n in ids else v for n, v in ledger.rows.items()})
    changed_ledger = Ledger.of_table(drop(table))
    with pytest.raises(InputError, match=said):
        aligned(changed_ledger, Registry.of(ledger.entities), (BEFORE, AFTER))
