"""How often a judge sees concepts in generated images where they are asked for, before and after an erasure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._progress import progress
from efface._validate import check_finite, to_tensor
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding, spanned
from efface.audit.pipelines.balance import harmonic_interval
from efface.audit.pipelines.pictures import side_by_side
from efface.core.doors import check_call
from efface.core.provenance import called, content_hash, provenance
from efface.report.data import AFTER, BEFORE, CHANGE, NO_CHANGE, NOT_ERASED, WARNING
from efface.stats.intervals import bootstrap_interval, share_change_interval, wilson_interval

Answers = NDArray[np.float64]
"""1, 0 or NaN of each image, `(n,)`."""
Sampler = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Prompts and as many seeds -> images `(n, 3, h, w)` in [0, 1]."""
Judge = Callable[[Tensor, str], Any]
"""Images and the name of a concept -> for each image whether the concept is in it, `(n,)` booleans or 0 to 1.

NaN where the judge cannot say: such an image is neither seen nor not seen, and is counted apart.
"""

SEEN, UNSAID, DISTANCE, BALANCE = "seen by the judge", "judge cannot say", "images of other prompts", "balance"
OTHER_WORDS = "in other words"
_SEEN_FROM = 0.5
_MOSTLY, _SEEN_ENOUGH = 0.5, 0.1
_WIDEST_HEADLINE = 0.3
"""H with a longer interval is no headline: it would say more than its images do."""
_FEWEST = 2
_CAVEATS = (
    "The judge decides what counts as the concept. One that never says that it cannot say sees something, or nothing, "
    "in a broken image too.",
    "Intervals are over images of these prompts; other prompts may say otherwise (synonyms, attacks, other languages).",
    "Not seen is not gone: the model may still hold the concept and be brought to draw it.",
)


