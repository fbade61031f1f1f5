"""Explanations of classifiers that others made, on pictures that others made: tables of docs/real.md.

    python -m benchmarks.real_classifiers fashion --out F      # a small ResNet on Fashion-MNIST: 4 CPU-min a seed
    python -m benchmarks.real_classifiers search               # its masks by Q and cells: 2 CPU-min
    python -m benchmarks.real_classifiers emoji                # what EfficientNet-Lite0 says of emoji: 30 CPU-s
    python -m benchmarks.real_classifiers photographs          # and of photographs
    python -m benchmarks.real_classifiers maps --out F         # its maps, next to controls: 10 CPU-min
    python -m benchmarks.real_classifiers cells --out F        # other cells, more passes: 6 CPU-min
    python -m benchmarks.real_classifiers diet --out F         # DiET on it: 15 CPU-min; goes on from where it was
    python -m benchmarks.real_classifiers page --out F         # `efface explain` on it: a report and overlays

Subjects are written `map @ model`: `fb` is the model as it came, `fs` DiET's copy, `fd` the copy distilled under random
masks at as many passes, `fi` that of input dropout; `fr` is the same network untrained, `fh` the model with its last
layer shuffled. The class is what the model that a map is put to says of the whole picture; labels only score.
Intervals are 95 %: Wilson's for shares of pictures, else bootstraps over pictures (figures of several seeds are means
over seeds first).
"""

from __future__ import annotations

import argparse
import copy as copying
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import efface
from benchmarks._measure import table
from efface.attribution.baselines import attribute
from efface.attribution.controls import CONTROLS, control_maps
from efface.attribution.curves import drop_curve, keep_curve
from efface.attribution.diet import DiET
from efface.attribution.fitted import DietErasure
from efface.attribution.mask_search import qfa
from efface.attribution.maskers import Grid, Masker
from efface.attribution.predictions import predict
from efface.attribution.removal import Marginal, Removal
from efface.attribution.removal_images import Blur, ConstantColour
from efface.attribution.superpixels import Superpixels
from efface.attribution.tuning import input_dropout, random_mask_distillation
from efface.explanation.mapping import occlusion_windows
from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval
from efface_worlds.real import (
    GARMENTS,
    PHOTOGRAPHS,
    EfficientNetLite0,
    emoji_classes,
    emoji_pictures,
    imagenet_classes,
    load_efficientnet,
    load_fashion,
    load_fashion_resnet,
    photograph,
)
from efface_worlds.real.resnet import make_resnet

Scores = dict[str, np.ndarray]
"""Name of a figure -> a value for each picture."""

KEPT = (0.02, 0.05, 0.1, 0.2, 0.5)
FIGURES = (*(f"keep {100 * share:.0f} %" for share in KEPT), "drop 5 %")
BASELINES = ("gradient", "input-x-gradient", "integrated-gradients", "gradcam", "occlusion", "simple-fullgrad")
REMOVALS: dict[str, Callable[[Tensor], Removal]] = {
    "colour": ConstantColour.of,
    "marginal": lambda images: Marginal(images[:500], low=0.0, high=1.0),
    "blur": lambda images: Blur(images.shape[-1] / 8),
}
"""Q by name; the first is the default of `efface explain`, the last what its `--removal blur` takes."""

AGAIN = "QFA, other q @ fb"
LIKE = (
    ("QFA @ fb", AGAIN),
    ("QFA @ fb", "QFA of fr @ fb"),
    ("QFA @ fb", "QFA of fh @ fb"),
    ("gradient @ fb", "gradient of fr @ fb"),
    ("gradient @ fb", "gradient of fh @ fb"),
    ("QFA @ fb", "edge @ fb"),
    ("gradient @ fb", "edge @ fb"),
    ("QFA @ fb", "gradient @ fb"),
    ("QFA @ fb", "random @ fb"),
)

STYLES = ("noto", "twemoji", "fluent", "black and white")


