"""What was answered, as columns: a row for each entity that is relevant to a query or was mentioned, in each arm.

Rows are kept in one order (arm, query, seed, entity), and ids too, so that the same content has one hash.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._text import brief, shown
from efface._validate import did_you_mean
from efface.audit.remembrance.columns import (
    ANSWER_TYPES,
    IDS,
    MERIT_TWICE,
    NEEDED,
    TYPES,
    Columns,
    answers_of,
    in_order,
    read_answer_columns,
    read_columns,
    status_codes,
)
from efface.audit.remembrance.exposure import RBP, Flat, UserModel
from efface.audit.remembrance.registry import Registry, names_of
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO, STATUSES, Answers, Query
from efface.core.arrays import refuse_class
from efface.core.doors import check_call
from efface.core.hashing import feed
from efface.core.labels import read_groups


@dataclass(frozen=True, eq=False)
class Ledger:
    """Who was mentioned where.

    Attributes:
        entities: Ids, in order; `rows["entity"]` are places in it.
        queries: Ids, in order.
        arms: Names, in order.
        rows: `entity query arm seed hit score exposure status merit`, each `(n,)`; `status` is a place in
            `("ok", "refused", "error")`, and `merit` 0 where the entity was mentioned without being relevant.
        answers: `query arm seed status unresolved`, one for each answer; `unresolved` names in it, NaN if unknown.
        attention: How ranks became exposure.
    """

    entities: tuple[str, ...]
    queries: tuple[str, ...]
    arms: tuple[str, ...]
    rows: Columns
    answers: Columns
    attention: str = Flat().name
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.rows["entity"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        total = hashlib.sha256(json.dumps([self.entities, self.queries, self.arms, self.attention]).encode())
        for part in (self.rows, self.answers):
            for name in sorted(part):
                feed(total, part[name], name)
        return total.hexdigest()

    @classmethod
    def of_codes(
        cls,
        entities: Sequence[str],
        queries: Sequence[str],
        arms: Sequence[str],
        rows: Mapping[str, ArrayLike],
        answers: Mapping[str, ArrayLike] | None = None,
        *,
        attention: str = Flat().name,
    ) -> Ledger:
        """A ledger from columns whose ids are places in lists; see the attributes.

        Args:
            entities: Ids.
            queries: Ids.
            arms: Names.
            rows: Columns; `seed` (0), `score` and `exposure` (what `hit` is), `status` (ok) may be missing.
            answers: Columns; None takes one answer for each query, seed and arm of the rows.
            attention: What to call the model of users behind `exposure`.

        Raises:
            InputError: If a column is missing or of another length, a number is not finite, or a row is there twice.
        """
        check_call(Ledger.of_codes, locals())
        lists: dict[str, Sequence[str]] = {"entity": entities, "query": queries, "arm": arms}
        found = read_columns(rows, lists)
        told = answers_of(found) if answers is None else read_answer_columns(answers)
        kept: dict[str, tuple[str, ...]] = {}
        for name, ids in lists.items():
            if len(set(ids)) < len(ids):
                raise InputError(f"{name} has an id twice: give each an id of its own")
            order = np.argsort(np.array(ids, dtype=object), kind="stable")
            place = np.empty(len(ids), dtype=np.int64)
            place[order] = np.arange(len(ids))
            kept[name] = tuple(str(ids[i]) for i in order)
            for part in (found, told):
                if name in part:
                    part[name] = place[part[name]].astype(TYPES[name])
        found = in_order(found, ("arm", "query", "seed", "entity"), "the rows")
        told = in_order(told, ("arm", "query", "seed"), "the answers")
        return cls(*(kept[name] for name in IDS), rows=found, answers=told, attention=attention)

    @classmethod
    def of_table(cls, table: Any, *, merit: float | None = None, attention: UserModel | None = None) -> Ledger:
        """A ledger from a table: pandas, polars, pyarrow, or a mapping of columns.

        Args:
            table: Columns `entity query arm hit`, and where there are any `seed score exposure status merit rank
                unresolved`. Missing seeds are 0, a missing status `"ok"`, missing exposure what `attention` makes of
                `rank`, or of each hit the same.
            merit: Merit of every row, where the table has no such column: it has to be declared.
            attention: Model of users for the column `rank`.

        Raises:
            InputError: If a column is missing or has gaps, or `merit` or `attention` is given beside a column that says
                it already.

        >>> table = {"entity": ["a", "b"] * 2, "query": ["q"] * 4, "arm": ["before"] * 2 + ["after"] * 2}
        >>> Ledger.of_table({**table, "hit": [1, 1, 1, 0]}, merit=1.0)
        Ledger(entities=('a', 'b'), queries=('q',), arms=('after', 'before'), rows=<9 of them>, answers=<5 of them>, \
attention='each mention alike')
        """
        given = {str(name): table[name] for name in _names_of(table)}
        if lacks := [name for name in NEEDED if name not in given]:
            near = did_you_mean(lacks[0], given)
            raise InputError(f"the table has no column {', '.join(lacks)}; it has {', '.join(given) or 'none'}{near}")
        if "merit" not in given and merit is None:
            raise InputError(
                "the table has no column merit, which says who should be remembered: add it (0 where an entity is "
                "mentioned without being relevant), or write merit=1.0 to declare that each row should be"
            )
        if "merit" in given and merit is not None:
            raise InputError(MERIT_TWICE.format(merit, "the table"))
        if attention is not None and "exposure" in given:
            raise InputError("attention makes exposure of ranks, and the table has exposure already: leave it out")
        read = {name: read_groups(given[name], f"column {name}") for name in given if name in {*TYPES, "rank"}}
        lists = {name: np.unique(names_of(read[name]), return_inverse=True) for name in IDS}
        rows = {name: read[name] for name in TYPES if name in read}
        rows |= {name: codes.reshape(-1) for name, (_, codes) in lists.items()}
        rows.setdefault("merit", np.full(len(rows["hit"]), 1.0 if merit is None else merit))
        if "status" in rows:
            rows["status"] = status_codes(rows["status"])
        model = RBP() if attention is None else attention
        if "rank" in read and "exposure" not in rows:
            weight = model.weight(np.maximum(read["rank"], 0))
            rows["exposure"] = np.where(np.asarray(rows["hit"], dtype=bool), weight, 0.0)
        name = model.name if "rank" in read else "as given" if "exposure" in rows else Flat().name
        ids = {key: [str(each) for each in names] for key, (names, _) in lists.items()}
        made = cls.of_codes(ids["entity"], ids["query"], ids["arm"], rows, attention=name)
        return made if "unresolved" not in given else made._with_unresolved(rows, read_groups(given["unresolved"]))

    def _with_unresolved(self, rows: Columns, unresolved: NDArray[Any]) -> Ledger:
        """Names that were not resolved, one number an answer, which each of its rows repeats."""
        seed = rows.get("seed", np.zeros(len(unresolved), dtype=np.int64))
        said = dict(zip(zip(rows["arm"], rows["query"], seed, strict=True), unresolved, strict=True))
        keys = zip(*(self.answers[name] for name in ("arm", "query", "seed")), strict=True)
        values = np.array([said[key] for key in keys], dtype=np.float64)
        return replace(self, answers={**self.answers, "unresolved": values})

    @classmethod
    def of_predictions(
        cls,
        truth: Any,
        before: Any,
        after: Any,
        *,
        again: Any = None,
        placebos: Sequence[Any] = (),
        queries: Any = None,
    ) -> Ledger:
        """A ledger of a classifier's answers: each row is a query, and its true class who should be named.

        Args:
            truth: True class of each row `(n,)`.
            before: What was said before, `(n,)`.
            after: What was said after.
            again: What was said before by another run (or another half of the training data).
            placebos: What was said after erasures that should not matter.
            queries: Id of each row; None numbers them.

        >>> ledger = Ledger.of_predictions([3, 5], before=[3, 5], after=[5, 5])
        >>> ledger.entities, ledger.rows["hit"].tolist()
        (('3', '5'), [False, True, True, True, True])
        """
        said = {BEFORE: before, AFTER: after, **({} if again is None else {AGAIN: again})}
        said |= {f"{PLACEBO} {i + 1}": each for i, each in enumerate(placebos)}
        read = {"truth": read_groups(truth, "truth"), **{arm: read_groups(each, arm) for arm, each in said.items()}}
        true, *others = _named(list(read.values()))
        answers = dict(zip(said, others, strict=True))
        names = (
            [f"{i:0{len(str(len(true)))}d}" for i in range(len(true))] if queries is None else list(map(str, queries))
        )
        for arm, each in {**answers, "queries": np.array(names)}.items():
            if each.shape != true.shape:
                raise InputError(f"{arm} has shape {each.shape}, truth {true.shape}: give one value for each row")
        _warn_of_strangers(true, answers)
        entities, codes = np.unique(np.concatenate([true, *answers.values()]), return_inverse=True)
        right, *columns = codes.reshape(1 + len(answers), -1)
        parts = [_predicted(right, column, place) for place, column in enumerate(columns)]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls.of_codes([str(e) for e in entities], names, list(answers), rows)

    @classmethod
    def of_answers(
        cls,
        answers: Mapping[str, Answers],
        queries: Sequence[Query],
        registry: Registry,
        attention: UserModel | None = None,
    ) -> Ledger:
        """A ledger of answers, as `ask` gives them.

        Args:
            answers: Arm -> (query id, seed) -> observation.
            queries: What was asked.
            registry: Who may be in an answer.
            attention: Model of users; None takes rank-biased attention, or each mention alike where no mention has a
                rank.

        Raises:
            InputError: If an answer names an entity that the registry does not know, or some mentions have a rank and
                others none.
        """
        registry.places(sorted({entity for query in queries for entity in query.merit}))
        ranked = {m.rank is not None for arm in answers.values() for o in arm.values() for m in o.mentions}
        model = attention if attention is not None else Flat() if ranked <= {False} else RBP()
        if not isinstance(model, Flat) and False in ranked:
            raise InputError("some mentions have no rank: give each one, or write attention=Flat()")
        asked = {query.id: (place, query) for place, query in enumerate(queries)}
        rows: list[tuple[Any, ...]] = []
        told: list[tuple[Any, ...]] = []
        for arm, (_, found) in enumerate(answers.items()):
            for (name, seed), answer in found.items():
                if name not in asked:
                    raise InputError(f"there is an answer to {name!r}, which is none of the queries: add it to them")
                place, query = asked[name]
                status = STATUSES.index(answer.status)
                told.append((place, arm, seed, status, len(answer.unresolved)))
                for entity, (hit, score, exposure) in _seen(query, answer.mentions, model).items():
                    merit = query.merit.get(entity, 0.0)
                    rows.append((entity, place, arm, seed, hit, score, exposure, status, merit))
        named = sorted({row[0] for row in rows})
        places = dict(zip(named, range(len(named)), strict=True))
        registry.places(named)
        columns = dict(zip(TYPES, zip(*rows, strict=True), strict=True)) if rows else {}
        if not columns:
            raise InputError("there are no rows: no query has merit, and no answer names anybody")
        columns["entity"] = tuple(places[name] for name in columns["entity"])
        kept = dict(zip(ANSWER_TYPES, zip(*told, strict=True), strict=True))
        return cls.of_codes(named, list(asked), list(answers), columns, kept, attention=model.name)


def _seen(query: Query, mentions: Sequence[Any], model: UserModel) -> dict[str, tuple[bool, float, float]]:
    """Relevant and mentioned entities: hit, score, exposure; of two mentions of one the first counts."""
    found: dict[str, tuple[bool, float, float]] = dict.fromkeys(query.merit, (False, 0.0, 0.0))
    for mention in sorted(mentions, key=lambda each: -1 if each.rank is None else each.rank, reverse=True):
        exposure = float(model.weight(mention.rank or 0))
        found[mention.entity] = (True, mention.score, exposure)
    return found


def _named(columns: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Columns of one set of classes as names; among numbers True is 1, as everywhere."""
    numbers = any(each.dtype.kind in "iuf" for each in columns)
    return [names_of(each.astype(np.int64) if numbers and each.dtype.kind == "b" else each) for each in columns]


