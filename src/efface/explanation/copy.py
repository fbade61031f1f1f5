"""What DiET's tuned copy is like: how often it agrees with the model, and what its masks cost."""

from __future__ import annotations

from torch import Tensor, nn

from efface.attribution.fitted import DietErasure
from efface.attribution.predictions import predict
from efface.audit.audit import Audit
from efface.audit.finding import Finding
from efface.report.numbers import format_value
from efface.stats.intervals import wilson_interval


def about_copy(fitted: DietErasure, student: nn.Module, x: Tensor, said: Tensor) -> Audit:
    """A part of an audit about the copy.

    Args:
        fitted: What tuning found.
        student: The copy.
        x: The images that are explained.
        said: Probabilities of the model for them, `(n, classes)`, on the CPU.
    """
    theirs = predict(student, x, outputs=fitted.search.outputs, batch_size=fitted.batch_size).cpu()
    same = int((theirs.argmax(1) == said.argmax(1)).sum())
    share = wilson_interval(same, len(said))
    report = fitted.report
    change = report["change"]
    untuned = report["stopped_by_guard"] and sum(len(r["epochs"]) for r in report["rounds"]) == 1
    warning = (
        "NOT tuned: the first epoch made copy and model disagree more than allowed, so it was taken back, and the copy "
        "is the model. Tune on more images, or with a smaller rate: DiET(..., rate=2e-5).",
    )
    return Audit(
        "The tuned copy",
        text=(
            "DiET explains a copy of the model, tuned on "
            f"{report['n']} images without labels until what its masks leave out no longer moves it. Where the copy "
            "and the model disagree, the copy's map says nothing of the model.",
        ),
        conclusions=(
            *(warning if untuned else ()),
            f"On the images explained, copy and model say the same in {format_value(share.value, 'share')} "
            f"({format_value(share.low, 'share')} to {format_value(share.high, 'share')}).",
            f"Taking away what the masks of the tuning images leave out moves the model's probabilities by "
            f"{change['model']:.3f} and the copy's by {change['student']:.3f} (sum over classes, 0 to 2).",
        ),
        findings=(
            Finding.of("says what the model says", share, "tuned copy", n=len(said), unit="share"),
            Finding("says what the model says, on the tuning images", report["agreement"], "tuned copy", unit="share"),
            Finding("moved by removing the distractors", change["student"], "tuned copy"),
            Finding("moved by removing the distractors", change["model"], "model"),
        ),
        settings={"passes": report["passes"], "stopped by its guard": report["stopped_by_guard"]},
    )
