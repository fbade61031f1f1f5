"""Does an erasure of a language model last? Its weights rounded, or tuned on, and states of the base put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from efface._errors import InputError
from efface._progress import progress
from efface._text import shown
from efface._validate import check_int, check_positive_int, to_tensor
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Series, Table
from efface.audit.finding import Finding
from efface.audit.states import durability_text as text
from efface.audit.states.depth import ENCODES, depth
from efface.audit.states.durability_text import BROKEN, ERASED, Treatment, verdict_of
from efface.audit.states.language import (
    IGNORED,
    Texts,
    block_states,
    blocks_of,
    frequency_nats,
    nats_of,
    put_back,
    rounded,
    states_of,
    to_bfloat16,
    to_int8,
    tuned,
)
from efface.audit.states.measures import PROBE, Setting, SiteScores
from efface.audit.states.reading import Floats, read_column
from efface.audit.subjects import HasSites
from efface.audit.vectors.folds import CONDITIONS, View, make_folds
from efface.audit.vectors.guardedness import looks_fitted
from efface.audit.vectors.judging import Reading, of_the_fit
from efface.audit.vectors.labels import Labels
from efface.core.arrays import read_array
from efface.core.doors import check_call
from efface.core.edits import check_sites
from efface.core.labels import on_host
from efface.core.provenance import called, provenance
from efface.core.site import Site
from efface.report.data import AFTER, BEFORE, NO_CHANGE
from efface.report.numbers import format_value
from efface.stats.intervals import Interval, bootstrap_interval, share_change_interval

LOSS, SINCE, BACK, DEPTH = "loss on text", "change since erasure", "put back", "unlearning depth"
_ROUNDED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rounded to bfloat16": to_bfloat16,
    "rounded to int8": to_int8,
}
_SITES_AT_MOST = 4
_NATS = "nats per token"


def durability(
    model: nn.Module,
    erasure: Any,
    data: Any,
    labels: Any,
    *,
    tuning: Any = None,
    gold: nn.Module | None = None,
    asked: Any = None,
    sites: Sequence[str | Site] | None = None,
    groups: Any = None,
    name: str = "concept",
    classes: tuple[str, ...] | None = None,
    steps: int = 50,
    rate: float = 1e-4,
    batch_size: int = 16,
    max_rows: int = 3000,
    folds: int = 3,
    level: float = 0.95,
    seed: int = 0,
    title: str = "",
) -> Audit:
    """Ask whether a concept that was erased from a language model comes back, without anybody asking for it.

    Fresh linear probes read the concept at the sites of the erasure, as the model is, with the erasure on, and then

    - with all weights **rounded** to bfloat16 and to int8 (a scale for each row of a matrix);
    - after some **steps of tuning** on other text (Adam, the loss of a language model), with the erasure on;
    - with the base's states **put back** at one block after the other, read at the last site: from which block on
      what lies behind does not keep the concept out.

    With `gold` and `asked` there is also the unlearning depth score (arXiv:2605.24614): how much of what the base
    encodes of some tokens the erased model's states have lost, block by block. Without a model that never knew it is
    *not applicable*.

    Beside each stands the loss on the text. A model that predicts no better than the frequencies of tokens is
    **broken**: what cannot be read of it is no erasure, and it never counts as one.

    Args:
        model: The causal language model before erasure: it gives logits. It is left as it is.
        erasure: What was taken out: a `Scrubber` (by hooks), what its `folded(model)` gives (in the weights), or any
            erasure that can be put `on` the model.
        data: Text that the erasure was not fitted on: token ids `(n, length)`, or a mapping with them.
        labels: The concept of each token `(n, length)`: integers (-100 for tokens that do not count), booleans, text.
        tuning: Other text to tune on; None leaves that out, and says so.
        gold: A model of the same architecture that never knew, for the depth score.
        asked: The tokens that only who knows can predict, `(n, length)` booleans, for the depth score.
        sites: Where the concept is read: addresses. None takes up to four of a scrubber's sites, or of the layers that
            it was folded into, at equal distances, the last one among them.
        groups: What must not be split, `(n,)`, e.g. the file of each sequence; each sequence by itself if None.
        name: What to call the concept on the page.
        classes: Names of the classes, in the order of their sorted labels.
        steps: Of tuning.
        rate: Learning rate of tuning.
        batch_size: Sequences in a forward pass, and in a step.
        max_rows: Tokens that are read, drawn at random.
        folds: Of the probes.
        level: Confidence level of the intervals.
        seed: Of every random choice.
        title: Title of the audit.

    Returns:
        An audit whose first conclusion is about the erasure as it is, with a verdict for each treatment: *stays away*,
        *comes back*, *still read*, *broken*, or *inconclusive*, which is no pass.

    Raises:
        InputError: If the model is no language model, the erasure cannot be put on it or has no sites and none are
            named, labels are not one a token, or classes are missing.
        MissingExtraError: If scikit-learn is not installed.

    Does not guarantee: that another probe, more steps or another rounding would not find it.
    """
    check_call(durability, locals())
    call = called("efface.audit.durability", locals())
    for value, called_ in ((steps, "steps"), (batch_size, "batch_size"), (max_rows, "max_rows")):
        check_positive_int(value, called_)
    check_int(seed, "seed", least=0)
    if not 0 < rate < 1:
        raise InputError(f"rate={rate:g}: write a learning rate between 0 and 1, e.g. 1e-4")
    asking = _Asking.of(
        model, erasure, data, labels, sites, groups, name, classes, batch_size, max_rows, folds, level, seed
    )
    other = None if tuning is None else Texts.of(tuning, "tuning", batch_size).check(model, "tuning")
    training = model.training
    model.eval()
    try:
        treatments, parts = asking.treated(other, steps, rate)
        findings = [f for t in treatments for f in t.findings]
        back = [] if treatments[0].verdict == BROKEN else asking.put_back()
        score = asking.depth(gold, asked)
    finally:
        model.train(training)
    findings += [*([] if other is not None else [text.untuned()]), *(f for _, f in back), score]
    return Audit(
        title or f"Does the erasure of {name} last?",
        text=text.method(asking.setting.labels, len(asking.texts.ids), parts, steps, rate, other is not None),
        conclusions=tuple(text.conclusions(treatments, back, score, name)),
        findings=tuple(findings),
        tables=(_table(treatments),),
        figures=tuple(_figures(treatments, back, name)),
        caveats=text.CAVEATS,
        settings={
            "sequences": len(asking.texts.ids),
            "rows": len(asking.setting.labels),
            "sites": [str(site) for site in asking.sites],
            "classes": list(asking.setting.labels.classes),
            "verdicts": {t.name: t.verdict for t in treatments},
            "steps": steps if other is not None else 0,
            "rate": rate,
            "seed": seed,
            "level": level,
        },
        provenance=provenance(subject=[model, erasure], data={"data": data, "labels": labels}, seed=seed, call=call),
    )


@dataclass(frozen=True, eq=False)
class _Asking:
    """What is the same for all treatments."""

    model: nn.Module
    erasure: Any
    texts: Texts
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    sites: tuple[Site, ...]
    groups: NDArray[Any] | None
    setting: Setting
    known: dict[str, SiteScores] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        erasure: Any,
        data: Any,
        labels: Any,
        sites: Sequence[str | Site] | None,
        groups: Any,
        name: str,
        classes: tuple[str, ...] | None,
        batch_size: int,
        max_rows: int,
        folds: int,
        level: float,
        seed: int,
    ) -> _Asking:
        if not isinstance(model, HasSites) or not hasattr(erasure, "on"):
            what = erasure if isinstance(model, HasSites) else model
            raise InputError(
                f"{shown(what)} is no {'erasure' if what is erasure else 'model'}: give a language model before "
                "erasure, and what is put on it, e.g. efface.scrub(model, ...) or scrubber.folded(model)"
            )
        texts = Texts.of(data, "data", batch_size).check(model, "data")
        values, there = _labels(labels, texts)
        places = np.nonzero(there)
        drawn = np.random.default_rng(seed).permutation(len(places[0]))[:max_rows]
        sequence, position = (place[np.sort(drawn)] for place in places)
        concept = Labels.of(values[sequence, position], name, classes=classes)
        if not concept.is_categorical:
            raise InputError(f"{name} is a quantity, and probes here read classes: write integers or text as labels")
        own = read_column(groups, "groups", len(texts.ids))
        units = np.arange(len(texts.ids)) if own is None else np.unique(own, return_inverse=True)[1]
        splits = make_folds(len(sequence), folds, groups=units[sequence], strata=concept.values, seed=seed)
        setting = Setting(concept, None, units[sequence], splits, seed, level)
        chosen = _sites(model, erasure, sites)
        check_sites(model, chosen)
        return cls(model, erasure, texts, (sequence, position), chosen, units, setting)

    def on(self) -> AbstractContextManager[Any]:
        return self.erasure.on(self.model)

    def treated(self, other: Texts | None, steps: int, rate: float) -> tuple[list[Treatment], int]:
        """The erasure as it is, then each thing that was done to it."""
        before, plain = self._states(), nats_of(self.model, self.texts)
        ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {ERASED: nullcontext}
        ways |= {way: lambda to=to: rounded(self.model, to) for way, to in _ROUNDED.items()}
        if other is not None:
            way = f"tuned for {steps} steps"
            ways[way] = lambda: tuned(self.model, other, steps=steps, rate=rate, seed=self.setting.seed)
        found: list[Treatment] = []
        with progress("rounding and tuning", len(ways), unit="treatments") as bar:
            for way, treat in ways.items():
                with self.on(), treat():
                    states, nats = self._states(), nats_of(self.model, self.texts)
                found.append(
                    self._treatment(way, before, states, plain, nats, found[0] if found else None, len(ways) - 1)
                )
                bar.update(1)
        return found, len(before)

    def _states(self, sites: Sequence[Site] | None = None) -> dict[str, Floats]:
        found = states_of(self.model, self.texts, self.sites if sites is None else sites, self.rows)
        for site, x in found.items():
            if not np.isfinite(x).all():
                raise InputError(f"{site} has states that are not finite: nothing can be read of such a model")
        return found

    def _scores(self, site: str, before: Floats, after: Floats) -> tuple[SiteScores, list[Finding]]:
        scores = SiteScores(site, self.setting, CONDITIONS)
        if site in self.known:  # the base is read once
            scores.real[0].beside(self.known[site].real[0])
        for train, test in self.setting.splits:
            scores.add(View(train, test, before, after))
        self.known.setdefault(site, scores)
        found = list(scores.findings())
        if looks_fitted(after, self.setting.labels.columns(), free=False, seed=self.setting.seed):
            found = of_the_fit(found)
        return scores, found

    def _treatment(
        self,
        way: str,
        before: Mapping[str, Floats],
        after: Mapping[str, Floats],
        plain: Tensor,
        nats: Tensor,
        erased: Treatment | None,
        ways: int,
    ) -> Treatment:
        readings: dict[str, Reading] = {}
        hits: dict[str, Floats] = {}
        changes: dict[str, Finding] = {}
        findings: list[Finding] = []
        for site, x in before.items():
            scores, found = self._scores(site, x, after[site])
            readings[site], hits[site] = Reading.of(found), scores.real[0].hits(AFTER)
            kept = found if erased is None else [f for f in found if f.condition == AFTER]
            findings += [replace(f, condition=way) if f.condition == AFTER else f for f in kept]
            if erased is not None:
                interval = share_change_interval(
                    hits[site],
                    erased.hits[site],
                    groups=self.setting.groups,
                    level=1 - (1 - self.setting.level) / (len(before) * ways),
                    seed=self.setting.seed,
                )
                more: dict[str, Any] = {"chance": 0.0, "reference": NO_CHANGE, "unit": "share"}
                changes[site] = Finding.of(
                    site, interval, SINCE, way, n=len(hits[site]), seed=self.setting.seed, detail=True, **more
                )
        losses = self._losses(way, plain, nats, first=erased is None)
        broken = losses[-1].caution == BROKEN
        if broken:
            findings = [replace(f, caution=BROKEN) if f.condition == way else f for f in findings]
        verdict = verdict_of(readings, changes, broken=broken, erased=erased)
        return Treatment(
            way, verdict, readings, changes, hits, losses[-1], tuple([*findings, *changes.values(), *losses])
        )

    def _losses(self, way: str, plain: Tensor, nats: Tensor, *, first: bool) -> list[Finding]:
        """The loss of the base, if it is the first time, and of the treated model."""
        counts = self.texts.predicted.sum(dim=1).double().numpy()
        alone = frequency_nats(self.texts).sum(dim=1).numpy()
        options: dict[str, Any] = {"groups": self.groups, "level": self.setting.level, "seed": self.setting.seed}
        mean = float(alone.sum() / max(counts.sum(), 1.0))
        found = []
        for condition, values in ((BEFORE, plain), (way, nats)) if first else ((way, nats),):
            sums = values.sum(dim=1).numpy()
            gained = _interval(sums - alone, counts, options)
            caution = "" if gained is not None and gained.high < 0 else BROKEN
            interval = _interval(sums, counts, options)
            more: dict[str, Any] = {
                "n": int(counts.sum()),
                "seed": self.setting.seed,
                "unit": _NATS,
                "baseline": None if condition == BEFORE else float(plain.sum() / max(counts.sum(), 1.0)),
                "caution": caution,
                "note": f"frequencies of tokens alone: {format_value(mean)} {_NATS}",
            }
            share = float(sums.sum() / max(counts.sum(), 1.0))
            found.append(_finding("loss", interval, share, LOSS, condition, more))
        return found

    def put_back(self) -> list[tuple[str, Finding]]:
        """What a probe reads at the last site with the base's states behind a block: (block, accuracy) of each."""
        last = self.sites[-1]
        found: list[tuple[str, Finding]] = []
        before = self._states([last])[str(last)]
        blocks = [block for block in blocks_of(self.model) if not last.path.startswith(f"{block}.")]
        with progress("putting back", len(blocks), unit="blocks") as bar:
            for block in blocks:
                kept = block_states(self.model, self.texts, block)
                with self.on(), put_back(self.model, self.texts, block, kept):
                    after = self._states([last])[str(last)]
                findings = self._scores(str(last), before, after)[1]
                main = next(f for f in findings if f.family == PROBE and f.condition == AFTER)
                reads = Reading.of(findings).reads
                caution = "" if reads else main.caution
                note = f"read at {last}, with the base's states behind {block}"
                found.append((block, replace(main, name=block, family=BACK, note=note, caution=caution, detail=True)))
                bar.update(1)
        return found

    def depth(self, gold: nn.Module | None, asked: Any) -> Finding:
        """The unlearning depth score, or why there is none."""
        if gold is None or asked is None:
            lacking = "a model that never knew (gold=)" if gold is None else "the tokens to ask for (asked=)"
            return Finding.without("score", "not applicable", f"it needs {lacking}: there is no substitute", DEPTH)
        spots = to_tensor(asked, "asked")
        if spots.shape != self.texts.ids.shape:
            raise InputError(
                f"asked has shape {tuple(spots.shape)}, expected {tuple(self.texts.ids.shape)}: one a token"
            )
        found = depth(self.model, self.on, gold, self.texts, spots.bool())
        kept = ~np.isnan(found.scores)
        if kept.sum() < 2:
            why = f"{int(kept.sum())} of {len(kept)} sequences have a block that encodes what is asked for: too few"
            return Finding.without("score", "not applicable", why, DEPTH)
        groups = None if self.groups is None else self.groups[kept]
        options: dict[str, Any] = {"groups": groups, "level": self.setting.level, "seed": self.setting.seed}
        interval = _interval(found.scores[kept], np.ones(int(kept.sum())), options)
        note = f"0 is as before erasure, 1 as gold; its states cost other tokens {format_value(found.spoils)} {_NATS}"
        more: dict[str, Any] = {"n": int(kept.sum()), "unit": "share", "note": note}
        more["caution"] = text.SPOILED if found.spoils > ENCODES else ""
        return _finding("score", interval, float(found.scores[kept].mean()), DEPTH, AFTER, more)