def presence(
    sample: Sampler,
    judge: Judge,
    concept: str,
    *,
    prompts: Sequence[str],
    paraphrases: Sequence[str] = (),
    others: Mapping[str, Sequence[str]] | None = None,
    erased: Sampler | None = None,
    seeds: int | Sequence[int] = 8,
    batch_size: int = 16,
    title: str = "",
    level: float = 0.95,
) -> Audit:
    """Sample every prompt at every seed and ask a judge what is to be seen; with an erasure, before and after it.

    Findings: family `"seen by the judge"`, under the concept's name (at `prompts`) and each other concept's (at its
    own); conditions `"before"`, and with `erased` also `"after"` and `"change"`, each image paired with itself. Shares
    are of the images of which the judge can say; where it cannot say of some image of the audit, family
    `"judge cannot say"` has the share of these, under the same names. With `erased` and `others`, family
    `"images of other prompts"` has the mean absolute difference of pixels, before and after, at equal seeds: 0 where
    the erasure leaves the rest of the model alone; and family `"balance"` has `"H"`, the harmonic mean of what is no
    longer seen at `prompts`, at `paraphrases` and of what is still seen of `others` (`harmonic_interval`; without
    paraphrases of the two). In H an image counts as not seen, and as still seen, only if the judge says so: what it
    cannot say is credited neither as erased nor as kept.

    Args:
        sample: The pipeline as it is.
        judge: Who decides; independent of the erasure, or the audit flatters it. NaN is "cannot say".
        concept: What was, or is to be, erased.
        prompts: Prompts that ask for it.
        paraphrases: Prompts that ask for it in other words; found as `"<concept> in other words"`.
        others: Other concepts -> prompts that ask for them.
        erased: The pipeline with the erasure on.
        seeds: How many seeds a prompt, from 0, or which.
        batch_size: Images in one call of a sampler.
        title: Title of the audit.
        level: Confidence level of the intervals.

    Raises:
        InputError: If there are no prompts or seeds, or a sampler or judge returns something else than it should; the
            text says which.

    Does not guarantee: that a concept that is not seen is not there to be found by better prompts, images or
    gradients.
    """
    check_call(presence, locals())
    call = called("efface.audit.presence", locals())
    for which, given in (("prompts", prompts), ("paraphrases", paraphrases)):
        if isinstance(given, str):
            raise InputError(f"{which} is one string: write a list, {which}=[{given!r}]")
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    asked = {concept: list(prompts)}
    again = f"{concept} {OTHER_WORDS}"
    if len(paraphrases):
        asked[again] = list(paraphrases)
    asked |= {name: list(p) for name, p in (others or {}).items() if name != concept}
    if not numbers or not all(asked.values()):
        lacking = next((name for name, found in asked.items() if not found), None)
        raise InputError("seeds is empty: write at least one" if lacking is None else f"no prompts ask for {lacking!r}")
    sides = {BEFORE: sample} if erased is None else {BEFORE: sample, AFTER: erased}
    known: dict[str, Any] = {"judge": getattr(judge, "__qualname__", type(judge).__qualname__), "access": "prompts"}
    findings: list[Finding] = []
    moved: list[Tensor] = []
    found: dict[str, dict[str, Answers]] = {}
    drawn: list[Figure] = []
    with progress("sampling", len(asked) * len(sides), unit="concepts") as bar:
        for name, wanted in asked.items():
            jobs = [(prompt, seed) for prompt in wanted for seed in numbers]
            images = {}
            for side, sampler in sides.items():
                images[side] = _sampled(sampler, jobs, batch_size, side)
                bar.update(1)
            word = concept if name == again else name
            found[name] = {side: hits(judge, x, word).numpy() for side, x in images.items()}
            evidence = {side: (content_hash(x),) for side, x in images.items()}
            seen = _seen(name, found[name], level)
            findings += [replace(f, evidence=evidence.get(f.condition, ()), **known) for f in seen]
            drawn.append(side_by_side(name, jobs, images, found[name], gone=name in (concept, again)))
            if AFTER in images and name not in (concept, again):
                moved.append((images[AFTER] - images[BEFORE]).abs().flatten(1).mean(dim=1))
    if any(np.isnan(answers).any() for sides_of in found.values() for answers in sides_of.values()):
        unsaid = (f for name, sides_of in found.items() for f in _unsaid(name, sides_of, level))
        findings += [replace(f, **known) for f in unsaid]
    if moved:
        findings.append(_distance(torch.cat(moved), level))
        after = {name: sides_of[AFTER] for name, sides_of in found.items()}
        findings.append(_balance([after.pop(name) for name in (concept, again) if name in after], after, level))
    return Audit(
        title or f"Is {concept} to be seen?",
        text=(_text(asked, numbers, erased is not None),),
        conclusions=tuple(_conclusions(findings, concept)),
        findings=tuple(findings),
        figures=(_figure(findings, tuple(sides)), *drawn),
        caveats=_CAVEATS,
        settings={"concept": concept, "seeds": numbers, "prompts": asked, "level": level},
        provenance=provenance(call=call),
    )


def _sampled(sampler: Sampler, jobs: Sequence[tuple[str, int]], batch_size: int, side: str) -> Tensor:
    parts = []
    for start in range(0, len(jobs), batch_size):
        prompts, seeds = zip(*jobs[start : start + batch_size], strict=True)
        images = to_tensor(sampler(prompts, seeds), f"the images {side} erasure").detach().float().cpu()
        if images.ndim != 4 or len(images) != len(prompts):
            raise InputError(
                f"the sampler gave images of shape {tuple(images.shape)} for {len(prompts)} prompts, expected "
                f"({len(prompts)}, channels, height, width)"
            )
        check_finite(images, f"the images {side} erasure")
        parts.append(images)
    return torch.cat(parts)


def hits(judge: Judge, images: Tensor, concept: str) -> Tensor:
    """What a judge says of images: 1, 0, or NaN where it cannot say, `(n,)` float64.

    Raises:
        InputError: If it gives another number of values, or others than 0 to 1 and NaN.
    """
    found = to_tensor(judge(images, concept), f"the judgement of {concept!r}").detach().cpu().double()
    if found.shape != (len(images),):
        raise InputError(f"the judge gave shape {tuple(found.shape)} for {len(images)} images, expected one value each")
    said = found[~found.isnan()]
    if len(said) and not 0 <= float(said.min()) <= float(said.max()) <= 1:
        raise InputError("the judge gave values outside of 0 to 1: return booleans, probabilities, or NaN for unknown")
    return torch.where(found.isnan(), torch.nan, (found >= _SEEN_FROM).double())