@dataclass(frozen=True)
class Case:
    """A model, what is explained, and how.

    Attributes:
        name: Of files.
        model: As it came.
        x: Pictures to explain.
        removal: Q.
        masker: Cells.
        anew: Gives the network untrained.
        baselines: Which.
        draws: Of q, of the curves.
        batch: Pictures at a time.
        options: Of baselines, where others than the defaults.
        again: Whether masks are searched once more under other draws, and on the untrained network.
    """

    name: str
    model: nn.Module
    x: Tensor
    removal: Removal
    masker: Masker
    anew: Callable[[], nn.Module]
    baselines: tuple[str, ...] = BASELINES
    draws: int = 4
    batch: int = 32
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    again: bool = True

    def curves(self, model: nn.Module, maps: Tensor, seed: int) -> Scores:
        """Figures of maps on a model."""
        shared: dict[str, Any] = {"draws": self.draws, "seed": seed, "batch_size": self.batch}
        keep = keep_curve(model, self.x, maps, self.removal, fractions=KEPT, **shared)
        drop = drop_curve(model, self.x, maps, self.removal, fractions=(0.05,), **shared)
        columns = [*(keep.at(share) for share in KEPT), drop.at(0.05)]
        return {name: column.numpy() for name, column in zip(FIGURES, columns, strict=True)}

    def qfa(self, model: nn.Module, seed: int) -> Tensor:
        """Masks of the pictures."""
        shared: dict[str, Any] = {"removal": self.removal, "masker": self.masker, "batch_size": self.batch}
        return qfa(model, self.x, **shared, seed=seed).maps

    def baseline(self, method: str, model: nn.Module, seed: int) -> Tensor:
        """Maps of the pictures."""
        options: dict[str, Any] = occlusion_windows(self.x) if method == "occlusion" else {}
        if method in ("integrated-gradients", "occlusion"):  # what stands for nothing is the mean of Q, as elsewhere
            mean = torch.tensor(getattr(self.removal, "mean", self.x.mean((0, 2, 3)).tolist())).reshape(-1, 1, 1)
            options["baseline"] = mean.expand(self.x.shape[1:]).clone()
        options |= self.options.get(method, {})
        return attribute(method, model, self.x, batch_size=self.batch, seed=seed, **options).detach()


class Kept:
    """Figures and maps in a folder, so that what was computed is not computed again; seconds on the way."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """What is kept under a key, or is computed and kept; `seconds` is the CPU time."""
        path = self._folder / f"{key.replace(' ', '-')}.npz" if self._folder else None
        if path is not None and path.exists():
            with np.load(path, allow_pickle=False) as saved:
                return dict(saved)
        begun = time.process_time()
        found = {name: np.asarray(value) for name, value in compute().items()}
        found["seconds"] = np.asarray(time.process_time() - begun)
        print(f"{key}: {found['seconds']:.0f} CPU-s", file=sys.stderr, flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **found)  # type: ignore[arg-type]
        return found


def mapped(case: Case, kept: Kept, key: str, model: nn.Module, make: Callable[[], Tensor], seed: int) -> dict[str, Any]:
    """Maps, their figures on a model, and what the maps cost."""
    maps = kept.get(f"{case.name} maps {key} {seed}", lambda: {"maps": make().float().cpu().numpy()})
    values = torch.from_numpy(maps["maps"])
    scores = kept.get(f"{case.name} figures {key} {seed}", lambda: case.curves(model, values, seed))
    return {**scores, "maps": values, "seconds": float(maps["seconds"])}


def of_model(case: Case, kept: Kept, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that is put to the model as it came."""
    model, x = case.model, case.x
    for name in CONTROLS:
        make = lambda n=name: control_maps(n, x, seed=seed)  # noqa: E731
        yield f"{name} @ fb", mapped(case, kept, f"{name} fb", model, make, seed)
    for name in case.baselines:
        make = lambda n=name: case.baseline(n, model, seed)  # noqa: E731
        yield f"{name} @ fb", mapped(case, kept, f"{name} fb", model, make, seed)
    yield "QFA @ fb", mapped(case, kept, "qfa fb", model, lambda: case.qfa(model, seed), seed)
    if case.again:
        yield AGAIN, mapped(case, kept, "qfa-again fb", model, lambda: case.qfa(model, seed + 100), seed)
    for short, other in (("fr", case.anew()), ("fh", shuffled(model))):
        make = lambda m=other: case.baseline("gradient", m, seed)  # noqa: E731
        yield f"gradient of {short} @ fb", mapped(case, kept, f"gradient {short}", model, make, seed)
        if case.again or short == "fh":
            make = lambda m=other: case.qfa(m, seed)  # noqa: E731
            yield f"QFA of {short} @ fb", mapped(case, kept, f"qfa {short}", model, make, seed)


