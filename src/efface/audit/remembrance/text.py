"""What follows from an audit of remembrance, in sentences, and what does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from efface.audit.finding import Finding, spanned
from efface.audit.remembrance.certificate import CERTIFIED, NOT_CERTIFIED
from efface.audit.remembrance.findings import BYSTANDERS, REMEMBERED, TARGET, refusals_rose
from efface.audit.remembrance.measured import CHECK, Measured
from efface.audit.remembrance.standing import ELEVATED, NOT_TESTABLE, SUPPRESSED
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE
from efface.audit.remembrance.tables import graded, percent, points, untestable
from efface.report.data import CHANGE

INTRODUCTION = (
    "What was to be erased is one side; who else is remembered less, or more, is the other. An entity counts as "
    "remembered where an answer names it and should; every change is of the same question and seed before and after.",
)
CAVEATS = (
    "Who should be remembered where (merit), groups and popularity are inputs: this measures a declared standard, and "
    "finds none. It is no statement about any law or right.",
    "It holds for the questions that were asked, and for what finds names in answers: whatever does that may err more "
    "for some than for others. Groups that differ before are a sign of it.",
    "That nothing was found says little where little could be found: see who was not testable, and the smallest margin "
    "that can be certified.",
)
_ALONE = (
    "There is no arm 'before again': how much the system forgets by chance between two runs is not known, and is "
    "not taken off."
)
_STREAMED = (
    "The rows were streamed. The slope on popularity and the loss of expected exposure need all of them at once, and "
    "are left out."
)
_SHOWN = 5


def conclude(found: Measured, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The target, the lists, the classes, the certificate."""
    there = {(f.family, f.name, f.condition): f for f in findings}
    return (
        *_target(found, there),
        *_bystanders(found, there),
        *_lists(found),
        *_classes(found),
        *_refusals(found),
        *_placebos(found),
        *certificate(found),
    )


def caveats(found: Measured) -> tuple[str, ...]:
    """What the numbers do not show."""
    held = len(found.withheld)
    cell = found.plan.smallest_cell
    withheld = f"{held} classes of fewer than {cell} entities are not shown, because they would tell of persons."
    alone = () if AGAIN in found.panel.hit else (_ALONE,)
    alone = alone if found.whole else (*alone, _STREAMED)
    return (*CAVEATS, *alone, *((withheld,) if held else ()))


def _target(found: Measured, there: dict[tuple[str, str, str], Finding]) -> Iterator[str]:
    if found.target is None:
        yield "No target was asked for: whether the erasure did what it was for is not measured here."
        return
    before, after, change = (there[TARGET, REMEMBERED, condition] for condition in (BEFORE, AFTER, CHANGE))
    if not change.is_scored:
        yield "NOT measured: the target has no answer in both arms."
        return
    if not before.value:
        yield "NOT measured: no answer named the target before, and so there was nothing to erase."
        return
    said = f"the target is named in {spanned(after)} of the answers that ask for it, {percent(before.value)} before."
    if change.side == -1 and not change.caution:
        yield said.capitalize()
    elif change.value < 0 and (change.caution or not after.value):
        yield f"NOT testable: with so few answers it cannot be told whether it was erased: {said}"
    else:
        yield f"NOT erased: {said}"


def _bystanders(found: Measured, there: dict[tuple[str, str, str], Finding]) -> Iterator[str]:
    before, after, change = (there[BYSTANDERS, REMEMBERED, condition] for condition in (BEFORE, AFTER, CHANGE))
    if change.is_scored:
        yield (
            f"The {int(found.bystanders.sum())} others are named in {spanned(after)} of the answers where they should "
            f"be, {percent(before.value)} before: {change.verdict}."
        )