def _warn_of_strangers(true: NDArray[Any], answers: Mapping[str, NDArray[Any]]) -> None:
    """Say of an arm that never names any true class: more likely other names for them than a loss of all."""
    for arm, each in answers.items():
        if each.size and not np.isin(each, true).any():
            warnings.warn(
                f"no answer of {arm!r} is a true class (it has {shown(str(each[0]))}, truth {shown(str(true[0]))}): "
                "each is counted as an omission; if these are other names for the same classes, give both the same",
                stacklevel=3,
            )


def _predicted(right: NDArray[np.int64], said: NDArray[np.int64], arm: int) -> dict[str, NDArray[Any]]:
    """Rows of one arm: the true class of each query, and the one that was said in its place."""
    wrong = np.flatnonzero(said != right)
    entity = np.concatenate([right, said[wrong]])
    relevant = np.arange(len(entity)) < len(right)
    return {
        "entity": entity,
        "query": np.concatenate([np.arange(len(right)), wrong]),
        "arm": np.full(len(entity), arm),
        "hit": np.where(relevant, np.concatenate([said == right, said[wrong] >= 0]), True),
        "merit": relevant.astype(np.float64),
    }


def _names_of(table: Any) -> Sequence[Any]:
    refuse_class(table, "the table")
    if isinstance(table, Mapping):
        return list(table)
    if isinstance(names := getattr(table, "column_names", None), list):
        return names
    if hasattr(table, "columns") and hasattr(table, "dtypes"):
        return list(table.columns)
    raise InputError(f"the table is a {type(table).__name__}: give a data frame or a mapping of columns")