def shuffled(model: nn.Module) -> nn.Module:
    """A copy whose last layer has its weights in another order, so that it is as sure of itself, and knows nothing."""
    other = copying.deepcopy(model)
    last = [m for m in other.modules() if isinstance(m, nn.Linear)][-1]
    order = torch.randperm(last.weight.numel(), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last.weight.copy_(last.weight.flatten()[order].view_as(last.weight))
    return other


def of_copy(case: Case, kept: Kept, short: str, copy: nn.Module, maps: Callable[[], Tensor], seed: int, label: str
            ) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """What is put to a tuned copy: its masks, and the controls on that copy."""
    yield f"{label} @ {short}", mapped(case, kept, f"qfa {short}", copy, maps, seed)
    for name in CONTROLS if short == "fs" else ():
        make = lambda n=name: control_maps(n, case.x, seed=seed)  # noqa: E731
        yield f"{name} @ {short}", mapped(case, kept, f"{name} {short}", copy, make, seed)


def likeness(maps: Tensor, others: Tensor) -> np.ndarray:
    """Spearman's rank correlation over the pixels of each picture; equal values share their mean rank."""
    from scipy.stats import rankdata

    a, b = (np.asarray(rankdata(m.flatten(1).numpy().round(6), axis=1)) for m in (maps, others))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def together(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Scores]:
    """Means over seeds, picture by picture."""
    return {name: {f: np.mean([run[name][f] for run in runs], 0) for f in FIGURES} for name in runs[0]}


def said(i: Interval, sign: str = "") -> str:
    return f"{i.value:{sign}.3f} [{i.low:{sign}.3f}, {i.high:{sign}.3f}]"


def share(hits: int, n: int) -> str:
    i = wilson_interval(hits, n)
    return f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]"


def show_figures(title: str, scores: Mapping[str, Scores]) -> None:
    rows = [[name, *(said(bootstrap_interval(s[f])) for f in FIGURES)] for name, s in scores.items()]
    table(title, ["", *FIGURES], rows)


def show_gaps(title: str, scores: Mapping[str, Scores], pairs: Sequence[tuple[str, str]]) -> None:
    rows = [[f"{a} minus {b}", *(said(paired_interval(scores[a][f], scores[b][f]), "+") for f in FIGURES)]
            for a, b in pairs]  # fmt: skip
    table(title, ["", *FIGURES], rows)


def show_likeness(title: str, runs: Sequence[dict[str, dict[str, Any]]], pairs: Sequence[tuple[str, str]]) -> None:
    rows = []
    for a, b in ((a, b) for a, b in pairs if a in runs[0] and b in runs[0]):
        values = np.mean([likeness(run[a]["maps"], run[b]["maps"]) for run in runs], 0)
        rows.append([f"{a} and {b}", said(bootstrap_interval(values))])
    table(title, ["", "rank correlation"], rows)


def show_cost(case: Case, run: dict[str, dict[str, Any]]) -> None:
    rows = [[name, f"{found['seconds'] / len(case.x):.2f}"] for name, found in run.items() if found["seconds"] > 0.5]
    table(f"{case.name}: CPU seconds a picture, one thread", ["", "seconds"], rows)


def best_control(scores: Mapping[str, Scores], model: str) -> str:
    names = [f"{name} @ {model}" for name in CONTROLS]
    return max(names, key=lambda name: float(scores[name]["keep 5 %"].mean()))


