"""Audits of rows, states, losses and similarity; intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface
from benchmarks.identity.groups.parts import audit_parts, interval_parts
from benchmarks.identity.harness import Group, named, text
from benchmarks.identity.inputs import arrays, pipelines
from efface import Concept
from efface_worlds.shapes import load_judge, load_shapes_pipeline


def audit_vectors() -> dict[str, Tensor]:
    from efface import LeaceEraser
    from efface.audit import rows as audit
    from efface.audit.vectors import Task

    out: dict[str, Tensor] = {}
    a = arrays.audit_rows()
    fit = lambda x, z: LeaceEraser.fit(x, z)  # noqa: E731
    x = torch.from_numpy(a["x"])
    out |= audit_parts("fitted inside", audit(a["x"], a["z"], fit=fit, task=a["task"], folds=3, seed=1))
    eraser = LeaceEraser.fit(x[:100], torch.from_numpy(a["z"][:100]))
    tasks = [Task(a["task"], "sign"), Task(a["number"], "number", groups=a["items"])]
    out |= audit_parts(
        "fitted before", audit(a["x"], a["z"], eraser, groups=a["groups"], task=tasks, probes=["linear"], folds=3)
    )
    out |= audit_parts("three classes", audit(a["x"], a["z3"], eraser, folds=3, level=0.9, probes=["mlp"]))
    out |= audit_parts("a number", audit(a["x"], a["number"], fit=fit, folds=3))
    return out


def audit_sites() -> dict[str, Tensor]:
    from efface.audit import sites as audit

    out: dict[str, Tensor] = {}
    a = arrays.site_rows()
    out |= audit_parts(
        "before and after", audit(a["before"], a["after"], a["z"], groups=a["groups"], control=a["items"], seed=2)
    )
    out |= audit_parts("before", audit(a["before"], None, a["z"], folds=3))
    return out


def audit_losses() -> dict[str, Tensor]:
    from efface.audit import losses as audit

    out: dict[str, Tensor] = {}
    a = arrays.losses()
    lines = {"unigram": 11.0}
    more = {"per": a["per"], "groups": a["groups"], "unit": "bits per byte", "lines": lines}
    out |= audit_parts("grouped", audit(a["unscrubbed"], a["sites"], a["whole"], seed=3, **more))
    out |= audit_parts("plain", audit(a["unscrubbed"], a["sites"], a["whole"]))
    return out


def audit_similarity() -> dict[str, Tensor]:
    from efface.audit import similarity as audit

    a = arrays.audit_rows(60)
    after = a["x"] * np.array([0.2, 1, 1, 1, 1])
    pairs = np.stack([np.arange(0, 20), np.arange(20, 40)], axis=1)
    return audit_parts("pairs", audit(a["x"], after, pairs=pairs, groups=a["groups"], seed=1)) | audit_parts(
        "narrower", audit(a["x"], after[:, 1:])
    )


def audit_pipeline() -> dict[str, Tensor]:
    from efface.audit import pipeline as audit

    out: dict[str, Tensor] = {}
    pipe, judge = load_shapes_pipeline(), load_judge()
    asked = Concept("star", templates=["a red {} on a white background", "a striped {}"])
    sampling = {"seeds": 2, "steps": 8, "guidance": pipelines.WORLD_GUIDANCE}
    erasure = efface.erase(pipe, Concept(**pipelines.WORLD_CONCEPT), method="semantic-surgery", preset="published")
    more = {"paraphrases": ["a drawing of a red star"], "others": ["triangle", "heart"]}
    out |= audit_parts("semantic-surgery", audit(pipe, asked, judge=judge, erasure=erasure, **more, **sampling))
    negative = efface.erase(pipe, "star", method="negative-prompt")
    out |= audit_parts(
        "negative-prompt", audit(pipe, asked, judge=judge, erasure=negative, others=["triangle"], **sampling)
    )
    out |= audit_parts("as it is", audit(pipe, "star", judge=judge, seeds=[5, 7], steps=4))
    return out


def audit_gate() -> dict[str, Tensor]:
    from efface.audit import gate as audit

    out: dict[str, Tensor] = {}
    pipe = load_shapes_pipeline()
    spec = Concept(**pipelines.WORLD_CONCEPT)
    present = ["a star", "a small star", "a blue star on black", "two stars", "a heart and a star", "a dotted star"]
    absent = [
        "a circle",
        "a small heart",
        "a blue ring on black",
        "two crosses",
        "a heart and a moon",
        "a dotted square",
    ]
    surgery = efface.erase(pipe, spec, method="semantic-surgery", preset="published", score="last")
    out |= audit_parts("semantic-surgery", audit(pipe, surgery, present=present, absent=absent))
    trained = efface.erase(pipe, spec, method="cgce", **pipelines.QUICK_CGCE)
    out |= audit_parts("cgce", audit(pipe, trained, present=present, absent=absent))
    second = Concept(**pipelines.WORLD_CONCEPT_2)
    both = efface.erase(pipe, [spec, second], method="semantic-surgery", preset="published")
    circles = [prompt.replace("star", "circle") for prompt in present]
    asked = {"star": present, "circle": circles}
    out |= audit_parts("two concepts", audit(pipe, both, present=asked, absent=absent[1:]))
    return out


def intervals() -> dict[str, Tensor]:
    """Intervals, areas under ROC curves, calibration of gates, Platt's scaling, labels and folds: numbers alone."""
    out = {**_resampled(), **_areas(), **_gates(), **_probing()}
    for name, value in out.items():
        out[name] = value if isinstance(value, Tensor) else text(value)
    return out


