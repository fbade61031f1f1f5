"""SPEED: edits of values that act only where what is retained has next to nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.method import Method, register
from efface.core.weights import Change
from efface.diffusion.weights.closed_form import (
    InputMap,
    NormalEquations,
    all_rows,
    equations,
    move,
    pair_rows,
    warn_of_nothing,
)
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.null_spaces import Retained, energy, fixed_rows, guarded
from efface.diffusion.weights.projections import VALUES_HELP, Layers, Stream, deltas_of, streams_of, with_layers
from efface.diffusion.weights.rows import (
    READS,
    SPAN_HELP,
    Phrase,
    Span,
    check_words,
    pairs_of,
    preserved,
    reads_of,
    texts_of,
)
from efface.pipelines.view import PipelineView

NAME = "speed"
_FILTER_RIDGE = 1.0
_MUCH = 0.01
"""Of a row's squared length: a tenth of the row."""
_LITTLE = 0.5
"""Of the length by which the unguarded edit moves the concepts' rows."""
_TRIED = 3
"""Matrices that ways are compared on, spread over all: in one pipeline they hardly differ in it."""

_AUTO = "auto: by reach"


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(Config):
    """Options of SPEED."""

    key_span: Span | Literal["auto"] = option("auto", f"{SPAN_HELP}; {_AUTO}")
    layers: Layers = option("auto", VALUES_HELP)
    ridge: float = option(
        1.0, "how much the weights are held, in units of the mean square of an entry of the concepts' rows", above=0
    )
    null_share: float = option(
        0.001, "share of the retained rows' energy in the space where weights change", least=0, most=1
    )
    null_of: Literal["each", "all", "auto"] = option(
        "auto", f"of whose energy: at most of each row's own, or of all together; {_AUTO}"
    )
    least_free: float | Literal["auto"] = option(
        "auto", f"that space has at least this share of all directions; {_AUTO}", least=0, most=1
    )
    null_below: float | None = option(None, "instead, that space is of eigenvalues below this (published: .1)", least=0)
    filtered: bool | Literal["auto", "crowded"] = option(
        "auto", f"only rows that the unguarded edit moves more than the mean; crowded: if all leave too little; {_AUTO}"
    )
    reach: float = option(
        0.75,
        "the auto options are the most careful by which the concepts' rows move so much of what they would if nothing "
        "were held",
        least=0,
        most=1,
    )
    augment: int = option(10, "how many rows are drawn around each that is retained", least=0)
    centres: int | None = option(3, "centres of the empty prompt's rows that stay fixed; none: all of them", least=1)
    fixed_ridge: float = option(0.0, "how much the start row and the centres may move; 0: not at all", least=0)
    in_templates: bool = option(False, "read words in the concept's templates, too, not by themselves")
    seed: int = option(0, "seed of what is drawn, and of the centres", least=0)


@dataclass(frozen=True)
class Way:
    """How what is retained is held: the options of these names.

    Attributes:
        key_span: Which rows.
        null_of: Of whose energy the null space has little.
        filtered: Whether rows are left out; `"crowded"`: of a matrix for which all leave no more than `least_free`.
        least_free: At least this share of all directions is free.
    """

    key_span: Span
    null_of: Literal["each", "all"]
    filtered: bool | Literal["crowded"]
    least_free: float


WAYS = (
    Way("last_to_end", "each", "crowded", 0.25),
    Way("last", "each", False, 0.0),
    Way("last", "all", True, 0.0),
)
"""From the most careful of what is retained to the loosest, which is the released one.

A looser null space for rows behind the words comes to as much by `reached`, and yet erases less than the words' own
rows alone, as these then move least: it is not among them.
"""


def ways_of(config: SpeedConfig) -> list[Way]:
    """The ways that leave what was written as it is, each once.

    >>> len(ways_of(SpeedConfig())), ways_of(SpeedConfig(key_span="last", filtered=False, least_free=0, null_of="all"))
    (3, [Way(key_span='last', null_of='all', filtered=False, least_free=0.0)])
    """
    given = {name: getattr(config, name) for name in asdict(WAYS[0])}
    written = {name: value for name, value in given.items() if value != "auto"}
    found = [replace(way, **written) for way in WAYS]
    if config.null_below is not None:  # then nothing asks whose energy it is
        found = [replace(way, null_of=found[0].null_of, least_free=found[0].least_free) for way in found]
    return list(dict.fromkeys(found))


