"""MiniLM without the gender of pronouns at any of its sites: what is left there, and what its embeddings lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface.audit
from efface.audit.audit import Audit
from efface.audit.figure import Table
from efface.audit.finding import Finding
from efface.audit.states.measures import class_mean_gap
from efface.report.data import AFTER, BEFORE
from efface.scrubbing.collecting import SiteFeatures, collect
from efface.scrubbing.fitting import scrub
from efface.scrubbing.scrubber import Scrubber
from efface_worlds.demo import Say
from efface_worlds.sentences import SentenceWorld, embed_with, load_minilm, make_sentences

_EVERY_ROW = 2**40
_SITES = ("norms", "mlp_out", "attn_out")


def layers(seed: int, say: Say, *, jobs: int = 12, rows: int = 2000) -> Audit:
    """Erase the pronoun's gender from every site of MiniLM at once, fitted on two occupations of three."""
    world = make_sentences(jobs=jobs)
    tokenizer, model = load_minilm()
    fit, test = _by_job(world, np.arange(jobs) % 3 != 0), _by_job(world, np.arange(jobs) % 3 == 0)
    say(f"layers: scrubbing MiniLM with {len(fit)} sentences, site after site")
    data, labels = _tokenized(tokenizer, world, fit), torch.as_tensor(world.gender[fit])
    scrubber = scrub(model, data, labels, sites=_SITES, activations="memory", batch_size=32)
    gaps = _gaps(model, data, labels, scrubber)
    say(f"layers: probing {len(scrubber.sites)} sites on {len(test)} sentences of other occupations")
    probes = _gender_probes(model, tokenizer, world, test, scrubber, rows, seed)
    similar = _similarities(model, tokenizer, world, test, scrubber, seed)
    worst = max(after for _, after in gaps.values())
    about = (
        f"Every token of a sentence is labelled with the gender of its pronoun. LEACE is fitted at all "
        f"{len(scrubber.sites)} sites of all-MiniLM-L6-v2 (norms, attention and feed-forward outputs), each with the "
        f"erasers of the earlier ones on, on {len(fit):,} sentences about {len(set(world.job[fit]))} occupations. "
        f"Probes and similarities are of {len(test)} sentences about {len(set(world.job[test]))} other occupations.",
    )
    gap = Finding(
        "largest of all sites",
        worst,
        "class-mean gap",
        "all sites erased at once",
        baseline=max(before for before, _ in gaps.values()),
        unit="sd",
        n=int(data["attention_mask"].sum()),
        note="on the sentences of the fit, in standard deviations of a feature before erasure",
    )
    first = f"With all sites erased at once, the largest class-mean gap of any of them is {worst:.1e} sd."
    return Audit(
        "MiniLM, site by site: erase the gender of the pronoun",
        text=about,
        conclusions=(first, *probes.conclusions, *similar.conclusions),
        findings=(gap,),
        tables=(_gap_table(gaps),),
        settings={"jobs": jobs, "rows": rows, "seed": seed, "sites": list(map(str, scrubber.sites))},
        parts=(replace(probes, conclusions=()), replace(similar, conclusions=())),
    )


def _by_job(world: SentenceWorld, chosen: np.ndarray) -> np.ndarray:
    return np.flatnonzero(chosen[world.job])


def _tokenized(tokenizer: Any, world: SentenceWorld, rows: Iterable[int]) -> dict[str, Tensor]:
    return dict(tokenizer([world.text[i] for i in rows], padding=True, return_tensors="pt"))


def _gaps(model: Any, data: Any, labels: Tensor, scrubber: Scrubber) -> dict[str, tuple[float, float]]:
    """Site -> largest gap of a class mean before and after, over all tokens of the fit."""
    options: dict[str, Any] = {"sites": list(scrubber.sites), "max_rows": _EVERY_ROW, "batch_size": 32}
    plain = collect(model, data, labels, **options)
    spread = {site: x.double().numpy().std(axis=0) for site, x in plain.x.items()}
    before = _gap_of_each(plain, spread)
    del plain
    after = _gap_of_each(collect(model, data, labels, scrubber=scrubber, **options), spread)
    return {site: (before[site], after[site]) for site in spread}


def _gap_of_each(features: SiteFeatures, spread: Mapping[str, np.ndarray]) -> dict[str, float]:
    z = features.labels.numpy()
    return {site: class_mean_gap(x.double().numpy(), z, spread=spread[site]) for site, x in features.x.items()}


def _gap_table(gaps: Mapping[str, tuple[float, float]]) -> Table:
    rows = tuple((site, f"{before:.3f}", f"{after:.1e}") for site, (before, after) in gaps.items())
    return Table(
        "Class-mean gap at each site (sd)",
        ("site", BEFORE, AFTER),
        rows,
        "The largest distance of a class mean from the mean, along one feature, on the sentences of the fit.",
    )


def _gender_probes(
    model: Any, tokenizer: Any, world: SentenceWorld, test: np.ndarray, scrubber: Scrubber, rows: int, seed: int
) -> Audit:
    data, labels = _tokenized(tokenizer, world, test), torch.as_tensor(world.gender[test])
    options: dict[str, Any] = {"sites": list(scrubber.sites), "max_rows": rows, "seed": seed, "batch_size": 32}
    plain = collect(model, data, labels, **options)
    erased = collect(model, data, labels, scrubber=scrubber, **options)
    return efface.audit.sites(
        plain.x,
        erased.x,
        [world.genders[i] for i in plain.labels.tolist()],
        groups=[world.jobs[i] for i in world.job[test][plain.sequence.numpy()]],
        name="gender",
        title="What can be read from single tokens, site by site",
        folds=min(5, len(set(world.job[test]))),
        seed=seed,
    )


def _similarities(
    model: Any, tokenizer: Any, world: SentenceWorld, test: np.ndarray, scrubber: Scrubber, seed: int
) -> Audit:
    texts = [world.text[i] for i in test]
    before = embed_with(tokenizer, model, texts)
    with scrubber.on(model):
        after = embed_with(tokenizer, model, texts)
    with scrubber.random_control(seed).on(model):
        control = embed_with(tokenizer, model, texts)
    who = zip(world.job[test].tolist(), world.template[test].tolist(), world.gender[test].tolist(), strict=True)
    place = {key: row for row, key in enumerate(who)}
    pairs = [(row, place[job, template, 1]) for (job, template, gender), row in place.items() if gender == 0]
    setting: dict[str, Any] = {"pairs": pairs, "groups": world.job[test], "name": "gender", "seed": seed}
    audit = efface.audit.similarity(before, after, title="Sentence similarity", **setting)
    random = efface.audit.similarity(before, control, **setting)
    own = random.find("cosine similarity", "with itself", "after").value
    said = f"A random edit of equal rank at the same sites leaves a cosine of {own:.3f} with the unedited embedding."
    return replace(audit, conclusions=(*audit.conclusions, said))
