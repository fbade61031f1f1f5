"""A model scrubbed and read fold by fold, so that no hidden state is scored that its eraser was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._progress import progress
from efface.audit.finding import Finding
from efface.audit.states.control import control_labels
from efface.audit.states.measures import Setting, SiteScores
from efface.audit.states.reading import read_column
from efface.audit.vectors.folds import CONDITIONS, Rows, View, check_classes, halves, make_folds
from efface.audit.vectors.labels import Labels
from efface.core.arrays import read_array
from efface.core.labels import settled


class States(Protocol):
    """Hidden states of the same tokens at several sites: `x` by site, and of each row its label and place."""

    @property
    def x(self) -> dict[str, Tensor]:
        """Address of a site -> `(n, d)`."""
        ...

    @property
    def labels(self) -> Tensor:
        """`(n, ...)`."""
        ...

    @property
    def sequence(self) -> Tensor:
        """`(n,)` number of the sequence of each row."""
        ...

    @property
    def position(self) -> Tensor:
        """`(n,)` its place in there."""
        ...


@runtime_checkable
class ShowsStates(Protocol):
    """An erasure of a model that can show hidden states at its own sites, with it on or not, as a `Scrubber` can."""

    def states(self, model: Any, data: Any, concept: Any, /, *, on: bool, max_rows: int, seed: int) -> States:
        """The same rows whether it is on or not."""
        ...


FitStates = Callable[[Any, Any, Any], ShowsStates]
"""Model, data and labels -> an erasure of it."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
        model: The model.
        data: A mapping of arrays `(n, ...)`, or token ids `(n, length)`.
        concept: Labels `(n,)` or `(n, length)`, or what else a fit takes.
        fit: Called in each fold with either half of the training sequences.
        groups: What must not be split, `(n,)`; each sequence by itself if None.
        control: What each token is, `(n, length)`.
        name: Of the concept.
        classes: Names of the classes.
        folds: How many.
        probes: Names of probes.
        max_rows: Tokens at most.
        seed: Of everything.
        level: Of intervals.
    """

    model: Any
    data: Any
    concept: Any
    fit: FitStates
    groups: Any
    control: Any
    name: str
    classes: tuple[str, ...] | None
    folds: int
    probes: Sequence[str]
    max_rows: int
    seed: int
    level: float


def measure_folded(asked: Asked) -> tuple[list[Finding], list[str], Setting, int]:
    """Findings of every site, the sites, what was the same for all of them, and the columns of the widest.

    Raises:
        InputError: If data cannot be split, or what `fit` gives shows no hidden states.
    """
    n = sequences(asked.data)
    units = read_column(asked.groups, "groups", n)
    # Without groups each sequence is one, as its tokens depend on each other.
    units = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
    splits = make_folds(n, asked.folds, groups=units, seed=asked.seed)
    grouped, strata = None if asked.groups is None else units, _of_sequences(asked.concept, n)
    plain: States | None = None
    scores: dict[str, SiteScores] = {}
    setting = None
    with progress("scrubbing and probing", len(splits), unit="folds") as bar:
        for train, test in splits:
            crossed: list[tuple[Rows, States]] = []
            for learnt, probed in halves(train, groups=grouped, strata=strata, seed=asked.seed):
                erasure = _fitted(asked, learnt)
                if plain is None or setting is None:
                    plain = _states(asked, erasure, on=False)
                    setting = _setting(asked, plain, units)
                    scores = {site: SiteScores(site, setting, CONDITIONS) for site in plain.x}
                check_classes(setting.labels, _of(plain, learnt), "half of a training fold")
                crossed.append((_of(plain, probed), _states(asked, erasure, on=True)))
                _check_same(plain, crossed[-1][1])
            assert plain is not None
            scored = _of(plain, test)
            for site, score in scores.items():
                before = plain.x[site].double().numpy()
                score.add(*(View(rows, scored, before, after.x[site].double().numpy()) for rows, after in crossed))
            bar.update(1)
    assert setting is not None and plain is not None
    width = max(x.shape[1] for x in plain.x.values())
    return [f for score in scores.values() for f in score.findings()], list(scores), setting, width


def _fitted(asked: Asked, train: NDArray[np.int64]) -> ShowsStates:
    with settled():  # The audit judges the labels once, by all of them.
        erasure = asked.fit(asked.model, part(asked.data, train), part(asked.concept, train))
    if not isinstance(erasure, ShowsStates):
        raise InputError(
            f"fit gave a {type(erasure).__name__}, which shows no hidden states: return a scrubber, e.g. "
            "fit=lambda model, data, labels: efface.scrub(model, data, labels, sites='norms')"
        )
    return erasure


def _states(asked: Asked, erasure: ShowsStates, *, on: bool) -> States:
    more = {"max_rows": asked.max_rows, "seed": asked.seed}
    return erasure.states(asked.model, asked.data, asked.concept, on=on, **more)


def _of(states: States, sequences: Rows) -> Rows:
    """Rows of some sequences."""
    return np.flatnonzero(np.isin(states.sequence.numpy(), sequences))


def _of_sequences(concept: Any, n: int) -> NDArray[Any] | None:
    """Labels of whole sequences `(n,)`, as far as they are classes; None of any other."""
    if not _is_column(concept) or np.shape(concept) != (n,):
        return None
    found = concept.detach().cpu().numpy() if isinstance(concept, Tensor) else np.asarray(concept)
    # Objects of several types have no order.
    found = found.astype(str) if found.dtype.kind == "O" else found
    return found if found.dtype.kind in "biuU" else None


def _setting(asked: Asked, plain: States, units: NDArray[np.int64]) -> Setting:
    labels = Labels.of(plain.labels, asked.name, classes=asked.classes)
    if not labels.is_categorical:
        raise InputError(f"{asked.name} is a quantity, and sites are audited for classes: write integers as labels")
    place = plain.sequence.numpy()
    drawn = None
    if asked.control is not None:
        items = np.asarray(read_array(asked.control, "control").values)
        drawn = control_labels(items[place, plain.position.numpy()] if items.ndim > 1 else items[place], labels)
    return replace(Setting(labels, drawn, units[place], (), asked.seed, asked.level), probes=tuple(asked.probes))


def _check_same(before: States, after: States) -> None:
    same = before.x.keys() == after.x.keys() and torch.equal(before.sequence, after.sequence)
    if not same or not torch.equal(before.position, after.position):
        raise InputError("fit gave erasures of other sites or tokens from fold to fold: name the same sites in each")


def sequences(data: Any) -> int:
    """How many sequences there are.

    Raises:
        InputError: If data are none that can be split by sequence.
    """
    columns = list(data.values()) if isinstance(data, Mapping) else [data]
    lengths = {len(column) for column in columns if _is_column(column)}
    if len(lengths) != 1:
        raise InputError(
            f"data of type {type(data).__name__} cannot be split into folds: give a mapping of arrays (n, ...), as a "
            "tokenizer does with padding=True, or token ids (n, length)"
        )
    return lengths.pop()


def part(values: Any, rows: NDArray[np.int64]) -> Any:
    """Some sequences of data or labels; names of columns, functions and constants stay what they are."""
    if isinstance(values, Mapping):
        return {name: part(column, rows) for name, column in values.items()}
    if isinstance(values, Tensor):
        return values[torch.from_numpy(rows)]
    if isinstance(values, list | tuple):
        return [values[i] for i in rows]
    return np.asarray(values)[rows] if _is_column(values) else values


def _is_column(value: Any) -> bool:
    return isinstance(value, list | tuple) or (hasattr(value, "__array__") and np.ndim(value) > 0)
