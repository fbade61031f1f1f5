"""What erasing cost, in loss: one site at a time against a random control, and the whole model (amnesic probing)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.audit import Audit
from efface.audit.finding import Finding
from efface.audit.states import cost_text
from efface.audit.states.cost_text import CONTROLLED, DIFFERENCE, ERASED, LOSS, NONE, WHOLE
from efface.audit.states.pictures import change_by_site, loss_by_condition
from efface.audit.states.reading import Floats, check_mapping, check_same_sites, read_column, read_losses, read_values
from efface.core.doors import check_call
from efface.core.provenance import called, provenance
from efface.report.data import CHANGE, NO_CHANGE, NO_DIFFERENCE
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval


def losses(
    unscrubbed: Any,
    sites: Mapping[str, Mapping[str, Any]] | None = None,
    whole: Mapping[str, Any] | None = None,
    *,
    control: str = "random",
    per: Any = None,
    unit: str = "bits",
    groups: Any = None,
    lines: Mapping[str, float] | None = None,
    name: str = "the concept",
    title: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Compare losses of the same sequences: as the model is, with one site erased, and with the whole model scrubbed.

    Amnesic probing (Elazar et al., arXiv:2006.00995): if the model uses the concept, taking it out must cost more than
    taking out a random subspace of equal rank. Every change is paired: each sequence is compared with itself.

    The mean loss is `sum(loss) / sum(per)`: with bits of each sequence and `per` its bytes, bits per byte.

    - By site (LEACE, arXiv:2306.03819, section 5.3): for each way to erase, a family with the site as name and the
      conditions `"erased"` and `"control"` (changes of the loss against the unscrubbed model) and `"difference"`
      (erased minus control).
    - Whole model (their table 1): family `"whole model"`, the way to erase as name, and the conditions `"loss"`,
      `"change"` (against the unscrubbed model) and `"difference"` (against the control).

    Args:
        unscrubbed: Loss of each sequence, `(n,)`, of the model as it is.
        sites: Way to erase -> site -> losses `(n,)` when that site alone is erased. The way called `control`, if it is
            there, needs the same sites.
        whole: Way to erase -> losses `(n,)` when the whole model is scrubbed.
        control: Name of the way that takes out a random subspace of equal rank.
        per: What to divide by, `(n,)`, e.g. bytes of each sequence; None takes the mean over sequences.
        unit: Unit of the mean loss, e.g. `"bits per byte"`.
        groups: What depends on each other, `(n,)`, e.g. the file of each sequence: intervals resample whole groups.
        lines: Name -> mean loss to compare with that no sequence stands behind, e.g. the unigram entropy.
        name: What to call the concept on the page.
        title: Title of the audit.
        level: Confidence level of the intervals.
        seed: Seed of the resampling.

    Returns:
        An `Audit` with a part for the whole model and a part by site, as far as they are given.

    Raises:
        InputError: If neither `sites` nor `whole` is given, sites differ from the control's, lengths differ, or
            losses hold NaN.

    Does not guarantee: that the control had equal rank, that the losses are of the same sequences in the same order,
    or that a small change means that the concept is not used: what is left elsewhere may stand in for it.

    >>> plain = np.array([10.0, 12.0, 14.0, 11.0])
    >>> audit = losses(plain, {"leace": {"h.0": plain + [2, 3, 2, 4]}, "random": {"h.0": plain + [0, 1, 0, 1]}})
    >>> finding = audit.find("leace", "h.0", "difference")
    >>> finding.value, finding.verdict
    (2.25, 'higher than the control')
    """
    check_call(losses, locals())
    call = called("efface.audit.losses", locals())
    plain = read_values(unscrubbed, "unscrubbed")
    n = len(plain)
    if not sites and not whole:
        raise InputError("give sites={way: {site: losses (n,)}}, whole={way: losses (n,)}, or both")
    scale = None if per is None else _denominator(read_values(per, "per", n))
    measure = _Measure(plain, scale, read_column(groups, "groups", n), unit, level, seed)
    by_site = _read_sites(sites, control, n) if sites else {}
    ways = _read_whole(whole, n) if whole else {}
    parts = [_whole(ways, lines or {}, control, measure)] if ways or lines else []
    parts += [_by_site(by_site, control, measure)] if by_site else []
    data = {"unscrubbed": plain, "sites": by_site or None, "whole": ways or None, "per": scale}
    findings = [f for part in parts for f in part.findings]
    return Audit(
        title or f"What erasing {name} costs",
        text=cost_text.method(n, groups=measure.groups, control=control, unit=unit),
        conclusions=tuple(cost_text.conclusions(findings, name, control)),
        caveats=cost_text.CAVEATS,
        settings={"sequences": n, "control": control, "unit": unit, "seed": seed, "level": level},
        provenance=provenance(data=data, seed=seed, call=call),
        parts=tuple(parts),
    )