def _lists(found: Measured) -> Iterator[str]:
    standing, plan = found.standing, found.plan
    everyone = int(found.bystanders.sum())
    rate = f"at most {100 * plan.fdr:g}% of all names in the lists are expected to be wrong"
    suppressed, elevated = (_named(found, status) for status in (SUPPRESSED, ELEVATED))
    if suppressed:
        yield f"WARNING: {suppressed} of {everyone} bystanders were suppressed; {rate}."
    if elevated:
        yield f"{elevated} of {everyone} bystanders were elevated; {rate}."
    if not suppressed and not elevated:
        yield f"None of the {everyone} bystanders can be named as suppressed or elevated."
    reasons = {why: many for why, many in untestable(found).items() if many}
    if reasons:
        prefix = "Of" if (standing.status[found.bystanders] != NOT_TESTABLE).any() else "NOT testable: of"
        much = f"{points(plan.margin)[1:]} points" if plan.outcome == "hit" else f"{graded(plan.margin)} of their score"
        lost = f"whether they lost {much}: "
        said = "; ".join(f"{many} {why}" for why, many in reasons.items())
        yield f"{prefix} {sum(reasons.values())} bystanders it cannot be told {lost}{said}."
    if found.again is not None and (wrong := int((found.again.status == SUPPRESSED).sum())):
        yield (
            f"WARNING: {wrong} bystanders are suppressed (at most {100 * CHECK:g}% of such names are expected to be "
            "wrong) when the system before is asked twice. Its answers are not exchangeable between runs, and the "
            "lists are not to be trusted."
        )


def _named(found: Measured, status: str) -> str:
    """How many have a status, and the first of them; nothing if none has."""
    places = found.standing.listed(status)
    names = ", ".join(found.panel.registry.ids[place] for place in places[:_SHOWN])
    return f"{len(places)} ({names}{', ...' if len(places) > _SHOWN else ''})" if len(places) else ""


def _classes(found: Measured) -> Iterator[str]:
    if not found.plan.can_tell(len(found.classes)):
        yield (
            f"NOT testable: {len(found.classes)} classes are so many that {found.plan.exchanges(len(found.classes)):,} "
            "exchanges cannot tell of one: declare fewer groups, or ask for more draws."
        )
    lost = [each for each in found.classes if each.p <= found.plan.alpha and each.change < 0]
    for each in sorted(lost, key=lambda one: one.change)[:_SHOWN]:
        yield (
            f"WARNING: {each.of.title} lost {points(-each.change)[1:]} points "
            f"({points(each.low)} to {points(each.high)}; p {each.p:.2g})."
        )
    for each in found.disparities:
        if each.p <= found.plan.alpha and each.adjusted < 0:
            yield (
                f"WARNING: {each.dimension} {each.group} lost {points(-each.adjusted)[1:]} points more than the others "
                f"of its popularity and relation ({points(-each.raw)[1:] if each.raw < 0 else points(-each.raw)} as it "
                f"is; p {each.p:.2g})."
            )


def _refusals(found: Measured) -> Iterator[str]:
    before, after = refusals_rose(found.panel)
    if after > before + found.plan.margin:
        yield (
            f"WARNING: {percent(after)} of the answers were refused or failed, {percent(before)} before. They count as "
            "no omission, and what is said here is of the others."
        )


def _placebos(found: Measured) -> Iterator[str]:
    values = found.placebos.get("mean loss of bystanders")
    if values is not None:
        loss, beyond, p = values
        said = f"{points(loss)} points", points(beyond)
        if found.plan.outcome != "hit":
            said = f"{graded(loss)} of their score", graded(beyond)
        yield f"Bystanders lost {said[0]} on average, {said[1]} beyond placebos of the same size (p {p:.2g})."


def certificate(found: Measured) -> Iterator[str]:
    """The certificate in a sentence; refusals take it away."""
    said = found.certificate
    if said is None:
        yield "NOT testable: a class has no answers of both arms, and there is no certificate."
        return
    margin, smallest = (f"{100 * value:.1f}" for value in (said.margin, said.smallest))
    silent = [each.of.title for each in found.classes if each.refused > said.margin]
    if said.why:
        yield f"NOT testable: no margin can be certified, because {said.why}."
    elif silent:
        yield (
            f"NOT certified: more than {margin} points of the answers on {', '.join(silent[:_SHOWN])} are refused or "
            "fail after and did not before; nothing is known of them."
        )
    elif said.status == CERTIFIED:
        yield (
            f"Certified for a margin of {margin} points: no declared class lost as much "
            f"({100 * (1 - found.plan.alpha):g}% for all at once); the smallest margin is {smallest}."
        )
    elif said.status == NOT_CERTIFIED:
        yield f"NOT certified for a margin of {margin} points: the smallest that holds for all classes is {smallest}."
    else:
        yield (
            f"NOT testable: with so few rows a margin of {margin} points is certified in {100 * said.power:.0f}% of "
            f"cases though nothing changed; the smallest that holds for all classes is {smallest}."
        )
