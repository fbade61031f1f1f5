"""The card of an interference matrix: what went where something was erased, of whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._validate import check_int, check_positive_int, check_type
from efface.audit.audit import Audit
from efface.audit.finding import Finding, spanned
from efface.audit.remembrance import interfered_tables as tables
from efface.audit.remembrance.findings import BYSTANDERS
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.matter import EVERYONE, RELATION, STRATUM, Matter
from efface.audit.remembrance.pooled import Kept, Labels, pooled, relations_of, spread
from efface.audit.remembrance.registry import ALIAS, TARGET, Registry
from efface.audit.remembrance.remembered import remembered
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.audit.remembrance.tables import percent, points
from efface.core.doors import check_call
from efface.report.data import NO_CHANGE, NOT_ERASED, WARNING
from efface.stats.intervals import check_draws

PLACEBO = "placebos"
STILL, LOST = "still seen", "lost beyond chance"
ALPHA = 0.05
_MARGIN, _MOSTLY, _SHOWN = 0.05, 0.5, 5
_CAVEATS = (
    "It holds for the prompts that were drawn and for what the judge sees, which may err more for some than for "
    "others: look at what is seen before.",
    "Groups, popularity and relations are inputs, and nothing is inferred about anybody. It is no statement about any "
    "law or right.",
    "A picture of which the judge cannot say counts as neither kept nor lost; how many there are is said.",
    "Few pictures of one pair say little about that pair: kinds of pairs are measured, pairs are shown.",
)


def interfered(
    found: Interference,
    registry: Registry | Mapping[str, Registry] | None = None,
    *,
    each: Sequence[str] = (),
    smallest_cell: int = 5,
    fewest: int = 1,
    listed: int = 10,
    draws: int = 2000,
    title: str = "Who else goes?",
    seed: int = 0,
) -> Audit:
    """What is still drawn of everyone after erasures of some, by relation, likeness, popularity and group.

    Findings: family `"target"`, `"bystanders"`, `"relation"`, `"popularity"`, a dimension of groups, or `"placebos"`;
    name of the kind (`"still seen"` of the target, the bystanders and placebos); conditions `"before again"` and
    `"after"`: share of the pictures which showed what was asked for that still do. `"lost beyond chance"` of the
    bystanders is "before again" less "after".

    Args:
        found: As `interference` gives it.
        registry: What is known of everyone; of several erasures one for each, by the erasure's name, because relation
            and similarity are to what is erased. None takes the entity of an erasure's name as its target.
        each: Erasures of which there is a part by itself, as `efface.audit.remembered` makes it.
        smallest_cell: Kinds of fewer entities are not shown.
        fewest: Pairs of fewer pictures are left blank. Where entities are people write 5 or more: numbers of a few
            are numbers of persons.
        listed: How many names a table shows at most.
        draws: Resamples.
        title: Title of the audit.
        seed: Seed of resampling.

    Raises:
        InputError: If somebody was asked for and is in no registry, or an erasure has none.
    """
    check_call(interfered, locals())
    check_int(seed, "seed", least=0)
    check_draws(draws, ALPHA)
    for name, value in {"smallest_cell": smallest_cell, "fewest": fewest, "listed": listed}.items():
        check_positive_int(value, name)
    known = _registries(found, registry)
    if strange := [name for name in each if name not in found.erased]:
        raise InputError(f"each has {strange[0]!r}, which is no erasure: write some of {', '.join(found.erased[:8])}")
    relations = relations_of(found, known)
    relations = np.where(relations == ALIAS, TARGET, relations)
    others = relations != TARGET
    kinds, withheld = _kinds(found, known, relations, others, smallest_cell, draws, seed)
    of = Matter(found, known, relations, others, kinds, withheld, fewest)
    findings = tuple(_findings(of, seed))
    parts = [
        replace(remembered(found.ledger(name, known[name]), registry=known[name], draws=draws, resample="queries",
                           smallest_cell=smallest_cell, listed=listed, seed=seed), title=name)
        for name in each
    ]  # fmt: skip
    return Audit(
        title,
        text=(_text(of),),
        conclusions=tuple(_conclusions(of, {(f.family, f.name, f.condition): f for f in findings})),
        findings=findings,
        tables=tuple(t for t in (tables.kinds(of), tables.erasures(of, listed), tables.entities(of, listed)) if t),
        figures=tuple(
            f
            for f in (tables.matrix(of), tables.likeness(of, draws, seed), tables.strata(of), tables.transfers(of))
            if f is not None
        ),
        caveats=(*_CAVEATS, *_held_back(of, smallest_cell)),
        settings={
            "erasures": len(found.erased),
            "entities": len(found.asked),
            "pictures in an arm": len(found.prompts),
            "judge": found.judge,
            "placebos": list(found.placebos),
            "smallest_cell": smallest_cell,
            "fewest": fewest,
            "draws": draws,
        },
        provenance={**found.provenance, "matrix": [{"name": "interference", "sha256": found.digest}]},
        parts=tuple(parts),
    )


def _registries(found: Interference, registry: Registry | Mapping[str, Registry] | None) -> Mapping[str, Registry]:
    if registry is None:
        return {n: Registry.of(found.asked, target=[n] if n in found.asked else []) for n in found.erased}
    if isinstance(registry, Registry):
        return dict.fromkeys(found.erased, registry)
    if lacks := [name for name in found.erased if name not in registry]:
        raise InputError(f"registry has none for {lacks[0]!r}: give one for each of {len(found.erased)} erasures")
    for name in found.erased:
        check_type(registry[name], Registry, f"registry of {name!r}")
    return registry


def _kinds(
    found: Interference,
    known: Mapping[str, Registry],
    relations: Labels,
    others: NDArray[np.bool_],
    smallest: int,
    draws: int,
    seed: int,
) -> tuple[dict[str, tuple[Kept, ...]], tuple[str, ...]]:
    """Every partition of the pairs, and what of it is withheld."""
    first = known[found.erased[0]]
    places, rows = first.places(found.asked), len(found.erased)
    bystander = np.where(others, EVERYONE, "")
    labels = {TARGET: np.where(others, "", TARGET), EVERYONE: bystander, RELATION: np.where(others, relations, "")}
    more = {STRATUM: first.strata()[places], **{name: first.group(name)[places] for name in first.dimensions}}
    labels |= {name: np.where(others, spread(values.tolist(), rows), "") for name, values in more.items()}
    looks = sum(len(set(of.reshape(-1).tolist()) - {""}) for of in labels.values())
    kept: dict[str, tuple[Kept, ...]] = {}
    withheld: list[str] = []
    for kind, of in labels.items():
        every = pooled(found, of, draws=draws, seed=seed, looks=looks)
        shown = _shown(every, smallest) if kind not in (TARGET, EVERYONE) else every
        if len(every) > 1 or kind in (TARGET, EVERYONE):
            kept[kind] = shown
            withheld += [f"{kind}: {one.kind}" for one in every if one not in shown]
    return kept, tuple(withheld)


def _shown(every: tuple[Kept, ...], smallest: int) -> tuple[Kept, ...]:
    """Kinds of enough entities; so many that what is left out could not be told from the whole."""
    shown = [one for one in every if one.entities >= smallest]
    while shown and 0 < sum(one.entities for one in every if one not in shown) < smallest:
        shown.remove(min(shown, key=lambda one: one.entities))
    return tuple(shown)


def _findings(of: Matter, seed: int) -> Iterator[Finding]:
    for family, every in of.kinds.items():
        for one in every:
            name = STILL if family in (TARGET, EVERYONE) else one.kind
            where = BYSTANDERS if family == EVERYONE else family
            more = {"unit": "share", "n": one.n, "seed": seed, "judge": of.found.judge, "access": "prompts"}
            more["detail"] = family not in (TARGET, EVERYONE)  # a table has them
            if one.again is not None:
                yield Finding.of(name, one.again, where, AGAIN, **more)
            note = "" if not one.unsaid else f"of {percent(one.unsaid)} of the pictures the judge cannot say after"
            yield Finding.of(name, one.kept, where, AFTER, note=note, **more)
            if one.lost is not None and family == EVERYONE:
                yield Finding.of(LOST, one.lost, where, AFTER, chance=0.0, reference=NO_CHANGE, **more)
    if not of.found.placebos:
        return
    sham = replace_erased(of.found)
    for one in pooled(sham, np.full((len(sham.erased), len(sham.asked)), PLACEBO, dtype="U12"), seed=seed):
        yield Finding.of(STILL, one.kept, PLACEBO, AFTER, unit="share", n=one.n, seed=seed)


def replace_erased(found: Interference) -> Interference:
    """The placebos in the place of the erasures."""
    rows = [found.arms.index(name) for name in (BEFORE, AGAIN, *found.placebos)]
    named = None if found.shown is None else found.shown[rows]
    return replace(found, erased=found.placebos, placebos=(), seen=found.seen[rows], shown=named)


def _text(of: Matter) -> str:
    found = of.found
    pictures = len(found.prompts) * len(found.arms)
    return (
        f"{len(found.asked)} are asked for, in {len(found.prompts)} prompts; the pipeline draws them as it is, once "
        f"more from other noise (before again), after each of {len(found.erased)} erasures, and after "
        f"{len(found.placebos)} placebos: {pictures:,} pictures. A judge ({found.judge}) says whether a picture shows "
        "what it was asked for. What counts is how many of the pictures that did before still do."
    )


def _conclusions(of: Matter, there: Mapping[tuple[str, str, str], Finding]) -> Iterator[str]:
    yield from _of_target(of, there)
    yield from _of_others(of, there)
    yield from _of_kinds(of)
    sham = there.get((PLACEBO, STILL, AFTER))
    if sham is not None:
        yield f"After placebos (edits as large that should not matter) {spanned(sham)} still show what they did."
    yield from _of_unsaid(of)
    worst = tables.fragile(of)[:_SHOWN]
    if worst:
        names = "; ".join(f"{each.name} after {each.lost} of {each.of}" for each in worst)
        yield f"Most often gone where something else was erased: {names}."


def _of_target(of: Matter, there: Mapping[tuple[str, str, str], Finding]) -> Iterator[str]:
    after, again = there.get((TARGET, STILL, AFTER)), there.get((TARGET, STILL, AGAIN))
    if after is None:
        yield "What was erased is not among those asked for: whether it is gone is not measured here."
        return
    lead = NOT_ERASED if (after.low or 0.0) > _MOSTLY else ""
    chance = "" if again is None else f", {percent(again.value)} if asked again without an erasure"
    said = f"of the pictures that showed what was to be erased, {spanned(after)} still do{chance}."
    yield f"{lead}{said if lead else said.capitalize()}"


def _of_others(of: Matter, there: Mapping[tuple[str, str, str], Finding]) -> Iterator[str]:
    after, lost = there.get((BYSTANDERS, STILL, AFTER)), there.get((BYSTANDERS, LOST, AFTER))
    if after is None:
        yield "NOT measured: nobody else was seen before."
        return
    again = there.get((BYSTANDERS, STILL, AGAIN))
    said = f"Of the pictures of all others {spanned(after)} still show what they were asked for"
    if lost is None or again is None:
        yield f"{said}; what would be by chance is not known."
        return
    warn = WARNING if (lost.low or 0.0) > 0 and lost.value > _MARGIN else ""
    said = said[0].lower() + said[1:] if warn else said
    yield (
        f"{warn}{said}; asked again without an erasure {percent(again.value)}. Lost beyond chance: "
        f"{points(lost.value)} points ({points(lost.low or 0.0)} to {points(lost.high or 0.0)})."
    )


def _of_kinds(of: Matter) -> Iterator[str]:
    """Kinds that lose clearly more than chance, the worst first."""
    clear = [
        (one.lost, family, one)
        for family, every in of.kinds.items()
        if family not in (TARGET, EVERYONE)
        for one in every
        if one.lost is not None and one.clear
    ]
    for lost, family, one in sorted(clear, key=lambda each: -each[0].value)[:_SHOWN]:
        yield (
            f"{WARNING}{family} {one.kind}: {percent(one.kept.value)} of {one.n} pictures are kept; lost beyond chance "
            f"{points(lost.value)} points ({points(lost.low)} to {points(lost.high)}), and clear for all kinds "
            "that were looked at together."
        )


def _of_unsaid(of: Matter) -> Iterator[str]:
    for one in of.kinds.get(EVERYONE, ()):
        again = of.found.unsaid(AGAIN)
        chance = float(np.nanmean(again)) if np.isfinite(again).any() else 0.0
        if one.unsaid > chance + _MARGIN:
            yield (
                f"{WARNING}of {percent(one.unsaid)} of the others' pictures the judge cannot say after, "
                f"{percent(chance)} if asked again: they may be broken, which counts as neither kept nor lost."
            )


def _held_back(of: Matter, smallest: int) -> Iterator[str]:
    if of.withheld:
        yield f"{len(of.withheld)} kinds of fewer than {smallest} entities, or that would tell of such, are not shown."
    if of.fewest > 1:
        yield f"Pairs of fewer than {of.fewest} pictures are left blank, because they would tell of persons."
