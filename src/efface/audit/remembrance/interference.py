"""The interference matrix: what was erased by what was asked for, picture by picture.

A picture is drawn of a prompt that asks for somebody or something, from the same noise before and after each erasure,
and a judge says whether it shows what was asked for: yes, no, or that it cannot say. All else is counted from that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from efface._errors import FormatError, InputError
from efface._io import load_folder, reading, save_folder
from efface._text import brief
from efface._validate import did_you_mean
from efface.audit.remembrance.effects import agresti_min
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO
from efface.core.codec import fields_of
from efface.core.doors import check_call, check_fields
from efface.core.hashing import feed
from efface.stats.intervals import wilson_interval

Floats = NDArray[np.float64]
SEEN, NOT_SEEN, CANNOT_SAY = 1, 0, -1
NOTHING = -1
"""In `shown`: nothing that has a name."""
_TYPE, _Z = "Interference", 1.959963984540054
_OK, _ERROR = 0, 2


@dataclass(frozen=True, eq=False)
class Cells:
    """A number for each pair of what was erased and what was asked for, `(erased, asked)`; NaN where there is none.

    Attributes:
        value: The number.
        low: Lower end of its 95% interval, which is for this pair alone.
        high: Upper end.
        n: Pictures behind it.
    """

    value: Floats
    low: Floats
    high: Floats
    n: Floats


@dataclass(frozen=True, eq=False)
class Interference:
    """Answers of a judge about pictures of everything that was asked for, before and after each erasure.

    Attributes:
        erased: Names of the erasures.
        placebos: Names of edits that should not matter.
        asked: Who or what was asked for, in order.
        place: Which of `asked` each picture is of, `(n,)`.
        query: Which prompt of it, `(n,)`.
        turn: Which of the seeds of that prompt, `(n,)`.
        prompts: The prompts, `n`.
        seeds: Seed of each picture's noise, `(n,)`; "before again" has others.
        seen: 1, 0, or -1 where the judge cannot say, `(arms, n)`.
        names: What pictures were seen to show, where that was asked.
        shown: Place in `names` of what each picture shows, -1 for nothing that has a name, `(arms, n)`.
        judge: Who decided.
        provenance: Of what, by which versions and call: plain data; it does not count in `digest`.
    """

    erased: tuple[str, ...]
    placebos: tuple[str, ...]
    asked: tuple[str, ...]
    place: NDArray[np.int64]
    query: NDArray[np.int64]
    turn: NDArray[np.int64]
    prompts: tuple[str, ...]
    seeds: NDArray[np.int64]
    seen: NDArray[np.int8]
    names: tuple[str, ...] = ()
    shown: NDArray[np.int64] | None = None
    judge: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    __repr__ = brief

    def __post_init__(self) -> None:
        check_fields(self)
        n, arms = len(self.prompts), len(self.arms)
        shapes = {name: (n,) for name in _EACH} | {"seen": (arms, n)}
        shapes |= {} if self.shown is None else {"shown": (arms, n)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if not n or not self.erased or len({*self.arms}) < arms or len({*self.asked}) < len(self.asked):
            raise InputError("there are no pictures or no erasure, or a name is there twice: give each its own")
        if odd := [name for name in shapes if getattr(self, name).dtype.kind != "i"]:
            raise InputError(f"{odd[0]} is of {getattr(self, odd[0]).dtype}: give whole numbers")
        ends = {"place": (0, len(self.asked))}
        ends |= {} if self.shown is None else {"shown": (NOTHING, len(self.names))}
        for name, (first, end) in ends.items():
            if (values := getattr(self, name)).min() < first or values.max() >= end:
                raise InputError(f"{name} has places outside of its list of {end} names")
        if not np.isin(self.seen, (SEEN, NOT_SEEN, CANNOT_SAY)).all():
            raise InputError("seen has values other than 1, 0 and -1 (the judge cannot say)")

    @property
    def arms(self) -> tuple[str, ...]:
        """Rows of `seen`: before, before again, erasures, placebos."""
        return (BEFORE, AGAIN, *self.erased, *self.placebos)

    def answers(self, arm: str) -> Floats:
        """1, 0, or NaN where the judge cannot say, of each picture of an arm, `(n,)`.

        Raises:
            InputError: If there is no such arm.
        """
        check_call(Interference.answers, locals())
        if arm not in self.arms:
            known = ", ".join(self.arms[:8])
            raise InputError(f"there is no arm {arm!r}{did_you_mean(arm, self.arms)}: arms are {known}")
        values = self.seen[self.arms.index(arm)]
        return np.where(values == CANNOT_SAY, np.nan, values.astype(np.float64))

    def share(self, arm: str) -> Floats:
        """Share of pictures in which each is seen, of those of which the judge can say, `(asked,)`."""
        hits = self.answers(arm)
        said = self._sums(~np.isnan(hits))
        return np.divide(self._sums(np.nan_to_num(hits)), said, out=np.full(len(said), np.nan), where=said > 0)

    def counts(self, arm: str) -> tuple[Floats, Floats]:
        """Pictures seen before, and of these still seen in an arm, `(asked,)` each; both answers must be known."""
        then, now = self.answers(BEFORE), self.answers(arm)
        both = np.isfinite(then) & np.isfinite(now) & (then == 1)
        return self._sums(both), self._sums(both & (now == 1))

    def unsaid(self, arm: str) -> Floats:
        """Share of each's pictures, seen before, of which the judge cannot say in an arm, `(asked,)`."""
        there = self.answers(BEFORE) == 1
        lost, of = self._sums(there & np.isnan(self.answers(arm))), self._sums(there)
        return np.divide(lost, of, out=np.full(len(of), np.nan), where=of > 0)

    @property
    def kept(self) -> Cells:
        """Of the pictures that showed what was asked for before, the share that does after: Wilson's intervals."""
        parts = [self.counts(name) for name in self.erased]
        n, k = (np.stack(each) for each in zip(*parts, strict=True))
        value, low, high = (np.full(n.shape, np.nan) for _ in range(3))
        for at in zip(*np.nonzero(n), strict=True):
            found = wilson_interval(float(k[at]), int(n[at]))
            value[at], low[at], high[at] = found.value, found.low, found.high
        return Cells(value, low, high, n)

    @property
    def changed(self) -> Cells:
        """Change of the share that shows what was asked for, picture by picture: intervals of Agresti and Min."""
        then, parts = self.answers(BEFORE), []
        for name in self.erased:
            gap = self.answers(name) - then
            said = np.isfinite(gap)
            parts.append([self._sums(each) for each in (said, np.where(said, gap, 0), np.where(said, gap**2, 0))])
        n, sums, squares = (np.stack(each) for each in zip(*parts, strict=True))
        centre, error = agresti_min(n, sums, squares)
        value = np.divide(sums, n, out=np.full(n.shape, np.nan), where=n > 0)
        low, high = np.maximum(-1, centre - _Z * error), np.minimum(1, centre + _Z * error)
        return Cells(value, np.minimum(low, value), np.maximum(high, value), n)

    def ledger(self, erased: str, registry: Registry | None = None) -> Ledger:
        """The answers before and after one erasure, with placebos, as a ledger for `efface.audit.remembered`.

        Each prompt is a query with merit 1 for whom it asks for. A picture of which the judge cannot say is a failed
        answer, and no omission.

        Args:
            erased: Which erasure.
            registry: Who is known; what pictures show and it does not know counts as unresolved. None knows who was
                asked for.
        """
        check_call(Interference.ledger, locals())
        if erased not in self.erased:
            raise InputError(f"nothing erased is called {erased!r}{did_you_mean(erased, self.erased)}: write one of "
                             f"{', '.join(self.erased[:8])}")  # fmt: skip
        known = dict.fromkeys(self.asked)
        if registry is not None:
            registry.places(self.asked)
            known = dict.fromkeys([*self.asked, *(name for name in self.names if registry.resolve(name) == name)])
        arms = {BEFORE: BEFORE, AGAIN: AGAIN, erased: AFTER}
        arms |= {name: f"{PLACEBO} {i + 1}" for i, name in enumerate(self.placebos)}
        queries, query = np.unique(np.stack([self.place, self.query]), axis=1, return_inverse=True)
        query = query.reshape(-1)
        parts = [self._rows(arm, i, query, list(known)) for i, arm in enumerate(arms)]
        rows, told = ({k: np.concatenate([p[j][k] for p in parts]) for k in parts[0][j]} for j in range(2))
        titles = [f"{self.asked[e]} {k}" for e, k in queries.T.tolist()]
        return Ledger.of_codes(list(known), titles, list(arms.values()), rows, told)

    def _rows(
        self, arm: str, number: int, query: NDArray[np.int64], known: list[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Rows of an arm, of whom was asked for and of who else is shown; and its answers."""
        seen = self.seen[self.arms.index(arm)]
        status = np.where(seen == CANNOT_SAY, _ERROR, _OK)
        other, strange = self._others(arm, known)
        more = np.flatnonzero((other >= 0) & (other != self.place) & (status == _OK))
        both = np.concatenate([np.arange(len(seen)), more])
        asked = np.arange(len(both)) < len(seen)
        rows: dict[str, NDArray[Any]] = {
            "entity": np.where(asked, self.place[both], other[both]),
            "query": query[both],
            "arm": np.full(len(both), number),
            "seed": self.turn[both],
            "hit": np.where(asked, seen[both] == SEEN, True),
            "status": status[both],
            "merit": asked.astype(np.float64),
        }
        told = {"query": query, "arm": np.full(len(seen), number), "seed": self.turn, "status": status}
        return rows, {**told, "unresolved": strange.astype(np.float64)}

    def _others(self, arm: str, known: list[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Who is shown, as a place among who is known or -1, and whether that is a name that nobody knows."""
        if self.shown is None:
            return np.full(len(self.place), NOTHING), np.zeros(len(self.place), dtype=bool)
        of = {name: i for i, name in enumerate(known)}
        places = np.array([*(of.get(name, NOTHING) for name in self.names), NOTHING])
        shown = self.shown[self.arms.index(arm)]
        found = places[shown]
        return found, (shown != NOTHING) & (found == NOTHING)

    def _sums(self, values: NDArray[Any]) -> Floats:
        return np.bincount(self.place, values, len(self.asked)).astype(np.float64)

    # ------------------------------------------------------------------------------------------------ files

    @property
    def digest(self) -> str:
        """SHA-256 of all that it is, but for its provenance."""
        total = hashlib.sha256(json.dumps([getattr(self, name) for name in (*_LISTS, "judge")]).encode())
        for name, value in self._tensors().items():
            feed(total, value.numpy(), name)
        return total.hexdigest()

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in (*_EACH, "seen")}
        return found if self.shown is None else {**found, "shown": torch.from_numpy(np.ascontiguousarray(self.shown))}

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder with `config.json` and `model.safetensors`.

        Raises:
            InputError: If the folder has something in it that is not to be replaced.
        """
        check_call(Interference.save, locals())
        plain = {name: list(getattr(self, name)) for name in _LISTS}
        more = {"judge": self.judge, "provenance": dict(self.provenance), "sha256": self.digest}
        save_folder(path, {"type": _TYPE, **plain, **more}, self._tensors(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such folder.
            FormatError: If it holds something else, or is damaged.
        """
        check_call(Interference.load, locals())
        config, tensors = load_folder(path, expect=_TYPE)
        with reading(path):
            lists = dict(zip(_LISTS, fields_of(config, **dict.fromkeys(_LISTS, list[str])), strict=True))
            judge, told, sha = fields_of(config, judge=str, provenance=dict[str, Any], sha256=str)
            arrays: dict[str, Any] = {name: tensors[name].numpy() for name in (*_EACH, "seen")}
            arrays["shown"] = tensors["shown"].numpy() if "shown" in tensors else None
            try:
                found = cls(**{k: tuple(v) for k, v in lists.items()}, **arrays, judge=judge, provenance=told)
            except InputError as error:
                raise FormatError(str(error)) from error
            if found.digest != sha:
                raise FormatError("its content is not what was saved (another SHA-256)")
        return found

    def only(self, erased: Sequence[str]) -> Self:
        """The same of some of the erasures.

        Raises:
            InputError: If there is none of that name.
        """
        check_call(Interference.only, locals())
        for name in erased:
            self.answers(name)
        kept = [self.arms.index(name) for name in (BEFORE, AGAIN, *erased, *self.placebos)]
        arrays = {name: getattr(self, name) for name in _EACH}
        lists = {name: getattr(self, name) for name in _LISTS} | {"erased": tuple(erased)}
        shown = None if self.shown is None else self.shown[kept]
        return type(self)(**lists, **arrays, seen=self.seen[kept], shown=shown, judge=self.judge,
                          provenance=self.provenance)  # fmt: skip


_EACH = ("place", "query", "turn", "seeds")
_LISTS = ("erased", "placebos", "asked", "prompts", "names")
