"""DiET against its controls and against every baseline, on four worlds whose signal is known.

    python -m benchmarks.attribution                           # 4 worlds, 5 seeds: minutes for each world and seed
    python -m benchmarks.attribution --worlds "hard digits" --seeds 1 --quick
    python -m benchmarks.attribution --parts patch             # spurious digits: DiET against LEACE on the features
    python -m benchmarks.attribution --parts settings          # batch norm, draws of q, upsampling
    python -m benchmarks.attribution --out FOLDER              # keeps each world and seed, and goes on from there

Subjects are written `map @ model`: `fb` is the trained model, `fs` DiET's student, `fd` the model distilled under
random masks, `fi` trained on under input dropout, `fg` under saliency guidance; each control spends as many passes as
DiET did. Figures are means over test images and seeds; intervals are bootstraps over seeds, differences are paired
image by image. The explained class is the predicted one; labels only score.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._measure import table
from efface.attribution.baselines import BASELINES, attribute
from efface.attribution.controls import CONTROLS, control_maps, oracle_maps
from efface.attribution.curves import drop_curve, keep_curve
from efface.attribution.diet import DiET
from efface.attribution.mask_search import qfa
from efface.attribution.maskers import Grid
from efface.attribution.metrics import agreement, iou, mass, q_robustness, rank_auc
from efface.attribution.removal_images import ConstantColour
from efface.attribution.tuning import input_dropout, random_mask_distillation, saliency_guided
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval
from efface_worlds.attribution import WORLDS, Pictures, PictureWorld, make_world, train_classifier

Scores = dict[str, np.ndarray]
"""Name of a figure -> one value for each test image."""

MAPS = ("IoU tight", "IoU loose", "mass tight", "mass loose", "AUC tight", "keep 5 %", "keep 10 %", "drop 5 %")
MODELS = ("accuracy", "agreement", "l1 tight", "l1 loose")
DIET, QFA = "DiET @ fs", "QFA @ fb"
ON_TUNED = ("gradient", "input-x-gradient", "integrated-gradients")
"""Baselines that are run on the tuned models too."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    train: int = 4000
    tuned: int = 800
    explained: int = 300
    epochs: int = 6
    occlusion_stride: int = 2


QUICK = Sizes(train=2500, tuned=200, explained=100, epochs=8, occlusion_stride=4)


@dataclass(frozen=True)
class Bench:
    """A world with its trained model, and what all methods share."""

    world: PictureWorld
    model: nn.Module
    removal: ConstantColour
    seed: int
    sizes: Sizes

    @property
    def tuned(self) -> Pictures:
        """What DiET and its controls learn from."""
        return self.world.train[: self.sizes.tuned]

    @property
    def test(self) -> Pictures:
        """What is explained."""
        return self.world.test[: self.sizes.explained]


def bench(name: str, seed: int, sizes: Sizes) -> Bench:
    world = make_world(name, seed, train=sizes.train, test=sizes.explained)
    model = train_classifier(world, seed, epochs=sizes.epochs)
    return Bench(world, model, ConstantColour.of(world.train.images), seed, sizes)


def score_map(b: Bench, model: nn.Module, maps: Tensor) -> Scores:
    """Figures of a map, in the order of `MAPS`."""
    test = b.test
    common = {"labels": test.labels, "seed": b.seed}
    keep = keep_curve(model, test.images, maps, b.removal, fractions=(0.05, 0.1), **common)
    drop = drop_curve(model, test.images, maps, b.removal, fractions=(0.05,), **common)
    values = (
        iou(maps, test.tight, seed=b.seed),
        iou(maps, test.loose, seed=b.seed),
        mass(maps, test.tight),
        mass(maps, test.loose),
        rank_auc(maps, test.tight),
        keep.at(0.05),
        keep.at(0.1),
        drop.at(0.05),
    )
    return {name: value.numpy() for name, value in zip(MAPS, values, strict=True)}