def _labels(labels: Any, texts: Texts) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels `(n, length)`, and which tokens have one."""
    if labels is None:
        raise InputError("labels is None: give the concept of each token, (n, length)")
    values = on_host(read_array(labels, "labels").values)
    shape = tuple(texts.ids.shape)
    if values.shape != shape:
        raise InputError(f"labels have shape {values.shape}, expected {shape}: one for each token, {IGNORED} for none")
    counted = values != IGNORED if values.dtype.kind in "iu" else np.ones(shape, dtype=bool)
    there = counted & texts.there.numpy()
    if not there.any():
        raise InputError("labels have no token that counts")
    return values, there


def _sites(model: nn.Module, erasure: Any, given: Sequence[str | Site] | None) -> tuple[Site, ...]:
    if isinstance(given, str):
        raise InputError(f"sites is one string: write a list, sites=[{given!r}]")
    if given is not None:
        found = [site if isinstance(site, Site) else Site.parse(site) for site in given]
        if not found:
            raise InputError("sites is empty: name at least one, or leave it out")
        return tuple(found)
    own = getattr(erasure, "sites", None) or [Site(path) for path in getattr(erasure, "layers", ())]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {path for path, module in model.named_modules() if head is not None and module is head}
    own = [site for site in own if site.path not in heads]  # as wide as the vocabulary
    if not own:
        raise InputError(
            f"{type(erasure).__name__} does not say where it erases: name the places, e.g. sites=['model.norm']"
        )
    order = {path: i for i, (path, _) in enumerate(model.named_modules())}
    own = sorted(own, key=lambda site: order.get(site.path, len(order))) if not hasattr(erasure, "sites") else list(own)
    at = np.unique(np.linspace(len(own) - 1, 0, _SITES_AT_MOST).round().astype(int))
    return tuple(own[i] for i in at)


def _interval(numerator: Floats, denominator: Floats, options: Mapping[str, Any]) -> Interval | None:
    groups = options["groups"]
    if len(np.unique(np.arange(len(numerator)) if groups is None else groups)) < 2 or denominator.sum() <= 0:
        return None
    return bootstrap_interval(numerator, denominator, **options)


def _finding(
    name: str, interval: Interval | None, value: float, family: str, condition: str, more: Mapping[str, Any]
) -> Finding:
    if interval is None:
        return Finding(name, value, family, condition, **more)
    return Finding.of(name, interval, family, condition, **more)


def _table(treatments: Sequence[Treatment]) -> Table:
    rows = []
    for t in treatments:
        site, reading = t.most
        main = reading.after[0]
        change = t.changes.get(site)
        rows.append(
            (
                t.name,
                text.spanned(t.loss),
                text.spanned(reading.before[0]),
                text.spanned(main),
                "" if change is None else text.spanned(change),
                site,
                t.verdict,
            )
        )
    header = ("treatment", f"loss ({_NATS})", "read before", "read after", "change since erasure", "most at", "verdict")
    return Table("What was done, and what is read then", header, tuple(rows))


def _figures(treatments: Sequence[Treatment], back: Sequence[tuple[str, Finding]], name: str) -> Iterator[Figure]:
    chance = treatments[0].most[1].before[0].chance
    read = [t.most[1].after[0] for t in treatments]
    before = max((r.before[0] for r in treatments[0].readings.values()), key=lambda f: f.value)
    series = Series.of("linear probe", [before, *read], ["before erasure", *(t.name for t in treatments)])
    caption = "A fresh linear probe on held-out tokens, at the site where it reads most; dashed is a constant guess."
    yield Figure(
        f"How well is {name} read?",
        (series,),
        x_label="share of tokens read right",
        chance=chance,
        unit="share",
        caption=caption,
    )
    if back:
        yield Figure(
            f"The base's states put back, and {name} read at the last site",
            (Series.of("linear probe", [f for _, f in back]),),
            kind="lines",
            x_label="block behind which states are the base's",
            y_label="share of tokens read right",
            chance=chance,
            unit="share",
            caption="Above the dashed line what comes behind the block does not keep the concept out.",
        )
