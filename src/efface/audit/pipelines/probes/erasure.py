"""Has a concept really gone from a pipeline, or is it only no longer asked for?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from efface._alone import alone
from efface._errors import InputError
from efface._io import as_path
from efface._text import shown
from efface.audit.audit import Audit
from efface.audit.figure import Figure
from efface.audit.finding import Finding
from efface.audit.pipelines.erasures import ErasureLike
from efface.audit.pipelines.presence import Judge
from efface.audit.pipelines.probes import shown as showing
from efface.audit.pipelines.probes.apart import check_processes
from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.concluding import conclusions_of, named, text_of
from efface.audit.pipelines.probes.drawing import drawn_by_base
from efface.audit.pipelines.probes.looks import MORE, looks
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, SHAM, Panel, alike
from efface.audit.pipelines.probes.ran import Ran
from efface.audit.pipelines.probes.recovery import Row
from efface.audit.pipelines.probes.registry import Suite, find_probe, probes
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.settling import settled
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.verdict import Facts, decide
from efface.audit.subjects import Access
from efface.core.checkpoint import Checkpoint
from efface.core.concept import Concept, ConceptLike
from efface.core.doors import check_call
from efface.core.fingerprint import fingerprint
from efface.core.provenance import called, content_hash, provenance
from efface.pipelines.view import PipelineView

_DRAWN: Mapping[Suite, int] = {"quick": 128, "full": 320}
_CAVEATS = (
    "Not found is not gone: the verdict is about these probes, prompts and pictures. Other attacks may find more.",
    "The thresholds come from a prototype, one concept on one small model; elsewhere they are conventions.",
    "Intervals are over prompts, seeds or pictures; none is over trainings of the gold model, of which there is one.",
)


def erasure(
    subject: Any,
    concept: ConceptLike,
    *,
    judge: Judge,
    erasure: ErasureLike | None = None,
    base: Any = None,
    gold: Any = None,
    selector: Judge | None = None,
    suite: Suite = "quick",
    prompts: Sequence[str] | None = None,
    paraphrases: Sequence[str] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    pictures: Pictures | None = None,
    only: Sequence[str] | None = None,
    budgets: Mapping[str, Mapping[str, Any]] | None = None,
    access: Access | None = None,
    folder: str | os.PathLike[str] | None = None,
    more: int = MORE,
    processes: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    title: str = "",
    say: Callable[[str], None] | None = None,
    **sampling: Any,
) -> Audit:
    """Probe an erased pipeline for a concept, against the pipeline before and one that never knew it.

    Args:
        subject: A diffusers pipeline, or a view of one: before erasure with `erasure`, erased already with `base`.
        concept: What is said to be gone.
        judge: Scores pictures: images `(n, 3, h, w)` in [0, 1] and a name -> 0 to 1, or NaN where it cannot say.
        erasure: Put on the pipeline while it is probed as erased.
        base: The pipeline before erasure, where `subject` has other weights already.
        gold: A pipeline of the same architecture that never saw the concept; None takes substitute floors.
        selector: Another judge, which chooses within searches.
        suite: `"quick"` or `"full"`.
        prompts: Plain prompts that ask for the concept; None puts its name into its templates.
        paraphrases: Prompts that ask for it in other words; None puts its synonyms into its templates.
        others: Other concepts -> prompts; None puts the concept's `preserve` into its templates.
        pictures: Held-out pictures; None draws some by the base.
        only: Names of probes, where not all of the suite are wanted.
        budgets: Probe -> options in place of the suite's, e.g. `{"relearning": {"rate": 1e-5}}`.
        access: The furthest access that probes may use; None for all.
        folder: Where scores and their pictures are kept; an audit that was interrupted goes on from it.
        more: How many times the items of its first look a probe looks at, at most, where the verdict is open for want
            of them (direct prompt, paraphrase, completion, likelihood, relearning; it doubles); 1 looks once.
        processes: How many probes and models are measured side by side, on the CPU of a system that forks (Linux): each
            process is a copy of this one with one thread of torch. The result is that of one process with one thread.
        batch_size: Images at a time.
        seed: Of every random choice.
        title: Title of the audit.
        say: Told what is going on.
        **sampling: Further arguments of `PipelineView.sample`: `steps`, `guidance`, ...

    Returns:
        An audit whose first conclusion is the verdict (`efface.audit.pipelines.probes.verdict` has the rule). Findings:
        family is the probe, name the row, conditions `"base"`, `"erased"`, `"gold"` and `"recovery"`.

    Raises:
        InputError: If arguments do not go together, models differ in architecture, or the judge does not know the
            concept, or there cannot be so many processes, or so few looks.
        LostError: If a process was killed; with a folder the same call goes on from what was done.

    Does not guarantee: that a concept that is called removed cannot be found by other means.
    """
    check_call(_called, {name: value for name, value in locals().items() if name in _PLAIN})
    call = called("efface.audit.erasure", {**locals(), **sampling, **dict.fromkeys(_NOT_SAID)})
    asked = Concept.of(concept)
    panel = _panel(subject, erasure, base, gold, access)
    check_processes(processes, panel.devices)
    looks(more)
    panel.base.view.check_concept(asked)
    case = _case(asked, panel, judge, selector, prompts, paraphrases, others, batch_size, seed, sampling)
    chosen = probes(suite) if only is None else tuple(find_probe(name) for name in only)
    _check_judge(case)
    case = replace(case, pictures=drawn_by_base(case, _DRAWN[suite]) if pictures is None else pictures)
    settings = _settings(case, panel, suite, budgets)
    where = None if folder is None else as_path(folder, "folder")
    with alone(where, "audit"):
        saved = Checkpoint(where, settings, what="audit")
        runner = Runner(panel, case, saved, budgets, processes=processes, more=more)
        facts = Facts(bool(panel.moved), panel.gold is not None)
        ran = settled(runner, chosen, suite, facts, seed=seed, say=say)
    audit = _audit(ran, case, panel, title or f"Has {asked.name} really gone?", selector is None, settings)
    return replace(audit, provenance=provenance(subject=[panel.base.view.pipe, erasure], call=call))


def _called(
    suite: Suite, more: int, processes: int, batch_size: int, seed: int, title: str, only: Sequence[str] | None
) -> None:
    """What plain arguments of the door are."""


_PLAIN = ("suite", "more", "processes", "batch_size", "seed", "title", "only")
_NOT_SAID = ("sampling", "pictures", "say", "processes")


def _panel(subject: Any, erasure: Any, base: Any, gold: Any, access: Access | None) -> Panel:
    if (erasure is None) == (base is None):
        raise InputError(
            "what is compared with what? Give erasure=, which is put on the pipeline, or base=, the pipeline before "
            "its weights were edited; one of the two"
        )
    if erasure is not None and not hasattr(erasure, "on"):
        raise InputError(f"{shown(erasure)} cannot be put on a pipeline: give an erasure, as efface.erase returns")
    view = PipelineView.of(subject)
    before = view if base is None else PipelineView.of(base)
    never = None if gold is None else Subject(GOLD, PipelineView.of(gold), None, access)
    panel = Panel(Subject(BASE, before, None, access), Subject(ERASED, view, erasure, access), never)
    _check_gold(panel)
    return panel


def _check_gold(panel: Panel) -> None:
    """Refuse a gold model that is the base, which knows the concept, or the erased model, which it is to judge."""
    if panel.gold is None:
        return
    for other, what in (
        (panel.base, "it knows the concept, and no row could tell anything"),
        (panel.erased, "it would be compared with itself, and anything would be called removed"),
    ):
        if alike(other, panel.gold):
            raise InputError(
                f"gold has every weight of the {other.name} pipeline, bit for bit: {what}. Give a pipeline that was "
                "trained without the concept, or none"
            )


def _case(
    asked: Concept,
    panel: Panel,
    judge: Judge,
    selector: Judge | None,
    prompts: Sequence[str] | None,
    paraphrases: Sequence[str] | None,
    others: Mapping[str, Sequence[str]] | None,
    batch_size: int,
    seed: int,
    sampling: Mapping[str, Any],
) -> Case:
    for which, given in (("prompts", prompts), ("paraphrases", paraphrases)):
        if isinstance(given, str):
            raise InputError(f"{which} is one string: write a list, {which}=[{given!r}]")
    plain = asked.prompts(asked.name) if prompts is None else tuple(prompts)
    if not plain:
        raise InputError(f"no prompts ask for {asked.name!r}: write at least one")
    reworded = paraphrases
    if reworded is None:
        reworded = asked.prompts(asked.synonyms) if asked.synonyms else ()
    rest = {name: asked.prompts(name) for name in asked.preserve} if others is None else others
    return Case(
        asked,
        panel.base,
        judge,
        judge if selector is None else selector,
        plain,
        tuple(reworded),
        {name: tuple(texts) for name, texts in rest.items() if texts and name != asked.name},
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
    )


def _check_judge(case: Case) -> None:
    """Ask the judge once, so that one that does not know the concept fails before anything is measured."""
    texts, seeds = case.jobs(case.prompts, 2, 199)
    with case.base.on() as view:
        images = case.sample(view, texts, seeds)
    case.seen(images)
    case.liked(images)


def _settings(case: Case, panel: Panel, suite: Suite, budgets: Any) -> dict[str, Any]:
    """What must be the same where an audit goes on."""
    found = case.pictures
    assert found is not None
    hashes = [content_hash(found.concept.contiguous()), content_hash(found.others.contiguous())]
    marks = {}
    for each in (panel.base, panel.erased, panel.gold):
        if each is not None:
            with each.on() as view:
                marks[each.name] = [fingerprint(part) for part in view.components.denoisers.values()]
    digest = getattr(panel.erased.erasure, "digest", None)
    return {
        "concept": case.concept.to_dict(),
        "suite": suite,
        "prompts": list(case.prompts),
        "paraphrases": list(case.paraphrases),
        "others": {name: list(texts) for name, texts in case.others.items()},
        "pictures": [found.source, *hashes],
        "judges": [named(case.judge), named(case.selector)],
        "sampling": {name: repr(value) for name, value in case.sampling.items()},
        "budgets": {name: {k: repr(v) for k, v in given.items()} for name, given in (budgets or {}).items()},
        "models": marks,
        "erasure": digest() if callable(digest) else digest,
        "reach": panel.erased.reach,
        "seed": case.seed,
    }


def _audit(
    ran: Sequence[Ran], case: Case, panel: Panel, title: str, same_judge: bool, settings: Mapping[str, Any]
) -> Audit:
    rows: list[Row] = []
    findings: list[Finding] = []
    figures: list[Figure] = []
    for one in ran:
        own = one.rows(seed=case.seed)
        sham = one.rows(seed=case.seed, model=SHAM)
        rows += [*own, *(replace(row, role="control") for row in sham)]
        findings += showing.findings_of(one, own, named(case.judge), case.seed)
        figures += showing.figures_of(one)
    moved = panel.moved
    verdict = decide(rows, Facts(bool(moved), panel.gold is not None))
    return Audit(
        title,
        text=(text_of(case, panel, ran, len(moved)),),
        conclusions=tuple(conclusions_of(verdict, rows, ran, case, panel, same_judge)),
        findings=tuple(findings),
        tables=(showing.table_of(rows),),
        figures=(showing.figure_of(rows), *figures),
        caveats=_CAVEATS,
        settings={**settings, "verdict": verdict.kind, "reversible": verdict.reversible},
    )
