"""S10: a certificate of non-inferiority. Finding no significant difference is none: few rows find nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._lazy import require
from efface.audit.remembrance.columns import EXTRA
from efface.audit.remembrance.multiplicity import max_t

Floats = NDArray[np.float64]
CERTIFIED, NOT_CERTIFIED, NOT_TESTABLE = "certified", "not certified", "not testable"


@dataclass(frozen=True, eq=False)
class Certificate:
    """Simultaneous lower bounds on the change of each declared class.

    Attributes:
        margin: The loss delta that was to be ruled out.
        lower: Bound of each class, `(classes,)`.
        critical: How many standard errors it lies below the estimate.
        smallest: The smallest margin that can be certified: `max(0, -min_c L_c)`, at most 1.
        power: Chance to be certified at the margin if nothing changed in truth, of the class with the widest error.
        factor: By how much more there would have to be of what was resampled (queries and entities alike) for the
            margin; None where a class is estimated to lose that much.
        status: `"certified"`, `"not certified"`, or `"not testable"` where no class is estimated to lose as much and
            power is too low to tell.
        why: What keeps it from being testable, other than power.
    """

    margin: float
    lower: Floats
    critical: float
    smallest: float
    power: float
    factor: float | None
    status: str
    why: str = ""


def certify(
    change: ArrayLike,
    errors: ArrayLike,
    draws: ArrayLike,
    *,
    margin: float,
    alpha: float = 0.05,
    min_power: float = 0.5,
) -> Certificate:
    """Is each class's loss ruled out to reach the margin, all at once?

    `L_c = Delta_c - k se_c`, with k the quantile at `1 - alpha` of `max_c (Delta*_c - Delta_c) / se_c` over resamples,
    and never less than the normal quantile; certified iff `min_c L_c > -delta`.

    Args:
        change: Mean change of each class, `(classes,)`.
        errors: Standard error of each, above 0.
        draws: Resampled changes, `(classes, draws)`.
        margin: The loss delta, above 0.
        alpha: Chance of a wrong certificate.
        min_power: Below this power what is not certified is not testable.

    Raises:
        InputError: If there is no class, or the margin is not above 0.

    >>> rng = np.random.default_rng(0)
    >>> certify([0.0], [0.01], rng.normal(0, 0.01, (1, 2000)), margin=0.05).status
    'certified'
    """
    change, errors = np.asarray(change, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if not len(change) or not margin > 0:
        raise InputError(f"a certificate needs at least one class and a margin above 0, got {len(change)} and {margin}")
    norm = require("scipy.stats", extra=EXTRA).norm
    noise = np.asarray(draws, dtype=np.float64) - change[:, None]
    # One resample stands for the others: its own rounding must not make the bound less than that of one class.
    critical = max(max_t(noise, errors, level=1 - alpha, two_sided=False), float(norm.ppf(1 - alpha)))
    lower = change - critical * errors
    smallest = min(1.0, max(0.0, -float(lower.min())))
    power = float(norm.cdf(margin / errors.max() - critical))
    room = margin + change
    factor = float(((critical * errors / room) ** 2).max()) if (room > 0).all() else None
    certified = float(lower.min()) > -margin
    told = power >= min_power or factor is None
    status = CERTIFIED if certified else NOT_CERTIFIED if told else NOT_TESTABLE
    return Certificate(margin, lower, critical, smallest, power, factor, status)


def excess(value: float, placebos: ArrayLike) -> tuple[float, float]:
    """How far a statistic lies above its mean over placebos, and `p = (1 + #{T_j >= T}) / (J + 1)`.

    From 19 placebos on p can be 0.05.

    >>> excess(3.0, [1.0, 2.0, 1.5])
    (1.5, 0.25)
    """
    placebos = np.asarray(placebos, dtype=np.float64)
    return float(value - placebos.mean()), (1 + int((placebos >= value).sum())) / (len(placebos) + 1)