def fashion(options: argparse.Namespace) -> None:
    """The small network on Fashion-MNIST."""
    train, test = load_fashion("train", limit=5_000), load_fashion("test")
    model, n = load_fashion_resnet(), options.images or 500
    removal = REMOVALS[options.removal](train.images)
    name = "fashion" if options.removal == "colour" else f"fashion {options.removal}"
    case = Case(name, model, test.images[:n], removal, Grid(2), lambda: make_resnet(seed=1).eval(), batch=250)
    kept, runs, tuned = Kept(options.out), [], train.images[: options.tuned or 1_000]
    labels = train.labels[: len(tuned)]
    models: list[dict[str, dict[str, np.ndarray]]] = []
    for seed in range(options.seeds):
        run = dict(of_model(case, kept, seed))
        fitted = fitted_diet(case, options.out, tuned, seed)
        spend: dict[str, Any] = {"passes": fitted.report["passes"], "seed": seed}
        copies: dict[str, Callable[[], nn.Module]] = {
            "fs": lambda f=fitted: f.student(model),
            "fd": lambda s=spend: random_mask_distillation(model, tuned, removal, case.masker, **s).model,
            "fi": lambda s=spend: input_dropout(model, tuned, labels, removal, **s).model,
        }
        about = {"fb": kept.get(f"{name} model fb {seed}", lambda: answers(model, model, test.images, test.labels))}
        for short, make in copies.items():
            copy = make()
            about[short] = kept.get(
                f"{name} model {short} {seed}", lambda c=copy: answers(c, model, test.images, test.labels)
            )
            label = "DiET" if short == "fs" else "QFA"
            run |= dict(of_copy(case, kept, short, copy, lambda c=copy, s=seed: case.qfa(c, s), seed, label))
        runs.append(run)
        models.append(about)
    rows = [[name, *(both(models, name, f) for f in ("right", "agrees"))] for name in models[0]]
    title = f"Fashion-MNIST, 10,000 test pictures, {len(models)} seeds of tuning"
    table(title, ["", "accuracy, %", "agreement, %"], rows)
    scores = together(runs)
    show_figures(f"Fashion-MNIST: {n} test pictures, {len(runs)} seeds", scores)
    show_gaps("Differences, paired picture by picture", scores, (
        ("QFA @ fb", best_control(scores, "fb")), ("DiET @ fs", best_control(scores, "fs")),
        *(("DiET @ fs", other) for other in ("QFA @ fb", "QFA @ fd", "QFA @ fi")),
        *(("QFA @ fb", f"{name} @ fb") for name in case.baselines), ("QFA @ fb", "QFA of fh @ fb"),
    ))  # fmt: skip
    show_likeness("Randomised weights, and edges", runs, LIKE)
    show_cost(case, runs[0])


def fitted_diet(case: Case, out: Path | None, tuned: Tensor, seed: int, rate: float = DiET.rate) -> DietErasure:
    """DiET's copy, tuned or read; an interrupted tuning goes on."""
    folder = out / f"{case.name.replace(' ', '-')}-diet-{rate:g}-{seed}" if out else None
    if folder is not None and folder.exists():
        return DietErasure.load(folder)
    begun = time.process_time()
    diet = DiET(case.removal, case.masker, seed=seed, batch_size=case.batch, rate=rate)
    fitted = diet.fit(case.model, tuned, checkpoint=Path(f"{folder}.unfinished") if folder else None)
    spent = f"{time.process_time() - begun:.0f} CPU-s, {fitted.report['passes']} passes"
    print(f"{case.name}: DiET {spent}", file=sys.stderr, flush=True)
    if folder is not None:
        fitted.save(folder)
    return fitted