@torch.no_grad()
def score_model(b: Bench, model: nn.Module) -> Scores:
    """Figures of a model: `MODELS`, and its accuracy where the cue stands elsewhere."""
    test = b.test
    said = {"accuracy": test, **{f"accuracy, {name}": p[: len(test)] for name, p in b.world.swapped.items()}}
    scores = {name: (model(p.images).argmax(1) == p.labels).float() for name, p in said.items()}
    scores["agreement"] = agreement(model, b.model, test.images).float()
    for name, truth in (("l1 tight", test.tight), ("l1 loose", test.loose)):
        scores[name] = q_robustness(model, test.images, truth, b.removal, draws=4, seed=b.seed).l1
    return {name: value.numpy() for name, value in scores.items()}


def tuned_models(b: Bench, diet: DiET) -> tuple[dict[str, nn.Module], Tensor]:
    """The models by name, and DiET's maps."""
    x, labels = b.tuned.images, b.tuned.labels
    fitted = diet.fit(b.model, x)
    student = fitted.student(b.model)
    spend = {"passes": fitted.report["passes"], "seed": b.seed, "batch_norm": diet.batch_norm, "rate": diet.rate}
    models = {
        "fb": b.model,
        "fs": student,
        "fd": random_mask_distillation(b.model, x, b.removal, diet.masker, **spend).model,
        "fi": input_dropout(b.model, x, labels, b.removal, **spend).model,
        "fg": saliency_guided(b.model, x, labels, **spend).model,
    }
    return models, fitted.explain(student, b.test.images, seed=b.seed).maps


def diet_of(b: Bench, **settings: object) -> DiET:
    return replace(DiET(b.removal, Grid(2), seed=b.seed), **settings)  # type: ignore[arg-type]


def baseline_maps(b: Bench, method: str, model: nn.Module) -> Tensor:
    """Maps of a baseline; those that start from an image start from the mean of Q, since black is dark ink as well."""
    options: dict[str, Any] = {"stride": b.sizes.occlusion_stride} if method == "occlusion" else {}
    if "baseline" in BASELINES[method].options:
        options["baseline"] = torch.tensor(b.removal.mean)[:, None, None].expand(b.test.images.shape[1:])
    return attribute(method, model, b.test.images, seed=b.seed, **options)


def subjects(b: Bench, models: dict[str, nn.Module], diet_maps: Tensor) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Each map and the model it explains: `name @ model`."""
    x, test = b.test.images, b.test
    yield "oracle @ fb", b.model, oracle_maps(test.tight)
    yield "oracle 16 x 16 @ fb", b.model, oracle_maps(test.tight, upsampling=2)
    for name in CONTROLS:
        yield f"{name} @ fb", b.model, control_maps(name, x, seed=b.seed)
    for method in BASELINES:
        yield f"{method} @ fb", b.model, baseline_maps(b, method, b.model)
    yield DIET, models["fs"], diet_maps
    for name, model in models.items():
        if name != "fs":
            yield f"QFA @ {name}", model, qfa(model, x, removal=b.removal, masker=Grid(2), seed=b.seed).maps
        if name != "fb":
            for method in ON_TUNED:
                yield f"{method} @ {name}", model, baseline_maps(b, method, model)


def run_methods(name: str, seed: int, sizes: Sizes) -> dict[str, Scores]:
    """All subjects of a world and seed, maps and models (`model fs`)."""
    b = bench(name, seed, sizes)
    models, maps = tuned_models(b, diet_of(b))
    found = {f"model {key}": score_model(b, model) for key, model in models.items()}
    return found | {label: score_map(b, model, m) for label, model, m in subjects(b, models, maps)}


SETTINGS: dict[str, dict[str, object]] = {
    "as set": {},
    "batch norm trains": {"batch_norm": "train"},
    "4 draws of q": {"draws": 4},
    "every epoch of tuning": {"stop": 0.0, "band": (0.0, 0.0)},
    "cells of 1 pixel": {"masker": Grid(1)},
    "cells of 4 pixels": {"masker": Grid(4)},
}


def run_settings(name: str, seed: int, sizes: Sizes) -> dict[str, Scores]:
    """DiET with one setting changed at a time."""
    b = bench(name, seed, sizes)
    found: dict[str, Scores] = {}
    for label, settings in SETTINGS.items():
        fitted = diet_of(b, **settings).fit(b.model, b.tuned.images)
        student = fitted.student(b.model)
        maps = fitted.explain(student, b.test.images, seed=seed).maps
        found[label] = score_map(b, student, maps) | score_model(b, student)
    return found


def run_patch(name: str, seed: int, sizes: Sizes) -> dict[str, Scores]:
    """Accuracy with the patch as trained, reversed and absent: the model, DiET's student, LEACE on the features."""
    from efface.erasers.leace import LeaceFitter

    b = bench(name, seed, sizes)
    train = b.world.train
    with torch.no_grad():
        features = torch.cat([b.model.penultimate(part) for part in train.images.split(256)])  # type: ignore[operator]
    eraser = LeaceFitter.fit(features, train.cue).eraser
    models, _ = tuned_models(b, diet_of(b))

    class Erased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return b.model.head(eraser(b.model.penultimate(x)))  # type: ignore[operator]

    return {label: score_model(b, model.eval()) for label, model in {**models, "LEACE on fb": Erased()}.items()}


