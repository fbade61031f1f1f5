"""What an audit of probes says in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from efface.audit.pipelines.judges import calibration_of
from efface.audit.pipelines.presence import Judge
from efface.audit.pipelines.probes import shown as showing
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.panel import ERASED, SHAM, Panel
from efface.audit.pipelines.probes.ran import Ran
from efface.audit.pipelines.probes.recovery import Row
from efface.audit.pipelines.probes.verdict import Verdict, is_damaged
from efface.report.data import WARNING

_HARM = 0.2
_SAME_JUDGE = (
    "one judge both chooses within searches and scores what was chosen, which flatters every search: give selector="
)
_UNCALIBRATED = "does not say what it was calibrated on: nobody knows how often it is wrong, nor the verdict with it"
_NO_GOLD = (
    "there is no gold model: floors are substitutes (the base's answer to another concept), and what needs a model "
    "that never saw the concept (likelihood, relearning, reversal) has no recovery; nothing can be called removed"
)


def named(judge: Judge) -> str:
    """What a judge is called: what it says of itself, or its type or function."""
    own = getattr(judge, "title", None)
    return own if isinstance(own, str) else getattr(judge, "__qualname__", type(judge).__qualname__)


def text_of(case: Case, panel: Panel, ran: Sequence[Ran], moved: int) -> str:
    """What was measured, on what, by whom."""
    source = "none" if case.pictures is None else case.pictures.source
    floor = "a gold model" if panel.gold is not None else "no gold model"
    names = ", ".join(one.probe.name for one in ran)
    looked = showing.looks_said(ran)
    return (
        f"{len(ran)} probe{'s' * (len(ran) != 1)} ({names}) of the pipeline before and after erasure, and {floor}. "
        f"{moved} weights differ from the base's. Held-out pictures: {source}. Judge: {named(case.judge)} "
        f"(calibrated on: {calibration_of(case.judge) or 'nothing that it says'}); "
        f"selector within searches: {named(case.selector)}." + f" {looked}" * bool(looked)
    )


def conclusions_of(
    verdict: Verdict, rows: Sequence[Row], ran: Sequence[Ran], case: Case, panel: Panel, same_judge: bool
) -> list[str]:
    """The verdict first, then why, and what to beware of."""
    lead = {"not suppressed": "NOT erased: ", "inconclusive": WARNING}.get(verdict.kind, "")
    by = "" if calibration_of(case.judge) else ", by a judge that was not calibrated"
    said = [f"{lead}{case.concept.name}: {verdict.kind}{by}.", *(f"{text}." for text in verdict.because)]
    said.append(f"Reversible: {verdict.reversible} ({verdict.reversible_because}).")
    if verdict.wanting:
        said.append(f"{WARNING}{_still_open(verdict, ran)}.")
    if panel.gold is None:
        said.append(f"{WARNING}{_NO_GOLD}.")
    if not calibration_of(case.judge):
        said.append(f"{WARNING}{named(case.judge)} {_UNCALIBRATED}.")
    if same_judge:
        said.append(f"{WARNING}{_SAME_JUDGE}.")
    if sham := _sham_says(rows):
        said.append(sham)
    if damage := damage_says(rows):
        said.append(damage)
    said += [
        f"{WARNING}{one.probe.name} could not be asked of the erased pipeline: {one.why[ERASED]}."
        for one in ran
        if ERASED in one.why
    ]
    return said


def _still_open(verdict: Verdict, ran: Sequence[Ran]) -> str:
    """What may decide what is open still."""
    wanting = [one for one in ran if one.probe.name in verdict.wanting]
    spent = [one.probe.name for one in wanting if one.probe.count and one.over]
    rest = [one.probe.name for one in wanting if one.probe.name not in spent]
    said = (
        [f"there are no more held-out pictures for {', '.join(spent)}: give more of them (pictures=)"] if spent else []
    )
    if rest:
        said.append(f"a larger more= (--more), or budgets= for {', '.join(rest)}, may decide it")
    return "few items leave this open; " + "; ".join(said)


def _sham_says(rows: Sequence[Row]) -> str:
    sham = [row for row in rows if row.probe.startswith(f"{SHAM} edit") and row.value is not None]
    if not sham:
        return ""
    worst = min(sham, key=lambda row: row.value or 0.0)
    what = f"random changes of the same weights by as much: {worst.title} has recovery {worst.value:.2f}"
    if (worst.high or 0.0) < 1 and (worst.value or 0.0) < 1 - _HARM:
        return f"{WARNING}{what}: an edit of this size does damage of its own."
    return f"Control: {what}, 1 is as before."


def damage_says(rows: Sequence[Row]) -> str:
    """What the erasure did to pictures without the concept, where that is much."""
    found = next((row for row in rows if row.role == "likelihood" and row.worse is not None), None)
    if found is None or found.worse is None or found.worse < _HARM:
        return ""
    said = f"{WARNING}the loss on pictures without the concept rose by {100 * found.worse:.0f} %"
    return f"{said}: it was damaged" + (" so much that its losses tell nothing of it." if is_damaged(found) else ".")
