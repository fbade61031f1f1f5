"""Erasers of vectors, their statistics and their matrix functions."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.groups.parts import eraser_parts, short
from benchmarks.identity.harness import Group, flat, named
from benchmarks.identity.inputs import arrays


def leace() -> dict[str, Tensor]:
    from efface import LeaceEraser, LeaceFitter

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        new, _ = arrays.held_out(dtype)
        for shrinkage in (True, False):
            for affine in (True, False):
                name = f"{short(dtype)}/{'shrunk' if shrinkage else 'plain'}/{'affine' if affine else 'linear'}"
                eraser = LeaceEraser.fit(x, z, shrinkage=shrinkage, affine=affine)
                out |= eraser_parts(name, eraser)
                out[f"{name}/P"] = eraser.P
                out[f"{name}/applied"] = eraser(new)
    x, z = arrays.vectors()
    new, _ = arrays.held_out()
    variants: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "continuous": (x, arrays.quantity(), {}),
        "columns": (x, arrays.columns(), {}),
        "one-hot": (x, torch.nn.functional.one_hot(z, 3), {}),
        "kind": (x, z.double(), {"kind": "categorical"}),
        "svd_tol": (x, z, {"svd_tol": 0.5}),
        "masked": (x, z, {"mask": arrays.mask()}),
        "weighted": (x, z, {"weight": arrays.weights()}),
        "numpy": (x.numpy(), z.numpy(), {}),
        "sequences": (x.view(24, 10, 8), z.view(24, 10), {}),
        "method orth": (x, z, {"method": "orth"}),
    }
    for name, (rows, labels, options) in variants.items():
        eraser = LeaceEraser.fit(rows, labels, **options)
        out |= eraser_parts(name, eraser)
        out[f"{name}/applied"] = eraser(new)
    for shrinkage in (True, False):
        rows, labels = arrays.few_rows()
        name = f"few rows/{'shrunk' if shrinkage else 'plain'}"
        eraser = LeaceEraser.fit(rows, labels, shrinkage=shrinkage)
        out |= eraser_parts(name, eraser) | {f"{name}/applied": eraser(rows)}
    for dtype in (torch.complex64, torch.complex128):
        rows, labels = arrays.complex_vectors(dtype)
        eraser = LeaceEraser.fit(rows, labels)
        out |= eraser_parts(short(dtype), eraser) | {f"{short(dtype)}/applied": eraser(rows[:40])}
    rows, labels = arrays.vectors(torch.float32)
    far = LeaceEraser.fit(rows + 1e4, labels)
    out |= eraser_parts("far from zero", far) | {"far from zero/applied": far(rows + 1e4)}
    eraser = LeaceEraser.fit(rows, labels)
    for dtype in (torch.float16, torch.bfloat16):
        out[f"applied to {short(dtype)}"] = eraser(rows.to(dtype))
        out |= eraser_parts(f"fitted on {short(dtype)}", LeaceEraser.fit(rows.to(dtype), labels))
    out["as a module"] = eraser.to_module()(rows)
    out["in float64"] = eraser.to(torch.float64)(x)
    out["from numpy"] = torch.from_numpy(eraser(rows.numpy()))
    big, classes = arrays.vectors(torch.float32, n=20_000, d=64, seed=20)  # chunks, and products in float32
    fitter = LeaceFitter.fit(big, classes)
    out |= eraser_parts("large", fitter.eraser)
    out["large/applied"] = fitter.eraser(big)
    out["large/sigma_xx"], out["large/sigma_xz"] = fitter.sigma_xx, fitter.sigma_xz
    return out


def orth() -> dict[str, Tensor]:
    from efface import OrthogonalFitter

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        for affine in (True, False):
            name = f"{short(dtype)}/{'affine' if affine else 'linear'}"
            eraser = OrthogonalFitter.fit(x, z, affine=affine).eraser
            out |= eraser_parts(name, eraser)
            out[f"{name}/applied"] = eraser(arrays.held_out(dtype)[0])
    x, _ = arrays.vectors()
    for name, z in (("continuous", arrays.quantity()), ("columns", arrays.columns())):
        out |= eraser_parts(name, OrthogonalFitter.fit(x, z).eraser)
    x, z = arrays.complex_vectors()
    out |= eraser_parts("complex128", OrthogonalFitter.fit(x, z).eraser)
    return out


def mean_difference() -> dict[str, Tensor]:
    from efface import MeanDifferenceFitter

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        for affine in (True, False):
            name = f"{short(dtype)}/{'affine' if affine else 'linear'}"
            eraser = MeanDifferenceFitter.fit(x, z, affine=affine).eraser
            out |= eraser_parts(name, eraser)
            out[f"{name}/applied"] = eraser(arrays.held_out(dtype)[0])
    return out


def oracle() -> dict[str, Tensor]:
    from efface import OracleEraser

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        new, labels = arrays.held_out(dtype)
        for shrinkage in (True, False):
            name = f"{short(dtype)}/{'shrunk' if shrinkage else 'plain'}"
            eraser = OracleEraser.fit(x, z, shrinkage=shrinkage)
            out |= eraser_parts(name, eraser) | {f"{name}/applied": eraser(new, labels)}
    x, _ = arrays.vectors()
    for name, z in (("continuous", arrays.quantity()), ("columns", arrays.columns())):
        eraser = OracleEraser.fit(x, z)
        out |= eraser_parts(name, eraser) | {f"{name}/applied": eraser(x, z)}
    x, z = arrays.complex_vectors()
    eraser = OracleEraser.fit(x, z)
    out |= eraser_parts("complex128", eraser) | {"complex128/applied": eraser(x[:40], z[:40])}
    return out


def quadratic() -> dict[str, Tensor]:
    from efface import QuadraticEraser, QuadraticFitter

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        for k in (2, 3):
            x, z = arrays.vectors(dtype, k=k)
            new, labels = arrays.held_out(dtype, k=k)
            for shrinkage in (True, False):
                name = f"{short(dtype)}/{k} classes/{'shrunk' if shrinkage else 'plain'}"
                fitter = QuadraticFitter.fit(x, z, shrinkage=shrinkage)
                out |= eraser_parts(name, fitter.eraser) | {f"{name}/applied": fitter.eraser(new, labels)}
                editor = fitter.editor()
                out |= eraser_parts(f"{name}/editor", editor)
                out[f"{name}/edited"] = editor(new, labels, 1)
                out[f"{name}/transported"] = editor.transport(new, 0, 1)
    x, z = arrays.complex_vectors()
    eraser = QuadraticEraser.fit(x, z)
    out |= eraser_parts("complex128", eraser) | {"complex128/applied": eraser(x[:40], z[:40])}
    x, z = arrays.vectors()
    eraser = QuadraticEraser.fit(x, torch.nn.functional.one_hot(z, 3), weight=arrays.weights())
    out |= eraser_parts("one-hot, weighted", eraser)
    out["one-hot, weighted/moved"] = eraser.optimal_transport(1, x)
    return out


def composing() -> dict[str, Tensor]:
    from efface import LeaceEraser, compose, join_concepts

    out: dict[str, Tensor] = {}
    first, second = arrays.two_concepts()
    for dtype in (torch.float32, torch.float64):
        for affine in (True, False):
            x, _ = arrays.vectors(dtype)
            x[:, 5] += first
            x[:, 6] += second
            one = LeaceEraser.fit(x, first, affine=affine)
            two = LeaceEraser.fit(one(x), second, affine=affine)
            both = compose(one, two)
            name = f"compose/{short(dtype)}/{'affine' if affine else 'linear'}"
            out |= eraser_parts(name, both) | {f"{name}/applied": both(x)}
    x, _ = arrays.vectors()
    x[:, 5] += first
    x[:, 6] += second
    joined = join_concepts(first, second, arrays.quantity())
    cells = join_concepts(first, second, intersections=True)
    out |= {"join/columns": joined, "join/intersections": cells}
    out["join/kinds"] = join_concepts(first.double(), second, kinds=("categorical", "continuous"))
    for name, z in (("joined", joined), ("intersections", cells)):
        eraser = LeaceEraser.fit(x, z)
        out |= eraser_parts(name, eraser) | {f"{name}/applied": eraser(x)}
    return out


def streaming() -> dict[str, Tensor]:
    """Batches, merging, files and resuming, for each fitter; and the statistics themselves."""
    from efface import (
        LeaceFitter,
        MeanDifferenceFitter,
        Moments,
        OracleFitter,
        OrthogonalFitter,
        QuadraticFitter,
    )

    out: dict[str, Tensor] = {}
    fitters = (LeaceFitter, OrthogonalFitter, MeanDifferenceFitter, OracleFitter, QuadraticFitter)
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        batches = list(zip(x.split(70), z.split(70), strict=True))
        for fitter in fitters:
            name = f"{fitter.__name__}/{short(dtype)}"
            straight, left, right = (fitter(8, 3, dtype=dtype) for _ in range(3))
            for i, (rows, labels) in enumerate(batches):
                straight.update(rows, labels)
                (left, right)[i % 2].update(rows, labels)
            out |= eraser_parts(f"{name}/streamed", straight.eraser)
            out |= eraser_parts(f"{name}/sum", (left + right).eraser)
            out |= eraser_parts(f"{name}/merged", right.merge(left).eraser)
            out[f"{name}/state"] = flat(straight.state_dict())
            with tempfile.TemporaryDirectory() as folder:
                broken = fitter(8, 3, dtype=dtype).update(*batches[0])
                for rows, labels in batches[1:]:
                    broken.save(f"{folder}/fit")
                    broken = fitter.load(f"{folder}/fit").update(rows, labels)
            out[f"{name}/resumed"] = flat(broken.state_dict())
    x, z = arrays.vectors(torch.float32)
    wide = torch.nn.functional.one_hot(z, 3)
    for second in ("full", "diag"):
        moments = Moments(8, 3, second=second)
        for rows, labels in zip(x.split(70), wide.split(70), strict=True):
            moments.update(rows, labels)
        other = Moments(8, 3, second=second).update(x[:50] + 100, wide[:50], weight=arrays.weights(50))
        for name, found in (("", moments), (" summed", moments + other)):
            for key in ("mean_x", "mean_z", "scatter_xx", "scatter_xz", "scatter_zz"):
                out[f"Moments {second}{name}/{key}"] = getattr(found, key)
            out[f"Moments {second}{name}/state"] = flat(found.state_dict())
    return out


def classwise() -> dict[str, Tensor]:
    from efface import ClassMoments, groupby

    out: dict[str, Tensor] = {}
    x, z = arrays.vectors(torch.float32)
    moments = ClassMoments(8, 3)
    for rows, labels in zip(x.split(70), z.split(70), strict=True):
        moments.update(rows, labels)
    other = ClassMoments(8, 3).update(x[:60], z[:60], weight=arrays.weights(60), mask=arrays.mask(60))
    other.update_single(x[60:70], 2)
    for name, found in (("streamed", moments), ("weighted", other), ("summed", moments + other)):
        for key in ("n", "weight", "prior", "mean_x", "global_mean", "scatter_xx", "scatter_xz"):
            out[f"{name}/{key}"] = getattr(found, key)
        out[f"{name}/state"] = flat(found.state_dict())
    grouped = groupby(x, z, stable=True)
    out["groupby/indices"], out["groupby/labels"] = grouped.indices, torch.tensor(grouped.labels)
    for label, group in grouped:
        out[f"groupby/group {label}"] = group
    out["groupby/mapped"] = grouped.map(lambda label, group: group * (label + 1)).coalesce()
    out["groupby/columns"] = groupby(x, z[:8] % 2, dim=1, stable=True).coalesce()
    return out


def quantiles() -> dict[str, Tensor]:
    from efface import QuantileNormalizer, cdf, icdf

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        x, z = arrays.vectors(dtype)
        new, labels = arrays.held_out(dtype)
        normalizer = QuantileNormalizer(x, z, num_bins=32)
        name = short(dtype)
        out[f"{name}/lut"] = normalizer.lut
        out[f"{name}/uniform"] = normalizer(new, labels)
        out[f"{name}/of one class"] = normalizer(new, 1)
        out[f"{name}/transported"] = normalizer.transport(new, labels, 2)
        out[f"{name}/cdf"] = normalizer.cdf(0, new)
        out[f"{name}/sampled"] = normalizer.sample(1, 7, generator=arrays.source(3))
        ordered = x[:, 0].sort().values
        out[f"{name}/empirical cdf"] = cdf(new, ordered)
        out[f"{name}/empirical icdf"] = icdf(torch.linspace(0, 1, 33, dtype=dtype), ordered)
    x, z = arrays.vectors(torch.float32)
    other = QuantileNormalizer(x.T.contiguous(), z, num_bins=8, dim=1)
    out["along dim 1"] = other(x.T.contiguous(), z)
    return out


def matrices() -> dict[str, Tensor]:
    """Shrinkage and optimal transport between Gaussians."""
    from efface import optimal_linear_shrinkage
    from efface.linalg import transport

    out: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.float64):
        K = arrays.covariances().to(dtype)
        name = short(dtype)
        out[f"{name}/shrunk"] = optimal_linear_shrinkage(K, 20)
        out[f"{name}/sqrt"], out[f"{name}/rsqrt"] = transport.psd_sqrt_rsqrt(K)
        out[f"{name}/map"] = transport.ot_map(K[0], K[1:])
        out[f"{name}/distance"] = transport.ot_distance(K[0], K[1:])
        out[f"{name}/midpoint"] = transport.ot_midpoint(K[0], K[1], 0.3, 0.7)
        out[f"{name}/barycenter"] = transport.ot_barycenter(K, torch.tensor([0.2, 0.3, 0.5]))
        out[f"{name}/positive definite"] = transport.is_positive_definite(torch.cat([K, -K]))
    return out


GROUPS: dict[str, Group] = named(
    leace, orth, mean_difference, oracle, quadratic, composing, streaming, classwise, quantiles, matrices
)
