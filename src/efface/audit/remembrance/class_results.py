"""What happened to each declared class, and the certificate that all of them make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.certificate import Certificate, certify
from efface.audit.remembrance.classes import Class
from efface.audit.remembrance.effects import agresti_min
from efface.audit.remembrance.multiplicity import adjusted, max_t
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.sums import NOW, THEN, N, Sums
from efface.audit.remembrance.totals import Totals

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassResult:
    """What happened to one class.

    Attributes:
        of: The class.
        entities: How many of them were asked for.
        before: Share of relevant rows that hit before.
        after: The same after.
        change: Their difference.
        low: Lower end of the simultaneous interval of the change.
        high: Upper end.
        p: P-value of no change, adjusted for all classes by Holm.
        lower: One-sided bound of the certificate.
        refused: Share of its rows whose answer was refused or failed after and not before, less the other way round.
    """

    of: Class
    entities: int
    before: float
    after: float
    change: float
    low: float
    high: float
    p: float
    lower: float
    refused: float


def class_results(
    first: Totals, classes: Sequence[Class], sums: Sums, squares: Floats, plan: Plan
) -> tuple[tuple[ClassResult, ...], Certificate | None]:
    """Changes of all classes with simultaneous intervals; nothing where one has no answers of both arms."""
    few = len(classes)
    estimate, draws = (part[:few] for part in sums.ratio(NOW, N, THEN))
    rows = sums.exact[N][:few]
    if not rows.all():
        return (), None
    members = np.stack([each.members for each in classes]).astype(np.float64)
    # Resampling sees no spread where all rows agree; half a row lost and half a row gained are never out of the way.
    least = agresti_min(rows, estimate * rows, members @ squares)[1]
    errors = np.maximum(np.nanstd(draws, axis=1), least)
    certificate = certify(estimate, errors, draws, margin=plan.margin, alpha=plan.alpha, min_power=plan.min_power)
    critical = max_t(draws - estimate[:, None], errors, level=1 - plan.alpha, two_sided=True)
    p = adjusted(_exchanged(sums.by_query[:few], plan), "holm")
    before, after = (sums.exact[name][:few] / rows for name in (THEN, NOW))
    refused = members @ first.refused / np.maximum(members @ first.asked, 1)
    results = (
        ClassResult(
            each,
            int(each.members.sum()),
            *(float(v) for v in (
                before[i], after[i], estimate[i], max(-1.0, estimate[i] - critical * errors[i]),
                min(1.0, estimate[i] + critical * errors[i]), p[i], certificate.lower[i], refused[i],
            )),
        )
        for i, each in enumerate(classes)
    )  # fmt: skip
    return tuple(results), certificate


def _exchanged(by_query: Floats, plan: Plan) -> Floats:
    """P-value of no change of each class: before and after exchanged in whole queries by fair coins."""
    signs = np.random.default_rng(plan.seed).choice([-1.0, 1.0], size=(by_query.shape[1], plan.draws))
    reached = np.abs(by_query @ signs) >= np.abs(by_query.sum(axis=1))[:, None] - 1e-9
    return (1 + reached.sum(axis=1)) / (plan.draws + 1)
