"""What an edit of embeddings did to their similarities, which is what most users of embeddings live on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.audit.vectors.unit_rows import unit_rows
from efface.core.arrays import read_array
from efface.core.column_names import check_same_rows, compare_tables
from efface.core.doors import check_call
from efface.core.labels import read_groups
from efface.core.provenance import called, provenance
from efface.report.data import AFTER, BEFORE, CHANGE, NO_CHANGE
from efface.report.numbers import format_value as number
from efface.stats.intervals import bootstrap_interval, paired_interval

Floats = NDArray[np.float64]

FAMILY = "cosine similarity"
SELF, RANKS, PAIRS, OTHERS = "with itself", "order of the others", "pairs", "all others"
_FEWEST = 3
_NAMED = {
    PAIRS: "of the two of a pair, which differ in the concept alone",
    OTHERS: "of each with all others",
}


def similarity(
    before: Any,
    after: Any,
    *,
    pairs: Any = None,
    groups: Any = None,
    name: str = "the concept",
    title: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Compare cosine similarities among the same embeddings before and after an edit.

    Findings, of family `"cosine similarity"`: `"with itself"` (an embedding after the edit with the same before it);
    `"order of the others"` (for each embedding, the correlation over all others of their similarity with it before and
    after: 1 if the edit leaves neighbours alone); `"all others"` and, with `pairs`, `"pairs"`: mean similarities before
    and after, and their paired change.

    Args:
        before: Embeddings `(n, d)`.
        after: The same after the edit, `(n, e)`; where e is not d, `"with itself"` is left out.
        pairs: Index pairs `(p, 2)` of rows that differ in the concept alone.
        groups: What depends on each other, `(n,)`; intervals resample whole groups.
        name: What to call the concept on the page.
        title: Title of the audit.
        level: Confidence level of the intervals.
        seed: Seed of the resampling.

    Raises:
        InputError: If there are under three rows, a row is zero or not finite, or lengths or pairs do not fit.

    Does not guarantee: that what changed has to do with the concept; compare with the change that a random subspace of
    equal rank makes. Memory is `2 n^2` numbers.

    >>> x = np.eye(4)
    >>> similarity(x, 2 * x).find("cosine similarity", "with itself", "after").value
    1.0
    """
    check_call(similarity, locals())
    call = called("efface.audit.similarity", locals())
    check_same_rows(before=before, after=after, groups=groups)
    compare_tables(before, after, ("before", "after"))
    x, y = unit_rows(before, "before", least=_FEWEST), unit_rows(after, "after", least=_FEWEST)
    if len(x) != len(y):
        raise InputError(f"before has {len(x)} rows and after {len(y)}: give the same embeddings in the same order")
    units = None if groups is None else read_groups(groups)
    if units is not None and units.shape != (len(x),):
        raise InputError(f"groups has shape {units.shape}, expected ({len(x)},): one a row")
    options: dict[str, Any] = {"level": level, "seed": seed}
    first, second = x @ x.T, y @ y.T
    grouped: dict[str, Any] = {"groups": units} | options

    counted: dict[str, Any] = {"n": len(x), "seed": seed}
    findings = []
    if x.shape == y.shape:
        findings.append(Finding.of(SELF, bootstrap_interval((x * y).sum(1), **grouped), FAMILY, AFTER, **counted))
    order = bootstrap_interval(_correlations(first, second), **grouped)
    findings.append(Finding.of(RANKS, order, FAMILY, AFTER, **counted))
    findings += _compared(OTHERS, _of_others(first), _of_others(second), grouped)
    if pairs is not None:
        at = _pairs(pairs, len(x))
        of_pairs = options | {"groups": None if units is None else units[at[:, 0]]}
        findings += _compared(PAIRS, first[at[:, 0], at[:, 1]], second[at[:, 0], at[:, 1]], of_pairs)
    return Audit(
        title or f"What erasing {name} does to similarities",
        text=(f"{len(x):,} embeddings; cosine similarities among them before and after the edit.",),
        conclusions=tuple(_conclusions(findings)),
        findings=tuple(findings),
        figures=(_figure(findings),),
        settings={"rows": len(x), "seed": seed, "level": level},
        provenance=provenance(data={"before": before, "after": after, "groups": units}, seed=seed, call=call),
    )


def _pairs(pairs: Any, n: int) -> NDArray[np.int64]:
    found = read_array(pairs, "pairs").values
    at = found.cpu().numpy() if isinstance(found, Tensor) else found
    if at.ndim != 2 or at.shape[1] != 2 or not np.issubdtype(at.dtype, np.integer):
        raise InputError(
            f"pairs has shape {at.shape} of {at.dtype}, expected (p, 2) integers: rows that belong together"
        )
    if len(at) == 0 or at.min() < 0 or at.max() >= n:
        raise InputError(f"pairs must name rows between 0 and {n - 1}, and at least one pair")
    return at


def _off_diagonal(similarity: Floats) -> Floats:
    """`(n, n - 1)`: each with all others."""
    n = len(similarity)
    return similarity[~np.eye(n, dtype=bool)].reshape(n, n - 1)


def _of_others(similarity: Floats) -> Floats:
    return _off_diagonal(similarity).mean(axis=1)


def _correlations(first: Floats, second: Floats) -> Floats:
    """For each embedding, the correlation over the others of its similarities before and after."""
    a, b = (rows - rows.mean(1, keepdims=True) for rows in map(_off_diagonal, (first, second)))
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    if not np.all(spread > 0):
        # All others are equally near: their order is the same where it is so on both sides.
        same = ((a * a).sum(1) == 0) & ((b * b).sum(1) == 0)
        return np.where(same, 1.0, (a * b).sum(1) / np.where(spread > 0, spread, 1.0))
    return (a * b).sum(1) / spread


def _compared(name: str, before: Floats, after: Floats, options: dict[str, Any]) -> list[Finding]:
    counted: dict[str, Any] = {"n": len(before), "seed": options["seed"]}
    sides = [(BEFORE, bootstrap_interval(before, **options)), (AFTER, bootstrap_interval(after, **options))]
    found = [Finding.of(name, interval, FAMILY, condition, **counted) for condition, interval in sides]
    change = paired_interval(after, before, **options)
    counted |= {"chance": 0.0, "reference": NO_CHANGE, "baseline": sides[0][1].value}
    return [*found, Finding.of(name, change, FAMILY, CHANGE, **counted)]


def _conclusions(findings: list[Finding]) -> list[str]:
    by = {(f.name, f.condition): f for f in findings}
    said = []
    if (SELF, AFTER) in by:
        said.append(f"An embedding and the same one after the edit have a cosine of {number(by[SELF, AFTER].value)}.")
    said.append(
        f"Similarities with the others before and after the edit correlate at {number(by[RANKS, AFTER].value)}."
    )
    for name, words in _NAMED.items():
        if (name, CHANGE) in by:
            change = by[name, CHANGE]
            ends = f"from {number(by[name, BEFORE].value)} to {number(by[name, AFTER].value)}"
            said.append(f"The mean similarity {words} goes {ends}: {change.verdict}.")
    return said


def _figure(findings: list[Finding]) -> Figure:
    shown = [f for f in findings if f.name in (OTHERS, PAIRS)]
    return Figure(
        "Mean similarities before and after",
        tuple(Series.of(side, [f for f in shown if f.condition == side]) for side in (BEFORE, AFTER)),
        x_label="cosine similarity",
        caption="Whiskers are intervals; changes are paired and better known (see the table).",
    )