@dataclass(frozen=True)
class _Measure:
    """Losses of the unscrubbed model `(n,)`, and how to compare others with them."""

    plain: Floats
    per: Floats | None
    groups: NDArray[Any] | None
    unit: str
    level: float
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        return {"groups": self.groups, "level": self.level, "seed": self.seed}

    def loss(self, loss: Floats) -> Interval:
        return bootstrap_interval(loss, self.per, **self.options)

    def change(self, loss: Floats, other: Floats | None = None) -> Interval:
        return paired_interval(loss, self.plain if other is None else other, self.per, **self.options)

    def finding(self, family: str, name: str, condition: str, interval: Interval, **more: Any) -> Finding:
        return Finding.of(name, interval, family, condition, n=len(self.plain), seed=self.seed, unit=self.unit, **more)

    def changed(self, family: str, name: str, condition: str, loss: Floats) -> Finding:
        """Change against the unscrubbed model."""
        more = {"chance": 0.0, "reference": NO_CHANGE, "baseline": self.loss(self.plain).value}
        return self.finding(family, name, condition, self.change(loss), **more, note=cost_text.CHANGE_NOTE)

    def differs(self, family: str, name: str, loss: Floats, control: Floats) -> Finding:
        """Difference from the control."""
        more = {"chance": 0.0, "reference": NO_DIFFERENCE, "baseline": self.change(control).value}
        return self.finding(
            family, name, DIFFERENCE, self.change(loss, control), **more, note=cost_text.DIFFERENCE_NOTE
        )


def _whole(ways: Mapping[str, Floats], lines: Mapping[str, float], control: str, measure: _Measure) -> Audit:
    findings = [measure.finding(WHOLE, NONE, LOSS, measure.loss(measure.plain))]
    # The control first, so that what is compared with it stands below it.
    for way in sorted(ways, key=lambda way: way != control):
        loss = ways[way]
        findings.append(measure.finding(WHOLE, way, LOSS, measure.loss(loss)))
        findings.append(measure.changed(WHOLE, way, CHANGE, loss))
        if control in ways and way != control:
            findings.append(measure.differs(WHOLE, way, loss, ways[control]))
    findings += [
        Finding(line, float(value), WHOLE, LOSS, unit=measure.unit, note="given as a number, to compare with")
        for line, value in lines.items()
    ]
    losses = [f for f in findings if f.condition == LOSS]
    figure = loss_by_condition("Loss of the whole model", losses, unit=measure.unit)
    return Audit("The whole model", findings=tuple(findings), figures=(figure,))


def _by_site(losses: Mapping[str, Mapping[str, Floats]], control: str, measure: _Measure) -> Audit:
    random = losses.get(control)
    findings: list[Finding] = []
    for way, by_site in losses.items():
        if way == control and len(losses) > 1:
            continue
        for site, loss in by_site.items():
            findings.append(measure.changed(way, site, ERASED, loss))
            if random is not None and way != control:
                findings.append(measure.changed(way, site, CONTROLLED, random[site]))
                findings.append(measure.differs(way, site, loss, random[site]))
    return Audit(
        "One site at a time",
        text=(cost_text.SITES_TEXT,),
        findings=tuple(findings),
        figures=(change_by_site("What does each site cost?", _series(findings, control), unit=measure.unit),),
    )


def _series(findings: list[Finding], control: str) -> list[tuple[str, list[Finding]]]:
    ways = list(dict.fromkeys(f.family for f in findings))
    series = [(way, [f for f in findings if f.family == way and f.condition == ERASED]) for way in ways]
    controls = [f for f in findings if f.family == ways[0] and f.condition == CONTROLLED]
    return [(control, controls), *series] if controls else series


def _read_sites(sites: Any, control: str, n: int) -> dict[str, dict[str, Floats]]:
    losses = read_losses(sites, "sites", n)
    for way, by_site in losses.items():
        if control in losses:
            check_same_sites(by_site, losses[control], (f"sites[{way!r}]", f"sites[{control!r}]"))
    return losses


def _read_whole(whole: Any, n: int) -> dict[str, Floats]:
    ways = check_mapping(whole, "whole", "(n,)")
    if NONE in ways:
        raise InputError(f"whole has {NONE!r}, the name of the unscrubbed model: pass those losses as unscrubbed")
    return {str(way): read_values(loss, f"whole[{way!r}]", n) for way, loss in ways.items()}


def _denominator(per: Floats) -> Floats:
    if float(per.min()) < 0 or not np.any(per > 0):
        raise InputError("per has negative values or zeros only: give e.g. the bytes of each sequence")
    return per