def _resampled() -> dict[str, Any]:
    from efface.audit import bootstrap_interval, paired_interval, wilson_interval
    from efface.audit.pipelines.balance import harmonic, harmonic_interval
    from efface.stats.intervals import proportion_interval, student_quantile

    s = arrays.shares()
    top, bottom, hits, groups = s["top"], s["bottom"], s["hits"], s["groups"]
    found = {
        "bootstrap": bootstrap_interval(top),
        "bootstrap, ratio": bootstrap_interval(top, bottom, seed=3, resamples=500),
        "bootstrap, groups": bootstrap_interval(top, bottom, groups=groups, level=0.9),
        "linearised": bootstrap_interval(s["many"]),
        "paired": paired_interval(top, s["other"], bottom, groups=groups),
        "proportion": proportion_interval(hits),
        "proportion, groups": proportion_interval(hits, groups=groups, seed=2),
        "proportion, all hit": proportion_interval(np.ones(60), groups=groups),
        "harmonic/interval": harmonic_interval([[hits], [hits[:20], 1 - hits[20:]]]),
    }
    out: dict[str, Any] = {name: interval_parts(interval) for name, interval in found.items()}
    asked = ((5, 10, 0.95), (0, 7, 0.9), (7, 7, 0.99))
    out["wilson"] = [interval_parts(wilson_interval(h, n, level=q)) for h, n, q in asked]
    out["student"] = [student_quantile(0.975, n) for n in (1, 2, 3, 5, 23, 400)]
    out["harmonic"] = torch.from_numpy(harmonic(hits * 0.5 + 0.25, np.linspace(0, 1, 60)))
    return out


def _areas() -> dict[str, Any]:
    from efface.audit import detection
    from efface.audit.pipelines.detection import Readings
    from efface.stats.roc import auroc, auroc_interval

    present, absent = arrays.scores()
    return {
        "area": [auroc(present, absent), auroc(absent, present)],
        "area/interval": interval_parts(auroc_interval(present, absent, seed=1, unit="prompts")),
        "area/nothing overlaps": interval_parts(auroc_interval(present + 9, absent)),
        **audit_parts(
            "detection", detection({"one": Readings(present, absent), "two": Readings(present * 2 - 1, absent)})
        ),
    }


def _gates() -> dict[str, Any]:
    from efface.diffusion.text.semantic_surgery.biopsy import calibrate_gate, presence_score
    from efface.stats.platt import platt

    p, a = (torch.from_numpy(scores) for scores in arrays.scores())
    x, _ = arrays.vectors(torch.float32)
    out: dict[str, Any] = {
        "gate": calibrate_gate(p, a),
        "gate, float32": calibrate_gate(p.float() / 10, a.float() / 10, error=0.1),
        "platt": platt(torch.cat([p, a]), torch.cat([torch.ones(30), torch.zeros(40)])),
    }
    for score in ("per-token", "flat", "last"):
        out[f"presence/{score}"] = presence_score(x.view(6, 40, 8), x[:40], score)
    return out


def _probing() -> dict[str, Any]:
    from efface.audit.states.control import control_labels
    from efface.audit.vectors import Labels, canonical_correlations, class_mean_gap
    from efface.audit.vectors.folds import make_folds

    rows = arrays.audit_rows()
    labels = Labels.of(rows["z3"], "z")
    out: dict[str, Any] = {
        "control labels": torch.from_numpy(control_labels(rows["items"], labels, seed=1).values),
        "canonical correlations": torch.from_numpy(canonical_correlations(rows["x"], labels.columns())),
        "class mean gap": class_mean_gap(rows["x"], labels.values, scale=2.0),
    }
    for name, options in {"strata": {"strata": rows["z3"]}, "groups": {"groups": rows["groups"]}}.items():
        out[f"folds/{name}"] = [test for _, test in make_folds(200, 4, seed=1, **options)]
    return out


GROUPS: dict[str, Group] = named(
    audit_vectors, audit_sites, audit_losses, audit_similarity, audit_pipeline, audit_gate, intervals
)