def fit(
    view: PipelineView, concepts: Sequence[Concept], config: SpeedConfig, *, retain: Sequence[str] | None = None
) -> WeightErasure:
    """Scalable, precise and efficient concept erasure by null spaces (arXiv:2503.07392), of any number of concepts.

    With `A1 = mean k k^T` and `A* = mean t k^T` of keys k and targets t, for each matrix W:

        1. rows x to retain stay if `||E x||` is above its mean, E = W (A* - A1) (u I + A1)^-1;
        2. around each, `x + v v^T e` with normal e and v the last right singular vector of W, those above their mean;
        3. U spans the eigenvectors of the mean of `x x^T` that hold next to nothing of any x; P = U U^T;
        4. C is the start row and centres of the rows of the empty prompt;
        5. `W' = W + W (A* - A1) (X - X C (C^T X C + l I)^-1 C^T X)`, X = P (P A1 P + ridge u I)^-1 P,

    u being the mean square of an entry of k.

    So `W' x = W x` for all x that U is orthogonal to, and with `fixed_ridge=0` for C.

    **How what is retained is held** is chosen where `key_span`, `null_of`, `filtered` and `least_free` are left to
    `"auto"`: of `WAYS`, from the most careful to the released one, the first by which the keys move by at least `reach`
    of what they would with nothing held, in the middle of a few matrices; if there is none, that by which they move
    most. Much that is retained holds the concepts, too. The report says which it was and what was tried.

    Differences from the released code: in the first ways U is by what it holds of each row, not of all together
    (`null_of="all"`), as a word's own rows are few among those behind it and have little of the energy of all; never by
    an absolute threshold on eigenvalues that depends on the text encoder's scale, unless `null_below` is given; where
    all rows leave room, none is filtered out in step 1, as what is out is not held; ridges are in units of u, which is
    1 there, so that a text encoder with smaller rows is edited as much; rows behind a word are keys, too
    (`key_span="last"` is as released); an empty anchor is paired row by row, not with the start row alone; means are
    over all rows, not in chunks of 128, so that the order does not matter; the centres are seeded, and chosen on any
    device.

    Args:
        view: The pipeline.
        concepts: What is erased; what each preserves is retained.
        config: The options.
        retain: Further prompts to retain.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, or what is
            retained leaves nothing that may change.
    """
    more = texts_of(retain, "retain")
    check_words(view, concepts, more=more)
    rows = _Rows(view, concepts, config, more)
    way, chosen = _chosen(rows, config)
    edits = rows.edits(way.key_span)
    made = [(each.stream, *each.changes(way)) for each in edits]
    if all(each.total.changes_nothing for each in edits):
        warn_of_nothing(concepts)
    layers = {path: fact for _, _, facts in made for path, fact in facts.items()}
    report: dict[str, Any] = {"keys": edits[0].total.n, "retained": [len(each.kept) for each in edits]}
    report |= {"way": asdict(way), **chosen, "layers": layers}
    _warn_of_crowds(layers, way, config)
    _warn_of_little(layers)
    deltas = deltas_of(view, [(stream, changes) for stream, changes, _ in made])
    return WeightErasure.made(deltas, method=NAME, concepts=concepts, config=config, report=report)


