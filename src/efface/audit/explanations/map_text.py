"""What follows from how maps did next to controls, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from efface.audit.explanations.measured import CONTROL, MAP, OVER, SIZE, Subject, family, kept_at, removed_at
from efface.audit.finding import Finding, spanned
from efface.report.numbers import format_value

CAVEATS = (
    "A map says what this model needs in order to keep its answer when the rest is replaced, and in the way in which "
    "it was replaced. Another replacement gives another map.",
    "There is no ground truth here: nothing says that what the model needs is what the class is about.",
    "A masked picture is like none that the model was trained on, and may fail it for that alone. The controls are "
    "masked in the same way; read every number next to theirs.",
)
_FEW, _NOTHING = 30, 0.01


def conclude(
    subjects: Sequence[Subject], findings: Sequence[Finding], bests: Mapping[str, str], *, n: int, at: float
) -> tuple[str, ...]:
    """A sentence or two of each map, and one if there are few images."""
    lines = [line for subject in subjects for line in _of_subject(subject, findings, bests[subject.name], n, at)]
    if n < _FEW:
        lines.append(f"{n} image{'s are' if n > 1 else ' is'} few: the intervals are wide, and rankings may turn.")
    return tuple(lines)


def _of_subject(subject: Subject, findings: Sequence[Finding], best: str, n: int, at: float) -> Iterator[str]:
    on = f" on {subject.name}" if subject.name else ""
    there = {(f.family, f.name, f.condition): f for f in findings}
    control, ours = there[family(CONTROL, subject), best, kept_at(at)], family(MAP, subject)
    for name in subject.methods:
        kept = there[ours, name, kept_at(at)]
        gone = there[ours, name, removed_at(at)]
        over = there.get((ours, name, OVER))
        said = (
            f"{name}{on}: the {100 * at:g}% of pixels that it ranks highest keep the model's answer in "
            f"{spanned(kept)} of {n} images; the best control, {best}, in {format_value(control.value, 'share')}. "
            f"Without them the answer stays in {format_value(gone.value, 'share')}."
        )
        beaten = over is not None and over.side is not None and over.side <= 0
        yield f"NOT clearly better than a control. {said}" if beaten else said
        size = there.get((ours, name, SIZE))
        if size is not None and size.value < _NOTHING:
            yield (
                f"NOT much to explain: the masks of {name}{on} keep {format_value(size.value, 'share')} of the images. "
                "Of what stands where something is removed the model says nearly what it says of the images; another "
                "removal may tell them apart."
            )