def answers(model: nn.Module, base: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Whether a model is right of each picture, and agrees with another."""
    ours, theirs = (predict(m, images, batch_size=500).argmax(1) for m in (model, base))
    return {"right": ours == labels, "agrees": ours == theirs}


def both(models: Sequence[dict[str, dict[str, np.ndarray]]], name: str, figure: str) -> str:
    """A share of pictures; of several tunings their mean, over pictures."""
    values = np.mean([about[name][figure].astype(float) for about in models], 0)
    i = bootstrap_interval(100 * values)
    return f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]"


def emoji(_: argparse.Namespace) -> None:
    """What EfficientNet-Lite0 says of emoji."""
    model, exact, every = load_efficientnet(), emoji_classes(by_hand=False), emoji_classes()
    names, shuffled = imagenet_classes(), np.random.default_rng(0).permutation(len(every))
    groups = {"synset": [n in exact for n in every], "by hand": [n not in exact for n in every]}
    rows, right = [], {}
    for style in STYLES:
        top = predict(model, emoji_pictures(list(every), style), batch_size=16).topk(5).indices.tolist()
        classes = list(every.values())
        hit1, hit5 = ([any(k in c for k in t[:m]) for t, c in zip(top, classes, strict=True)] for m in (1, 5))
        wrong = [any(k in classes[s] for k in t) for t, s in zip(top, shuffled, strict=True)]
        right[style] = hit1
        for group, chosen in groups.items():
            at = np.flatnonzero(chosen)
            counts = [sum(values[i] for i in at) for values in (hit1, hit5, wrong)]
            rows.append([style, group, len(at), *(share(count, len(at)) for count in counts)])
        if style == "noto":
            examples = ("zebra", "banana", "strawberry", "pizza", "airplane", "soccer ball", "lion", "dog")
            for name in examples:
                k = list(every).index(name)
                print(f"{name}: {', '.join(names[c] for c in top[k])}", "(right)" if hit1[k] else "")
    header = ["style", "class by", "n", "top-1", "top-5", "top-5, shuffled"]
    table("EfficientNet-Lite0 on emoji: share right, %", header, rows)
    print("\nright in noto:", ", ".join(n for n, hit in zip(every, right["noto"], strict=True) if hit))


def photographs(_: argparse.Namespace) -> None:
    """What it says of photographs."""
    model, names = load_efficientnet(), imagenet_classes()
    probabilities = predict(model, torch.stack([photograph(name) for name in PHOTOGRAPHS]), batch_size=8)
    rows, right = [], []
    for (name, about), row in zip(PHOTOGRAPHS.items(), probabilities, strict=True):
        top = row.topk(5)
        at = [place for place, k in enumerate(top.indices.tolist(), 1) if k in about.classes]
        right += [at] if about.classes else []
        first = [f"{names[int(k)]} {v:.2f}" for v, k in zip(top.values[:3], top.indices[:3], strict=True)]
        rows.append([name, *first, at[0] if at else "-" if about.classes else "no class"])
    table("EfficientNet-Lite0 on photographs", ["", "1", "2", "3", "right at"], rows)
    counts = (sum(1 in at for at in right), sum(bool(at) for at in right))
    top1, top5 = (share(count, len(right)) for count in counts)
    print(f"\nof {len(right)} with a class: top-1 {top1}, top-5 {top5} %")


def known_emoji(model: nn.Module, count: int) -> tuple[list[str], Tensor]:
    """Emoji by Noto of which it is right, drawn by lot, with their pictures."""
    every = emoji_classes()
    pictures = emoji_pictures(list(every), "noto")
    top = predict(model, pictures, batch_size=16).argmax(1).tolist()
    right = [i for i, (k, classes) in enumerate(zip(top, every.values(), strict=True)) if k in classes]
    lot = np.sort(np.random.default_rng(0).permutation(right)[:count])
    return [list(every)[i] for i in lot], pictures[lot]


def large(options: argparse.Namespace) -> tuple[Case, list[str]]:
    model = load_efficientnet()
    names, x = known_emoji(model, options.images or 32)
    removal = REMOVALS[options.removal](emoji_pictures(list(emoji_classes()), "twemoji"))
    name = "efficientnet" if options.removal == "colour" else f"efficientnet {options.removal}"
    anew = lambda: untrained()  # noqa: E731
    few = ("gradient", "integrated-gradients", "gradcam", "occlusion")
    cheap = {"occlusion": {"window": 28, "stride": 28}, "integrated-gradients": {"steps": 16}}
    return Case(name, model, x, removal, Grid(14), anew, few, 2, 8, cheap, again=False), names


def untrained() -> nn.Module:
    """The same network with weights by chance, and statistics of its normalisation by one batch of noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = EfficientNetLite0()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            model.train()(torch.rand(16, 3, 224, 224))
    return model.eval()


def maps(options: argparse.Namespace) -> None:
    """Maps of EfficientNet-Lite0 next to controls."""
    case, names = large(options)
    run = dict(of_model(case, Kept(options.out), 0))
    scores = together([run])
    print(f"explained: {', '.join(names)}")
    show_figures(f"EfficientNet-Lite0: {len(names)} emoji by Noto, Q {options.removal}", scores)
    show_gaps("Differences, paired picture by picture", scores, (
        ("QFA @ fb", best_control(scores, "fb")),
        *(("QFA @ fb", f"{name} @ fb") for name in case.baselines), ("QFA @ fb", "QFA of fh @ fb"),
    ))  # fmt: skip
    show_likeness("Randomised weights, and edges", [run], LIKE)
    show_cost(case, run)


def search(options: argparse.Namespace) -> None:
    """Masks of the small network by Q and cells: what they keep, and how much of them is chance."""
    model, train, n = load_fashion_resnet(), load_fashion("train", limit=5_000), options.images or 200
    x, rows = load_fashion("test", limit=n).images, []
    for q, make in REMOVALS.items():
        for side in (2, 4, 7):
            case = Case("search", model, x, make(train.images), Grid(side), make_resnet, batch=250)
            shared: dict[str, Any] = {"removal": case.removal, "masker": case.masker, "batch_size": 250}
            first, again = (qfa(model, x, **shared, seed=seed) for seed in (0, 100))
            scores = case.curves(model, first.maps, 0)
            edges = case.curves(model, control_maps("edge", x), 0)
            columns = [first.kept.numpy(), first.change.numpy(), *(scores[f"keep {k} %"] for k in (5, 20, 50))]
            against = [said(paired_interval(scores[f], edges[f]), "+") for f in ("keep 5 %", "keep 20 %")]
            like = said(bootstrap_interval(likeness(first.maps, again.maps)))
            rows.append(
                [f"{q}, {28 // side} x {28 // side}", *(said(bootstrap_interval(c)) for c in columns), *against, like]
            )
    header = ["Q, cells", "kept of the cells", "change (0 to 2)", "keep 5 %", "keep 20 %", "keep 50 %"]
    header += ["5 %, minus edges", "20 %, minus edges", "with other draws"]
    table(f"QFA of the small network, {n} garments", header, rows)


def cells(options: argparse.Namespace) -> None:
    """Masks of EfficientNet-Lite0 by other cells, and by more passes."""
    case, names = large(options)
    first = replace(case, x=case.x[:16], name=f"{case.name} cells")
    kept, rows = Kept(options.out), []
    ways: dict[str, tuple[Masker, int]] = {
        "16 x 16 cells, 30 passes": (Grid(14), 30),
        "16 x 16 cells, 100 passes": (Grid(14), 100),
        "56 x 56 cells": (Grid(4), 30),
        "32 x 32 cells": (Grid(7), 30),
        "8 x 8 cells": (Grid(28), 30),
        "4 x 4 cells": (Grid(56), 30),
        "64 superpixels": (Superpixels(8, 8), 30),
    }
    for name, (masker, steps) in ways.items():

        def search(masker: Masker = masker, steps: int = steps) -> dict[str, Any]:
            shared: dict[str, Any] = {"removal": case.removal, "masker": masker, "step": 1.5 / steps, "steps": steps}
            found = qfa(case.model, first.x, **shared, batch_size=case.batch)
            return {"maps": found.maps.numpy(), "kept": found.kept.numpy(), "change": found.change.numpy()}

        found = kept.get(f"{case.name} cells {name}", search)
        values = torch.from_numpy(found["maps"])
        scores = kept.get(f"{case.name} cells figures {name}", lambda v=values: first.curves(case.model, v, 0))
        cost = f"{float(found['seconds']) / len(values):.1f}"
        shown = [found["kept"], found["change"], *(scores[f"keep {k} %"] for k in (5, 10, 20))]
        rows.append([name, *(said(bootstrap_interval(column)) for column in shown), cost])
    header = ["", "kept of the cells", "change (0 to 2)", "keep 5 %", "keep 10 %", "keep 20 %", "CPU-s a picture"]
    table(f"QFA of EfficientNet-Lite0, {len(first.x)} emoji: {', '.join(names[:16])}", header, rows)


def diet(options: argparse.Namespace) -> None:
    """DiET's copy of EfficientNet-Lite0, tuned on emoji by Twemoji."""
    case, names = large(options)
    kept, every = Kept(options.out), list(emoji_classes())
    lot = np.random.default_rng(1).permutation(len(every))[: options.tuned or 48]
    tuned = emoji_pictures([every[i] for i in lot], "twemoji")
    fitted = fitted_diet(case, options.out, tuned, 0, options.rate)
    copy = fitted.student(case.model)
    run = {"QFA @ fb": mapped(case, kept, "qfa fb", case.model, lambda: case.qfa(case.model, 0), 0)}
    run |= dict(of_copy(case, kept, "fs", copy, lambda: case.qfa(copy, 0), 0, "DiET"))
    scores = together([run])
    report = fitted.report
    print({name: report[name] for name in ("n", "agreement", "change", "passes", "stopped_by_guard")})
    others = emoji_pictures(every, "fluent")
    same = answers(copy, case.model, others, torch.zeros(len(others), dtype=torch.long))["agrees"]
    print("agreement on emoji by Fluent, %:", share(int(same.sum()), len(same)))
    show_figures(f"EfficientNet-Lite0: {len(names)} emoji by Noto, Q {options.removal}", scores)
    show_gaps("Differences", scores, (("DiET @ fs", best_control(scores, "fs")), ("DiET @ fs", "QFA @ fb")))
    show_cost(case, run)


def page(options: argparse.Namespace) -> None:
    """`efface.explain` on some emoji and wallpapers, as a report with overlays."""
    from efface.cli.map_files import write_maps

    out = options.out or Path("real-classifiers")
    model, names = load_efficientnet(), ["zebra", "soccer ball", "umbrella", "flamingo", "teapot", "guitar"]
    photos = ["brushes", "spaniels", "drum", "cat"]
    images = torch.cat([emoji_pictures(names), torch.stack([photograph(name) for name in photos])])
    shared: dict[str, Any] = {"names": [*names, *photos], "classes": imagenet_classes(), "batch_size": 8, "draws": 2}
    found = efface.explain(model, images, methods=["qfa", "gradcam", "gradient"], show=len(images), **shared)
    found.audit.save(out / "efficientnet.html")
    write_maps(out / "efficientnet", found, images, shared["names"], shared["classes"])
    shown = load_fashion(limit=24)
    small = efface.explain(
        load_fashion_resnet(), shown.images, methods=["qfa", "gradient", "occlusion"], labels=shown.labels,
        classes=GARMENTS, show=8,
    )  # fmt: skip
    small.audit.save(out / "fashion.html")
    print(f"written to {out}")


PARTS = {part.__name__: part for part in (fashion, search, emoji, photographs, maps, cells, diet, page)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--out", type=Path, help="folder: what is in it is not computed again")
    parser.add_argument("--seeds", type=int, default=3, help="of tuning, of fashion (default: 3)")
    parser.add_argument("--images", type=int, help="how many are explained (default: 500 garments, 32 emoji)")
    parser.add_argument(
        "--rate", type=float, default=DiET.rate, help="of DiET's tuning, of diet (default: %(default)g)"
    )
    parser.add_argument("--removal", choices=list(REMOVALS), default="colour", help="Q (default: colour)")
    parser.add_argument("--tuned", type=int, help="how many DiET tunes on (default: 1,000 garments, 48 emoji)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
