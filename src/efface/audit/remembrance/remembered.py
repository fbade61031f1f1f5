"""Who and what else was suppressed or elevated, that nobody asked to erase?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from efface._errors import InputError
from efface._validate import check_int, check_positive_int
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Table
from efface.audit.remembrance import findings as of
from efface.audit.remembrance import tables
from efface.audit.remembrance.bootstrap import Resample
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.measured import Measured, Plan, measure
from efface.audit.remembrance.panel import InMemory
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.streamed import StreamedLedger
from efface.audit.remembrance.text import INTRODUCTION, caveats, conclude
from efface.core.doors import check_call, check_word
from efface.core.provenance import called, provenance
from efface.stats.intervals import check_draws

Standard = Literal["merit", "popularity", "uniform"]
Outcome = Literal["hit", "score"]
Dependence = Literal["positive", "arbitrary"]


def remembered(
    before: Any,
    after: Any = None,
    registry: Registry | None = None,
    *,
    truth: Any = None,
    target: Sequence[Any] = (),
    again: Any = None,
    placebos: Sequence[Any] = (),
    outcome: Outcome = "hit",
    standard: Standard = "merit",
    margin: float = 0.05,
    fdr: float = 0.05,
    alpha: float = 0.05,
    min_power: float = 0.5,
    dependence: Dependence = "positive",
    resample: Resample = "both",
    draws: int = 2000,
    smallest_cell: int = 5,
    listed: int = 10,
    title: str = "Who is still remembered?",
    seed: int = 0,
) -> Audit:
    """What an erasure did to everyone else, next to what it did to its target.

    Findings: families `"target"` and `"bystanders"`, `"remembered"` before, after and as change; of bystanders also
    `"omission"`, `"remembered, given before"` (before again, after) and `"collateral"`; `"certificate"`, `"attention"`,
    `"popularity"`, `"likeness"` and `"answers"`. Tables name who was suppressed and elevated, and what happened to
    each declared class.

    Args:
        before: A `Ledger` with the arms `"before"`, `"after"`, and where there are any `"before again"` and such that
            begin with `"placebo"`; or a `StreamedLedger`, of more rows than memory holds; or a table that
            `Ledger.of_table` reads; or what a classifier said of each row before, `(n,)`.
        after: What it said after; None with a ledger.
        registry: Who may be remembered. None takes who is there, with nothing known about them.
        truth: True class of each row, with predictions: who should be named there.
        target: Who was to be erased, where there is no registry.
        again: With predictions: what another run before said.
        placebos: With predictions: what was said after erasures that should not matter.
        outcome: What is tested of each entity: whether it was mentioned, or its score. All else is of mentions.
        standard: What attention is due: by merit, by popularity, or to all alike.
        margin: The loss, as a share of answers, that tests have to be able to see and the certificate rules out.
        fdr: Share of wrong names that the lists may have.
        alpha: 1 less the confidence of intervals and of the certificate; level of tests of classes.
        min_power: Power for the margin below which it is said of who is not named that nothing could have been found.
        dependence: `"arbitrary"` is safe whatever the tests of entities have in common (Benjamini and Yekutieli).
        resample: `"queries"` where the entities asked for are all there are, such as the classes of a classifier;
            `"both"` where they stand for others like them.
        draws: Resamples, at least 2 / alpha: with fewer there is no such percentile.
        smallest_cell: Classes of fewer entities are not shown.
        listed: How many names a table shows at most.
        title: Title of the audit.
        seed: Seed of resampling.

    Raises:
        InputError: If arms are unbalanced, someone is not in the registry, merit is missing, or nobody but the target
            is asked for.
        MissingExtraError: If scipy or statsmodels is not installed.

    Does not guarantee: that what was asked is what matters, that merit is right, or that those who are alike in all
    that was declared are treated alike. Queries are taken to be independent of each other.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 4, 2000)
    >>> said = np.where(rng.random(2000) < 0.9, truth, (truth + 1) % 4)
    >>> gone = np.where(said == 3, 0, said)
    >>> audit = remembered(said, gone, truth=truth, target=[3], resample="queries", draws=200)
    >>> print(audit.conclusions[0])
    The target is named in 0.0% (0.0% to 0.7%) of the answers that ask for it, 91.2% before.
    >>> audit.find("bystanders", "remembered", "change").verdict
    'no clear change'
    """
    check_call(remembered, locals())
    call = called("efface.audit.remembered", locals())
    words = {"outcome": Outcome, "standard": Standard, "dependence": Dependence, "resample": Resample}
    for name, hint in words.items():
        check_word(locals()[name], hint, name)
    check_int(seed, "seed", least=0)
    check_positive_int(listed, "listed")
    check_positive_int(smallest_cell, "smallest_cell")
    for name, value in {"margin": margin, "fdr": fdr, "alpha": alpha, "min_power": min_power}.items():
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}: write a number between 0 and 1")
    check_draws(draws, alpha)
    ledger = _ledger(before, after, truth, again, placebos)
    who = _registry(registry, ledger, target)
    rule = "bh" if dependence == "positive" else "by"
    plan = Plan(outcome, margin, fdr, alpha, min_power, rule, draws, resample, smallest_cell, seed)
    streamed = isinstance(ledger, StreamedLedger)
    if streamed and outcome != "hit":
        raise InputError("outcome='score' needs all rows at once: write outcome='hit', or give a Ledger")
    found = measure(ledger if streamed else InMemory(ledger), who, plan)
    findings = (*of.headline(found), *of.certificate(found))
    settings = {
        "arms": list(ledger.arms),
        "entities": len(who),
        "queries": len(ledger.queries),
        "answers in an arm": len(found.panel.asked),
        "rows": len(ledger),
        "attention": ledger.attention,
        "standard": standard,
        **{name: value for name, value in vars(plan).items() if name != "rule"},
        "dependence": dependence,
    }
    return Audit(
        title,
        text=INTRODUCTION,
        conclusions=conclude(found, findings),
        findings=findings,
        caveats=caveats(found),
        settings=settings,
        provenance={**provenance(seed=seed, call=call), "ledger": [{"name": "ledger", "sha256": ledger.digest}]},
        parts=tuple(_parts(found, ledger, standard, listed)),
    )


def _ledger(before: Any, after: Any, truth: Any, again: Any, placebos: Sequence[Any]) -> Ledger | StreamedLedger:
    if isinstance(before, Ledger | StreamedLedger):
        if after is not None or truth is not None or again is not None or len(placebos):
            raise InputError("a ledger holds all arms: leave out after, truth, again and placebos")
        return before
    if after is None and truth is None and again is None and not len(placebos):
        return Ledger.of_table(before)
    if after is None or truth is None:
        missing = "after" if after is None else "truth"
        raise InputError(
            f"{missing} is missing: give what was said of each row before and after, and truth, who should be named; "
            "or a Ledger alone"
        )
    return Ledger.of_predictions(truth, before, after, again=again, placebos=placebos)


def _registry(registry: Registry | None, ledger: Ledger | StreamedLedger, target: Sequence[Any]) -> Registry:
    if registry is None:
        return Registry.of(ledger.entities, target=target)
    if len(target):
        raise InputError("target goes without a registry: in one, a target is an entity of relation 'target'")
    return registry


def _parts(found: Measured, ledger: Ledger | StreamedLedger, standard: Standard, listed: int) -> Iterable[Audit]:
    """The blocks below the headline; what has nothing to show is left out."""
    yield from _part("Suppressed and elevated", tables=tables.lists(found, listed))
    yield from _part(
        "Classes and groups",
        tables=[tables.classes(found)],
        figures=[
            tables.strata_figure(found),
            tables.groups_figure(found),
            tables.likeness_figure(found),
            tables.transfer_figure(found),
        ],
    )
    yield from _part(
        "Groups, attention, answers",
        findings=[
            *of.attention(found, standard),
            *of.expected(found, ledger.attention),
            *of.popularity(found),
            *of.likeness(found),
            *of.answers(found),
        ],
        tables=[
            tables.disparities(found),
            tables.placebo_table(found),
            tables.heir_table(found),
            tables.attention_table(found, listed),
        ],
    )


def _part(
    title: str,
    *,
    findings: Iterable[Any] = (),
    tables: Iterable[Table | None] = (),
    figures: Iterable[Figure | None] = (),
) -> Iterable[Audit]:
    numbers = tuple(findings)
    shown, drawn = tuple(t for t in tables if t is not None), tuple(f for f in figures if f is not None)
    if numbers or shown or drawn:
        yield Audit(title, findings=numbers, tables=shown, figures=drawn)