def _seen(name: str, answers: Mapping[str, Answers], level: float) -> list[Finding]:
    """Shares of the images of which the judge can say, and the change of those of which it can on both sides."""
    shares = {side: _share(name, a[~np.isnan(a)], len(a), SEEN, side, level) for side, a in answers.items()}
    if AFTER not in answers:
        return list(shares.values())
    before, after = answers[BEFORE], answers[AFTER]
    both = ~np.isnan(before) & ~np.isnan(after)
    if both.sum() < _FEWEST:
        why = f"of {int(both.sum())} of the {len(both)} images the judge can say on both sides: too few for a change"
        missing = Finding.without(name, "not applicable", why, SEEN, condition=CHANGE, unit="share")
        return [*shares.values(), missing]
    change = share_change_interval(after[both], before[both], level=level)
    more: dict[str, Any] = {"chance": 0.0, "reference": NO_CHANGE, "baseline": float(before[both].mean())}
    return [*shares.values(), Finding.of(name, change, SEEN, CHANGE, n=int(both.sum()), unit="share", **more)]


def _unsaid(name: str, answers: Mapping[str, Answers], level: float) -> list[Finding]:
    """Shares of the images of which the judge cannot say."""
    return [_share(name, np.isnan(a).astype(float), len(a), UNSAID, side, level) for side, a in answers.items()]


def _share(name: str, hits: Answers, images: int, family: str, side: str, level: float) -> Finding:
    if not len(hits):
        why = f"of none of the {images} images the judge can say whether they show it"
        return Finding.without(name, "not applicable", why, family, condition=side, unit="share")
    interval = wilson_interval(float(hits.sum()), len(hits), level=level)
    note = f"of {len(hits)} of {images} images; of the others the judge cannot say" if len(hits) < images else ""
    return Finding.of(name, interval, family, side, n=len(hits), unit="share", note=note)


def _distance(moved: Tensor, level: float) -> Finding:
    interval = bootstrap_interval(moved.double().numpy(), level=level)
    note = "mean absolute difference of pixels (0 to 1) at equal prompts and seeds"
    return Finding.of("pixels moved", interval, DISTANCE, CHANGE, n=len(moved), note=note)


def _balance(gone: Sequence[Answers], kept: Mapping[str, Answers], level: float) -> Finding:
    """H of answers, in which NaN is neither gone nor kept."""
    hits = [[(a == 1).astype(float) for a in kept.values()]]
    interval = harmonic_interval([*([(a == 0).astype(float)] for a in gone), *hits], level=level)
    words = "at its prompts and at paraphrases" if len(gone) > 1 else "at its prompts"
    note = f"harmonic mean of: the concept not seen {words}; other concepts seen at theirs, averaged evenly"
    unsaid = sum(int(np.isnan(a).sum()) for a in (*gone, *kept.values()))
    if unsaid:
        note += f"; {unsaid} images of which the judge cannot say count as neither"
    n = sum(map(len, gone)) + sum(map(len, kept.values()))
    few = interval.high - interval.low > _WIDEST_HEADLINE
    wide = f"too few images: an interval of {100 * (interval.high - interval.low):.0f} points"
    more: dict[str, Any] = {"caution": wide, "detail": True} if few else {}
    return Finding.of("H", interval, BALANCE, AFTER, n=n, unit="share", note=note, **more)


def _text(asked: Mapping[str, Sequence[str]], seeds: Sequence[int], erased: bool) -> str:
    images = sum(map(len, asked.values())) * len(seeds)
    twice = ", once as the pipeline is and once with the erasure on" if erased else ""
    return (
        f"{images} images: {sum(map(len, asked.values()))} prompts for {len(asked)} concepts at {len(seeds)} seeds "
        f"each{twice}. A judge says whether the concept that was asked for is to be seen."
    )


