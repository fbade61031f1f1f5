"""S5: who was suppressed and who elevated, of those of whom it can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efface.audit.remembrance.effects import Changes, Evidence, evidence, power_to_see, shrunk
from efface.audit.remembrance.multiplicity import Rule, adjusted

Floats = NDArray[np.float64]
SUPPRESSED, ELEVATED, NO_EVIDENCE, NOT_TESTABLE = "suppressed", "elevated", "no evidence", "not testable"


@dataclass(frozen=True, eq=False)
class Standing:
    """Every entity with its change and what may be said of it; columns are `(entities,)`.

    Attributes:
        found: The changes.
        error: Their standard errors.
        p: P-value of no change; NaN where it was not tested.
        q: The same, adjusted for all that were tested.
        power: Chance to see a loss of the margin, by a single test.
        shrunk: Change less what chance explains; NaN where it was not tested.
        status: `"suppressed"`, `"elevated"`, `"no evidence"`, or `"not testable"`: nothing was found, and would have
            been too rarely.
    """

    found: Changes
    error: Floats
    p: Floats
    q: Floats
    power: Floats
    shrunk: Floats
    status: NDArray[np.str_]

    def listed(self, status: str) -> NDArray[np.int64]:
        """Places of those of a status, the largest shrunk change first."""
        there = np.flatnonzero(self.status == status)
        return there[np.lexsort((there, -np.abs(self.shrunk[there])))]


def stand(
    found: Changes,
    tested: NDArray[np.bool_],
    *,
    margin: float = 0.05,
    fdr: float = 0.05,
    alpha: float = 0.05,
    min_power: float = 0.5,
    rule: Rule = "bh",
    flips: int = 2000,
    seed: int = 0,
    exact: bool = True,
    tests: Evidence | None = None,
) -> Standing:
    """Test each entity, and say of whom nothing was found whether anything could have been.

    What decides who is tested must not hang on who lost, or the tests of the others would not hold. Left out are those
    with so few queries that turned, either way, that all of them together could not be significant (Tarone, Biometrics
    46, 1990); churn, which power hangs on, is that of all together.

    Args:
        found: Changes of each entity.
        tested: Whom to test, `(entities,)`: bystanders.
        margin: The loss that a test has to be able to see.
        fdr: False discovery rate of the lists.
        alpha: Level at which power is said.
        min_power: Below this power whoever is not named is not testable.
        rule: Adjustment.
        flips: Exchanges for graded outcomes.
        seed: Seed of these.
        exact: Whether outcomes are hits, and not grades.
        tests: The tests, where they were made already.
    """
    tests = evidence(found, flips=flips, seed=seed, exact=exact) if tests is None else tests
    # Who is remembered less than the margin cannot lose it: of grades nothing of the kind is known.
    most = np.minimum(margin, np.maximum(found.before, found.after)) if exact else margin
    power = power_to_see(found.n, most, found.churn(tested), alpha=alpha)
    there = tested & (found.n > 0)
    able = there & (0.5**tests.turned <= fdr)
    p, q, small = (np.full(len(found.n), np.nan) for _ in range(3))
    p[able] = tests.p[able]
    q[able] = adjusted(p[able], rule)
    small[there] = shrunk(found.change[there], found.error[there])
    status = _status(found, q, there & (power >= min_power), fdr)
    return Standing(found, found.error, p, q, power, small, status)


def stricter(one: Standing, factor: float, *, fdr: float, min_power: float) -> Standing:
    """The same with q-values so many times as large, and the statuses that follow."""
    q = np.minimum(1.0, one.q * factor)
    seen = np.isfinite(one.shrunk) & (one.power >= min_power)
    return replace(one, q=q, status=_status(one.found, q, seen, fdr))


def _status(found: Changes, q: Floats, seen: NDArray[np.bool_], fdr: float) -> NDArray[np.str_]:
    """What may be said of each, of whom something could be seen or not."""
    told = q <= fdr  # not where it is NaN
    return np.select([told & (found.change < 0), told, seen], [SUPPRESSED, ELEVATED, NO_EVIDENCE], NOT_TESTABLE)