RUNS = {"methods": run_methods, "settings": run_settings, "patch": run_patch}


def kept(out: Path | None, part: str, name: str, seed: int, sizes: Sizes) -> dict[str, Scores]:
    """A run, or what is kept of it."""
    path = out / f"{part}-{name.replace(' ', '-')}-{seed}-{sizes.explained}.npz" if out else None
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as saved:
            found: dict[str, Scores] = {}
            for key in saved.files:
                subject, figure = key.split("|")
                found.setdefault(subject, {})[figure] = saved[key]
            return found
    start = time.process_time()
    found = RUNS[part](name, seed, sizes)
    print(f"{part}, {name}, seed {seed}: {time.process_time() - start:.0f} CPU-s", file=sys.stderr, flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{f"{subject}|{figure}": v for subject, s in found.items() for figure, v in s.items()})  # type: ignore[arg-type]
    return found


def show(title: str, runs: Sequence[dict[str, Scores]], figures: Sequence[str], base: str | None, prefix: str) -> None:
    """A table of means; and one of paired differences from `base`, with intervals over seeds."""
    names = [name for name in runs[0] if name.startswith("model ") == (prefix == "model ")]
    shown = [f for f in figures if all(f in runs[0][name] for name in names)]
    groups = np.concatenate([np.full(len(next(iter(run[names[0]].values()))), i) for i, run in enumerate(runs)])
    joined = {name: {f: np.concatenate([run[name][f] for run in runs]) for f in shown} for name in names}
    rows = [[name, *(mean(joined[name][f], groups) for f in shown)] for name in names]
    table(f"{title}, {len(runs)} seeds of {len(groups) // len(runs)} images", ["", *shown], rows)
    if base is None or len(runs) < 2:
        return
    others = [name for name in names if name != base]
    rows = [[name, *(gap(joined[base][f], joined[name][f], groups) for f in shown)] for name in others]
    table(f"{title}: {base} minus", ["", *shown], rows)


def mean(values: np.ndarray, groups: np.ndarray) -> str:
    if len(set(groups.tolist())) < 2:
        return f"{values.mean():.3f}"
    return text(bootstrap_interval(values, groups=groups), "")


def gap(values: np.ndarray, others: np.ndarray, groups: np.ndarray) -> str:
    return text(paired_interval(values, others, groups=groups), "+")


def text(i: Interval, sign: str) -> str:
    return f"{i.value:{sign}.3f} ({i.low:{sign}.3f} to {i.high:{sign}.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["methods"], choices=list(RUNS))
    parser.add_argument("--quick", action="store_true", help="small worlds, few images: shows that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    sizes = QUICK if options.quick else Sizes()
    for part in options.parts:
        for name in ["spurious digits"] if part == "patch" else options.worlds:
            runs = [kept(options.out, part, name, seed, sizes) for seed in range(options.seeds)]
            swapped = ("accuracy, reversed", "accuracy, absent")
            if part == "methods":
                show(f"{name}, maps", runs, MAPS, DIET, "")
                show(f"{name}, models", runs, (*MODELS, *swapped), "model fs", "model ")
            elif part == "settings":
                show(f"{name}, settings", runs, (*MAPS, *MODELS), "as set", "")
            else:
                show(f"{name}, patch", runs, (*MODELS, *swapped), "fs", "")


if __name__ == "__main__":
    main()