def _conclusions(findings: Sequence[Finding], concept: str) -> list[str]:
    by = {(f.name, f.condition): f for f in findings if f.family == SEEN}
    unsaid = {(f.name, f.condition): f for f in findings if f.family == UNSAID}
    before, after = by[concept, BEFORE], by.get((concept, AFTER))
    if after is None:
        said = [f"Where {concept} is asked for, the judge sees it in {_shown(before)} of the images."]
    else:
        lead = _lead(before, after, unsaid.get((concept, AFTER)))
        seen = f"the judge sees it in {_shown(after)} of images, before in {_shown(before)}."
        said = [f"{lead} {concept} is asked for, {seen}"]
    again = f"{concept} {OTHER_WORDS}"
    said += _of_unsaid(unsaid, concept, "asked for") + _of_unsaid(unsaid, again, "asked for in other words")
    in_other_words = by.get((again, AFTER))
    if in_other_words is not None:
        said.append(f"Where it is asked for in other words, the judge sees it in {_shown(in_other_words)} of images.")
    changes = [f for (name, condition), f in by.items() if condition == CHANGE and name not in (concept, again)]
    lower = [f for f in changes if f.side == -1]
    if lower:
        worst = min(lower, key=lambda f: f.value)
        most = f"most {worst.name}, by {_points(worst)}"
        said.append(f"{len(lower)} of {len(changes)} other concepts are seen less; {most}.")
    elif known := [f for f in changes if f.is_scored]:
        said.append(f"None of {len(known)} other concepts is clearly seen less.")
    return said + _of_lost(unsaid, [f.name for f in changes])


def _lead(before: Finding, after: Finding, unsaid: Finding | None) -> str:
    """How the first conclusion begins: with what the erasure did not do, or may not have done."""
    usual = before.value if before.is_scored else 1.0
    if after.is_scored and (after.low or 0.0) > _MOSTLY * usual:
        return f"{NOT_ERASED}where"
    if unsaid is not None and _at_most(after, unsaid) > _MOSTLY * usual:
        return "NOT shown to be erased, the judge cannot say of too many images: where"
    if before.is_scored and (before.low or 0.0) < _SEEN_ENOUGH:
        return f"{WARNING}too weak to judge, as it is hardly seen before: where"
    if after.is_scored and (after.high or 0.0) > _MOSTLY * usual:
        return f"{WARNING}too few images to judge: where"
    return "Where"


def _at_most(after: Finding, unsaid: Finding) -> float:
    """Share of all images that show a concept, if those of which the judge cannot say all do."""
    return unsaid.value + (1 - unsaid.value) * (after.value if after.is_scored else 0.0)


def _of_unsaid(unsaid: Mapping[tuple[str, str], Finding], name: str, asked: str) -> list[str]:
    """The sentence about the images of which the judge cannot say, if there are any."""
    before, after = unsaid.get((name, BEFORE)), unsaid.get((name, AFTER))
    if before is None or not (before.value or (after is not None and after.value)):
        return []
    shares = f"{spanned(before)} of the images" if after is None else f"{spanned(after)}, before {spanned(before)}"
    return [f"Where it is {asked}, the judge cannot say of {shares}: these count neither as seen nor as not seen."]


def _of_lost(unsaid: Mapping[tuple[str, str], Finding], others: Sequence[str]) -> list[str]:
    """The sentence about other concepts of which the judge can say less than before, which no share knows."""
    lost = [
        after
        for before, after in ((unsaid.get((name, BEFORE)), unsaid.get((name, AFTER))) for name in others)
        if before is not None and after is not None and (after.low or 0.0) > (before.high or 0.0)
    ]
    if not lost:
        return []
    worst = max(lost, key=lambda f: f.value)
    shown = f"most of {worst.name}: of {spanned(worst)} of its images, before {spanned(unsaid[worst.name, BEFORE])}"
    return [
        f"{WARNING}of {len(lost)} of {len(others)} other concepts the judge cannot say more often than before, {shown}"
        ": their pictures may be broken, which counts neither as seen nor as not seen."
    ]


def _shown(finding: Finding) -> str:
    return spanned(finding) if finding.is_scored else "an unknown share"


def _points(finding: Finding) -> str:
    low, high = (f"{100 * (v or 0.0):.1f}" for v in (finding.low, finding.high))
    return f"{100 * finding.value:.1f} points ({low} to {high})"


def _figure(findings: Sequence[Finding], sides: Sequence[str]) -> Figure:
    shown = [f for f in findings if f.family == SEEN and f.is_scored]
    return Figure(
        "What the judge sees where it is asked for",
        tuple(Series.of(side, [f for f in shown if f.condition == side]) for side in sides),
        x_label="share of images",
        unit="share",
        caption="Each concept at its own prompts; whiskers are Wilson's intervals over images that it can judge.",
    )