def _chosen(rows: _Rows, config: SpeedConfig) -> tuple[Way, dict[str, Any]]:
    """The first way by which the concepts' rows move enough, or that by which they move most; why, and what was tried.

    Raises:
        InputError: If each leaves nothing that may change.
    """
    ways, tried, refused = ways_of(config), [], None
    if len(ways) == 1:
        return ways[0], {"why": "all of it was written", "tried": []}
    for way in ways:
        try:
            reached: float | None = rows.reached(way)
        except InputError as error:
            refused, reached = refused or error, None
        tried.append({**asdict(way), "reached": reached})
        if reached is not None and reached >= config.reach:
            why = f"the first by which the concepts' rows move by at least {config.reach:.0%} of what they would"
            return way, {"why": why, "tried": tried}
    if refused is not None and all(each["reached"] is None for each in tried):
        raise refused
    best = max(range(len(ways)), key=lambda i: tried[i]["reached"] or 0.0)
    why = f"the concepts' rows move most by it; by none do they move by {config.reach:.0%} of what they would"
    return ways[best], {"why": why, "tried": tried}


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


class _Rows:
    """What is read of a pipeline for a fit: by each key span once, when it is asked for."""

    def __init__(
        self, view: PipelineView, concepts: Sequence[Concept], config: SpeedConfig, more: Sequence[str]
    ) -> None:
        self.view, self.config = view, config
        self.streams = streams_of(view, with_layers(config.layers, "values", view))
        self.pairs = pairs_of(concepts, config.in_templates)
        neutral = Phrase(concepts[0].neutral, concepts[0].neutral)
        self.phrases = [p for p in preserved(concepts, config.in_templates) if p.prompt != neutral.prompt]
        self.phrases += [Phrase(prompt, prompt) for prompt in more]
        # In the text encoder's own precision, and off the device: they are gone through again for each matrix.
        self.store = view.example.sequence.dtype
        self.neutral = all_rows(view, self.streams, [neutral], "all", self.store, "cpu")
        self._edits: dict[Span, list[Edits]] = {}

    def edits(self, span: Span) -> list[Edits]:
        """The edits of each stream."""
        if span not in self._edits:
            sums = equations(self.streams, self.view)
            move(sums, pair_rows(self.view, self.streams, self.pairs, span))
            means = [total.scaled(1 / max(total.n, 1)) for total in sums]
            kept = all_rows(self.view, self.streams, self.phrases, span, self.store, "cpu")
            parts = zip(self.streams, means, kept, self.neutral, strict=True)
            self._edits[span] = [Edits(*each, self.config) for each in parts]
        return self._edits[span]

    def reached(self, way: Way) -> float:
        """How far the concepts' rows move by a way, of how far they would: the middle of a few matrices.

        Raises:
            InputError: If what is retained leaves nothing that may change.
        """
        places = [(edits, path) for edits in self.edits(way.key_span) for path in edits.stream.matrices]
        some = sorted({round(k * (len(places) - 1) / (_TRIED - 1)) for k in range(_TRIED)})
        return _middle([edits.tried(path, way) for edits, path in (places[i] for i in some)])


