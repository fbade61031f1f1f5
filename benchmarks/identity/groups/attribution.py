"""Removal, masks, DiET, baseline maps, curves, `efface.explain`."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.groups.parts import audit_parts, modules
from benchmarks.identity.harness import Group, flat, named, text
from benchmarks.identity.inputs import arrays, classifiers


def removals() -> dict[str, Tensor]:
    """What stands where something is removed, and cells of masks."""
    from efface.attribution import (
        Blur,
        ConstantColour,
        FeatureGroups,
        Grid,
        Marginal,
        Segments,
        Superpixels,
        TabularGaussian,
        TokenMask,
        masked,
    )

    out: dict[str, Tensor] = {}
    x, _, _ = classifiers.squares(6)
    reference, _, _ = classifiers.squares(20, seed=1)
    of = ConstantColour.of(reference)
    out["ConstantColour/of"] = torch.tensor([of.mean, of.std], dtype=torch.float64)
    images = {
        "ConstantColour": ConstantColour(**classifiers.REMOVAL),
        "Blur": Blur(1.5),
        "Marginal": Marginal(reference),
        "Marginal by sample": Marginal(reference, unit="sample"),
    }
    for name, removal in images.items():
        out[name] = removal.sample(x, arrays.source(2))
    rows = classifiers.table_rows()
    out["TabularGaussian"] = TabularGaussian.of(rows).sample(rows, arrays.source(2))
    out["TabularGaussian, columns alone"] = TabularGaussian(rows.mean(0), std=rows.std(0)).sample(
        rows, arrays.source(2)
    )
    out["Marginal of a table"] = Marginal(rows).sample(rows[:4], arrays.source(2))
    out["TokenMask"] = TokenMask(1).sample(classifiers.token_rows(), arrays.source(2))
    out["Marginal of tokens"] = Marginal(classifiers.token_rows(9)).sample(classifiers.token_rows(), arrays.source(2))
    labels = torch.arange(144).view(12, 12) // 12 // 3
    maskers = {
        "Grid": Grid(2),
        "Grid nearest": Grid(3, mode="nearest"),
        "Grid of cells": Grid(cells=(5, 4)),
        "Segments": Segments(labels),
        "Superpixels": Superpixels(3, 4),
    }
    for name, masker in maskers.items():
        on = masker.on(x)
        mask = torch.rand(len(x), *on.shape(x), generator=arrays.source(3))
        out[f"{name}/expanded"], out[f"{name}/map"] = on.expand(mask, x), on.map(mask, x)
        out[f"{name}/free"] = on.free(x)
    groups = FeatureGroups(((0, 2), (1, 3), (4, 5)))
    out["FeatureGroups"] = groups.expand(torch.rand(12, 3, generator=arrays.source(3)), rows)
    out["masked"] = masked(
        x, torch.rand(6, 1, 12, 12, generator=arrays.source(4)), images["Blur"].sample(x, arrays.source(2))
    )
    return out


def qfa() -> dict[str, Tensor]:
    from efface.attribution import (
        Blur,
        ConstantColour,
        FeatureGroups,
        Grid,
        Marginal,
        Superpixels,
        TabularGaussian,
        TokenMask,
        Tokens,
    )
    from efface.attribution import qfa as search

    out: dict[str, Tensor] = {}
    x, _, _ = classifiers.squares(6)
    colour = ConstantColour(**classifiers.REMOVAL)
    net = classifiers.colour_net()
    jobs: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "grid": (net, x, {"removal": colour, "masker": Grid(2)}),
        "as released": (net, x, {"removal": colour, "masker": Grid(2), "memory": 0.0, "bound": None, "decay": False}),
        "draws": (
            net,
            x,
            {"removal": colour, "masker": Grid(3, mode="nearest"), "draws": 3, "seed": 7, "sparsity": 1.5},
        ),
        "blur, superpixels": (net, x, {"removal": Blur(1.0), "masker": Superpixels(3, 3)}),
        "marginal": (
            net,
            x,
            {"removal": Marginal(classifiers.squares(20, seed=1)[0]), "masker": Grid(4), "batch_size": 4},
        ),
        "table": (
            classifiers.table_net(),
            classifiers.table_rows(),
            {"removal": TabularGaussian.of(classifiers.table_rows()), "masker": FeatureGroups()},
        ),
        "tokens": (
            classifiers.TokenNet(),
            classifiers.token_rows(),
            {"removal": TokenMask(1), "masker": Tokens(keep=(0,))},
        ),
    }
    for name, (model, rows, options) in jobs.items():
        found = search(model, rows, **{"step": 0.1, "steps": 12, **options})
        out |= {f"{name}/{key}": getattr(found, key) for key in ("masks", "maps", "kept", "change")}
    return out


def _fitted(name: str, fitted: Any, model: Any, x: Tensor) -> dict[str, Tensor]:
    student = fitted.student(model)
    found = fitted.explain(student, x)
    return {
        f"{name}/student": modules(student),
        f"{name}/masks": fitted.masks,
        f"{name}/maps": found.maps,
        f"{name}/kept": found.kept,
        f"{name}/report": text({k: v for k, v in fitted.report.items() if k != "settings"}),
    }


def diet() -> dict[str, Tensor]:
    from efface.attribution import ConstantColour, DiET, FeatureGroups, Grid, TabularGaussian

    out: dict[str, Tensor] = {}
    x, _, _ = classifiers.squares(32)
    net = classifiers.colour_net()
    made = DiET(ConstantColour(**classifiers.REMOVAL), Grid(2), **classifiers.QUICK_DIET)
    fitted = made.fit(net, x)
    out |= _fitted("squares", fitted, net, x[:4])
    out["squares/logits"] = fitted.student(net)(x[:4]).detach()
    out["squares/original untouched"] = modules(net)
    train = dataclasses.replace(made, batch_norm="train", rounds=1, epochs=2, draws=2, guard="warn", seed=3)
    out |= _fitted("batch norm in training", train.fit(net, x), net, x[:4])
    eager = dataclasses.replace(made, rate=0.3, rounds=1, epochs=2, least_agreement=1.0)
    out |= _fitted("stopped by the guard", eager.fit(net, x), net, x[:4])
    rows = classifiers.table_rows(16)
    of_table = DiET(TabularGaussian.of(rows), FeatureGroups(), **{**classifiers.QUICK_DIET, "batch_size": 8})
    out |= _fitted("table", of_table.fit(classifiers.table_net(), rows), classifiers.table_net(), rows[:4])
    return out


def baselines() -> dict[str, Tensor]:
    """Every baseline map, the controls, and the full-gradient decomposition."""
    from efface.attribution import BASELINES, CONTROLS, attribute, control_maps, full_gradient, oracle_maps

    out: dict[str, Tensor] = {}
    net, x = classifiers.convolutional(), classifiers.pictures()
    options: dict[str, dict[str, Any]] = {
        "smoothgrad": {"samples": 4},
        "integrated-gradients": {"steps": 8},
        "occlusion": {"window": 3, "stride": 2},
        "gradient-shap": {"samples": 4},
    }
    for method in BASELINES:
        out[method] = attribute(method, net, x, **options.get(method, {}))
    for reduce in ("sum", "absolute", "size"):
        out[f"gradient/{reduce}"] = attribute("gradient", net, x, 1, reduce=reduce)
    out["gradcam/layer"] = attribute("gradcam", net, x, torch.tensor([0, 1, 2, 0]), layer="0")
    out["integrated-gradients/grey"] = attribute("integrated-gradients", net, x, steps=8, baseline=0.5)
    found = full_gradient(net, x, torch.tensor([0, 1, 2, 0]))
    out |= {f"full gradient/{key}": getattr(found, key) for key in ("output", "input_term", "bias_term", "gap")}
    for name in CONTROLS:
        out[f"control/{name}"] = control_maps(name, x, seed=3)
    _, _, signal = classifiers.squares(4)
    out["oracle"], out["oracle, coarse"] = oracle_maps(signal), oracle_maps(signal, upsampling=2)
    return out


def measuring() -> dict[str, Tensor]:
    """Keep and drop curves, metrics of maps, selection of cells, removing and retraining."""
    from efface.attribution import (
        Blur,
        ConstantColour,
        Explained,
        agreement,
        drop_curve,
        iou,
        keep_curve,
        mass,
        q_robustness,
        rank_auc,
        ranks,
        remove_and_retrain,
        top_k,
    )

    out: dict[str, Tensor] = {}
    net = classifiers.colour_net()
    x, labels, signal = classifiers.squares(12)
    colour = ConstantColour(**classifiers.REMOVAL)
    noise = torch.rand(x[:, 0].shape, generator=arrays.source(4))
    maps = ((x.sum(1) + 0.5 * signal + noise) * 3).round() / 3  # with ties
    asked: dict[str, dict[str, Any]] = {"labels": {"labels": labels, "draws": 3}, "agreement": {"seed": 4}}
    for name, curve in (("keep", keep_curve), ("drop", drop_curve)):
        for which, options in asked.items():
            found = curve(net, x, maps, colour, **options)
            out[f"{name}/{which}/hits"], out[f"{name}/{which}/probability"] = found.hits, found.probability
            out[f"{name}/{which}/area"], out[f"{name}/{which}/at"] = found.area(), found.at(0.2)
    out["iou"], out["mass"], out["rank auc"] = iou(maps, signal, seed=1), mass(maps, signal), rank_auc(maps, signal)
    robust = q_robustness(net, x, signal, colour, draws=2)
    out["robustness/l1"], out["robustness/l2"] = robust.l1, robust.l2
    other = classifiers.colour_net()
    head = other[-1]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.bias.add_(torch.tensor([3.0, 0.0, -3.0]))
    out["agreement"] = agreement(net, other, x)
    out["ranks"], out["top"] = ranks(maps, seed=2), top_k(maps, 20, seed=2)
    more, classes, where = classifiers.squares(24, seed=3)
    noisy = more.sum(1) + where + torch.rand(where.shape, generator=arrays.source(5))

    def fit(model: Any, rows: Tensor, classes: Tensor, seed: int) -> None:
        classifiers.train(model, rows, classes, steps=10)

    def make(seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 3))

    out["retrained"] = remove_and_retrain(
        Explained(more, classes, noisy), Explained(x, labels, maps), Blur(1.0), make, fit, fractions=(0.1, 0.5), seed=1
    )
    return out


def tuning() -> dict[str, Tensor]:
    """Training controls of DiET at equal compute."""
    from efface.attribution import (
        ConstantColour,
        Grid,
        input_dropout,
        random_mask_distillation,
        saliency_guided,
    )

    out: dict[str, Tensor] = {}
    net = classifiers.colour_net()
    x, labels, _ = classifiers.squares(32)
    colour = ConstantColour(**classifiers.REMOVAL)
    more = {"passes": 200, "batch_size": 16, "rate": 1e-3}
    jobs = {
        "random masks": random_mask_distillation(net, x, colour, Grid(2), seed=1, **more),
        "random masks, batch norm": random_mask_distillation(
            net, x, colour, Grid(2), batch_norm="train", draws=2, **more
        ),
        "input dropout": input_dropout(net, x, labels, colour, **more),
        "saliency guided": saliency_guided(net, x, labels, **more),
        "saliency guided, unsigned": saliency_guided(net, x, labels, signed=False, **more),
    }
    for name, tuned in jobs.items():
        out[f"{name}/weights"] = modules(tuned.model)
        out[f"{name}/losses"] = text([tuned.losses, tuned.passes])
    return out


def explaining() -> dict[str, Tensor]:
    """`efface.explain` in one call."""
    from efface import explain
    from efface.explanation import PixelModel
    from efface_worlds.attribution import make_world

    out: dict[str, Tensor] = {}
    net = classifiers.colour_net()
    x, labels, _ = classifiers.squares(16)
    train, _, _ = classifiers.squares(32, seed=2)
    model = PixelModel(net, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = explain(
        model,
        x,
        methods=["qfa", "diet", "gradient", "gradcam", "simple-fullgrad"],
        train=train,
        labels=labels,
        steps=15,
        draws=2,
        show=2,
        seed=1,
    )
    for method, maps in found.maps.items():
        out[f"{method}/values"], out[f"{method}/told"], out[f"{method}/heat"] = maps.values, maps.told, maps.heat
        if maps.size is not None:
            out[f"{method}/size"] = maps.size
    out["probabilities"] = found.probabilities
    assert found.fitted is not None
    out["diet/student"] = modules(found.fitted.student(model, check=False))
    out |= audit_parts("audit", found.audit)
    drawn = [p for part in found.audit.walk() for figure in part.figures for p in figure.pictures]
    out["pictures"] = flat({f"{i} {p.title}": p.pixels for i, p in enumerate(drawn)})
    out["heats"] = flat({f"{i} {p.title}": p.heat for i, p in enumerate(drawn) if p.heat is not None})
    world = make_world("spurious digits", 0, train=40, test=12)
    flat_net = make_flat_net()
    classifiers.train(flat_net, world.train.images, world.train.labels, steps=20)
    found = explain(flat_net.eval(), world.test.images, methods="qfa", steps=15, draws=1, show=1)
    out["world/qfa"] = found.maps["qfa"].values
    out |= audit_parts("world/audit", found.audit)
    return out


def make_flat_net() -> Any:
    """A linear classifier of the digits' images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 10))


GROUPS: dict[str, Group] = named(removals, qfa, diet, baselines, measuring, tuning, explaining)
