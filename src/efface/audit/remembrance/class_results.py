"""What happened to each declared class, and the certificate that all of them make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.bootstrap import few_units
from efface.audit.remembrance.certificate import NOT_TESTABLE, Certificate, certify
from efface.audit.remembrance.classes import Class
from efface.audit.remembrance.effects import agresti_min
from efface.audit.remembrance.multiplicity import max_t
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
        p: P-value of no change, as it is; `Measured` has it adjusted for all that is claimed.
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
    first: Totals, classes: Sequence[Class], sums: Sums, plan: Plan
) -> tuple[tuple[ClassResult, ...], Certificate | None]:
    """Changes of all classes with simultaneous intervals; nothing where one has no answers of both arms."""
    few = len(classes)
    estimate, draws = (part[:few] for part in sums.ratio(NOW, N, THEN))
    rows = sums.exact[N][:few]
    if not rows.all():
        return (), None
    members = np.stack([each.members for each in classes]).astype(np.float64)
    # Resampling sees no spread where all rows agree; half a row lost and half a row gained are never out of the way.
    least = agresti_min(rows, estimate * rows, members @ first.mentioned.squares)[1]
    errors = np.maximum(np.nanstd(draws, axis=1), least)
    usual = NormalDist().inv_cdf(1 - plan.alpha / 2)
    # A bound is further out where units are few, as percentiles are; and never nearer than that of one class.
    errors *= np.array([few_units(1 - plan.alpha, units) for units in sums.units[:few].tolist()]) / usual
    critical = max(usual, max_t(draws - estimate[:, None], errors, level=1 - plan.alpha, two_sided=True))
    p = exchanged_p(sums.by_query[:few], plan.exchanges(few), plan.seed)
    before, after = (sums.exact[name][:few] / rows for name in (THEN, NOW))
    certificate = certify(estimate, errors, draws, margin=plan.margin, alpha=plan.alpha, min_power=plan.min_power)
    certificate = replace(certificate, **_silenced(classes, sums.queries[:few], np.maximum(before, after), plan))
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


def _silenced(classes: Sequence[Class], queries: NDArray[np.int64], most: Floats, plan: Plan) -> dict[str, str]:
    """Why nothing can be certified, if it cannot, whatever the bounds."""
    few = [each.title for each, n in zip(classes, queries.tolist(), strict=True) if not can_tell(n, plan.alpha)]
    low = [each.title for each, share in zip(classes, most.tolist(), strict=True) if share < plan.margin]
    if few:
        return {"status": NOT_TESTABLE, "why": f"too few questions ask for {few[0]}"}
    if low:
        return {
            "status": NOT_TESTABLE,
            "why": f"{low[0]} are named less often than the margin, and cannot lose as much",
        }
    return {}


def can_tell(queries: int, alpha: float) -> bool:
    """Whether a change that is the same in all queries could be significant, before and after exchanged in them.

    >>> can_tell(5, 0.05), can_tell(6, 0.05)
    (False, True)
    """
    return 2 * 0.5**queries <= alpha


def exchanged_p(by_query: Floats, exchanges: int, seed: int) -> Floats:
    """P-value of no change of each class: before and after exchanged in whole queries by fair coins.

    Args:
        by_query: Sum over a class of the changes in each query, `(classes, queries)`.
        exchanges: How many.
        seed: Seed of the coins.
    """
    own, reached = np.abs(by_query.sum(axis=1))[:, None] - 1e-9, np.zeros(len(by_query))
    rng, step = np.random.default_rng(seed), max(1, _NUMBERS // max(1, by_query.shape[1]))
    for start in range(0, exchanges, step):
        signs = rng.choice([-1.0, 1.0], size=(by_query.shape[1], min(step, exchanges - start)))
        reached += (np.abs(by_query @ signs) >= own).sum(axis=1)
    return (1 + reached) / (exchanges + 1)


_NUMBERS = 2**23