class Edits:
    """The edit of each matrix of a stream, by any way with the key span of these rows.

    Args:
        stream: The matrices.
        total: Means over keys, A1 and A* - A1.
        kept: Rows that could be retained, `(n, width)`.
        neutral: Rows of the empty prompt.
        config: The options.
    """

    def __init__(
        self, stream: Stream, total: NormalEquations, kept: Tensor, neutral: Tensor, config: SpeedConfig
    ) -> None:
        self.stream, self.total, self.kept, self.config = stream, total, kept, config
        self.fixed = fixed_rows(neutral.to(total.gram), config.centres, config.seed)
        unit = float(total.gram.diagonal().mean())
        self.ridge = config.ridge * unit
        self.unguarded = total.solve(_FILTER_RIDGE * unit)
        self.unheld = self.unguarded if config.ridge == _FILTER_RIDGE else total.solve(self.ridge)
        self._tried: dict[str, Retained] = {}

    def tried(self, path: str, way: Way) -> float:
        """How far the keys move by one matrix, of how far they would if nothing were held.

        Raises:
            InputError: If what is retained leaves nothing that may change.
        """
        if path not in self._tried:
            self._tried[path] = self._retained(path)
        return self._edit(path, way, self._tried[path])[1]["reached"]

    def changes(self, way: Way) -> tuple[dict[str, Change], dict[str, Any]]:
        """The change of each matrix, and what was found.

        Raises:
            InputError: If what is retained leaves nothing that may change.
        """
        changes: dict[str, Change] = {}
        facts: dict[str, Any] = {}
        for path in self.stream.matrices:
            retained = self._tried.pop(path, None) or self._retained(path)
            edit, facts[path] = self._edit(path, way, retained)
            changes |= self.stream.only(path).changes(edit.of)
        return changes, facts

    def _retained(self, path: str) -> Retained:
        weight = self.stream.only(path).weights[path].to(self.total.gram)
        seed = self.config.seed + list(self.stream.matrices).index(path)
        return Retained(weight, self.kept, self.unguarded, self.config.augment, seed)

    def _edit(self, path: str, way: Way, retained: Retained) -> tuple[InputMap, dict[str, Any]]:
        """What a matrix's rows are read as, and what was found."""
        space, fact = self._space(retained, way)
        if space.shape[1] == 0:
            raise InputError(
                f"what is retained leaves no direction in which {path} may change: preserve fewer words, or write a "
                f"larger null_share (it is {self.config.null_share:g}) or least_free (it is {way.least_free:g})"
            )
        by = guarded(self.total.gram, space, self.fixed, self.ridge, self.config.fixed_ridge)
        found = self.total.solution(lambda rows: rows @ by)
        whole = energy(retained.weight, self.unheld, self.total.gram)
        reached = math.sqrt(energy(retained.weight, found, self.total.gram) / whole) if whole > 0 else 1.0
        return found, {**fact, "rank": found.rank, "reached": reached}

    def _space(self, retained: Retained, way: Way) -> tuple[Tensor, dict[str, Any]]:
        """U of step 3, and what was found."""
        config = self.config

        def found(filtered: bool) -> tuple[Tensor, dict[str, Any]]:
            spectrum = retained.spectrum(filtered)
            space = spectrum.free(config.null_share, way.null_of, way.least_free, config.null_below)
            most = float(spectrum.most[space.shape[1] - 1]) if space.shape[1] else 0.0
            return space, {"rows": spectrum.n, "filtered": filtered, "free": space.shape[1], "most": most}

        if way.filtered != "crowded":
            return found(way.filtered)
        space, fact = found(False)
        return (space, fact) if space.shape[1] > way.least_free * len(space) else found(True)


def _warn_of_crowds(layers: Mapping[str, Any], way: Way, config: SpeedConfig) -> None:
    """Tell of rows to retain that have more in the space where weights change than they were to have."""
    most = max((fact["most"] for fact in layers.values()), default=0.0)
    if config.null_below is None and way.null_of == "each" and most > max(config.null_share, _MUCH):
        free = min(fact["free"] for fact in layers.values())
        warnings.warn(
            f"what is retained fills so much that the {free} directions left to change (least_free="
            f"{way.least_free:g}) hold up to {most:.1%} of a retained row, more than null_share="
            f"{config.null_share:g}: such rows move a little; preserve fewer words, or write a smaller least_free",
            EffaceWarning,
            stacklevel=4,
        )


def _warn_of_little(layers: Mapping[str, Any]) -> None:
    """Tell of concepts whose rows are held together with what is retained."""
    if layers and (middle := _middle([fact["reached"] for fact in layers.values()])) < _LITTLE:
        warnings.warn(
            f"the concepts' rows move by {middle:.0%} of what they move where nothing is held (the middle of "
            f"{len(layers)} layers): what is retained holds them, too, so that little is erased; preserve fewer "
            "words, or those less like them",
            EffaceWarning,
            stacklevel=4,
        )


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="values that read concepts as their anchors, changed only where retained rows have nothing (SPEED)",
        paper="arXiv:2503.07392",
        fit=fit,
        erasure=WeightErasure,
        config=SpeedConfig,
        reads=READS,
        reads_with=reads_of,
        access=("prompts", "embeddings", "weights"),
        access_on=("weights",),
        guarantee="what lies wholly outside the null space, the start row and the centres of the empty prompt are read "
        "as before",
        no_guarantee="that the concept is gone: it is moved as far as the null space allows; that words which were not "
        "retained stay as they are, or anything against who has the weights of before",
    )
)
