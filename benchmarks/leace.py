"""LEACE against concept-erasure 0.2.4, in one run: speed, memory, accuracy, rare concepts.

    python -m benchmarks.leace                # all tables, about six minutes on two cores
    python -m benchmarks.leace speed --dims 768 --threads 2
    python -m benchmarks.leace accuracy prevalence

Every figure is a ratio or an error; seconds are printed for orientation only. `update` is compared with one
dense float32 product X^T X, `apply` with two memory passes: `x.clone()`, which like an eraser returns fresh
memory, and a copy into memory that is already mapped.
"""

from __future__ import annotations

import argparse
import functools
import os
import warnings

warnings.filterwarnings("ignore")

import concept_erasure
import numpy as np
import torch

import efface
from benchmarks._measure import interleaved, once, peak_memory, table

PEER = "concept-erasure 0.2.4"
_APPLIED = 2**26  # Elements: 256 MiB, so that a memory pass is one and not a cache's.


def make_data(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(0, 2, (n,), generator=generator)
    x = torch.randn(n, d, generator=generator) + 1
    x[:, : d // 8] += 0.5 * z[:, None]
    return x, z


def speed(n: int, dims: list[int], threads: list[int], repeats: int) -> None:
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        rows += [speed_row(n, d, count, repeats) for d in dims]
    header = ["d", "threads", "update / dense product", "peer's update / ours", "solve: peer / ours"]
    header += [
        "whole fit: peer / ours",
        "apply / x.clone()",
        "apply / copy to warm memory",
        "peer's apply / ours",
        "ours: update, solve (ms)",
    ]
    table(f"Speed, n = {n}, float32, against {PEER}", header, rows)


def speed_row(n: int, d: int, threads: int, repeats: int) -> list[object]:
    repeats = max(repeats, repeats * 4096 // d)
    x, z = make_data(n, d)
    product = torch.empty(d, d)
    ours, theirs = efface.LeaceFitter(d, 1), concept_erasure.LeaceFitter(d, 1)
    gather = interleaved(
        {
            "dense": lambda: torch.mm(x.T, x, out=product),
            "ours": lambda: ours.update(x, z),
            "theirs": lambda: theirs.update(x, z),
        },
        repeats,
    )
    solve = {
        "ours": min(once(functools.partial(fresh_eraser, ours)) for _ in range(3)),
        # The peer caches its eraser until the next update; one run is enough for a factor this large.
        "theirs": min(once(functools.partial(fresh_peer_eraser, theirs)) for _ in range(3 if d < 1000 else 1)),
    }
    apply = apply_times(torch.randn(_APPLIED // d, d) + 1, ours.eraser, theirs.eraser, 5)
    fit = {name: gather[name] + solve[name] for name in ("ours", "theirs")}
    return [
        d,
        threads,
        f"{gather['ours'] / gather['dense']:.2f}",
        f"{gather['theirs'] / gather['ours']:.1f}",
        f"{solve['theirs'] / solve['ours']:.1f}",
        f"{fit['theirs'] / fit['ours']:.1f}",
        f"{apply['ours'] / apply['clone']:.2f}",
        f"{apply['ours'] / apply['warm']:.1f}",
        f"{apply['theirs'] / apply['ours']:.1f}",
        f"{gather['ours'] * 1e3:.0f}, {solve['ours'] * 1e3:.0f}",
    ]


def fresh_eraser(fitter: efface.LeaceFitter) -> efface.LeaceEraser:
    fitter._eraser = None
    return fitter.eraser


def fresh_peer_eraser(fitter: concept_erasure.LeaceFitter) -> concept_erasure.LeaceEraser:
    vars(fitter).pop("_cached_eraser", None)
    return fitter.eraser


def apply_times(x: torch.Tensor, ours: efface.LeaceEraser, theirs: object, repeats: int) -> dict[str, float]:
    warm = torch.empty_like(x)
    return interleaved(
        {
            "clone": x.clone,
            "warm": lambda: warm.copy_(x),
            "ours": lambda: ours(x),
            "theirs": lambda: theirs(x),  # pyright: ignore[reportCallIssue]
        },
        repeats,
    )


def memory(n: int, dims: list[int]) -> None:
    rows = []
    for d in dims:
        setup = f"import torch\nfrom benchmarks.leace import make_data\nx, z = make_data({n}, {d})\nimport {{0}}"
        body = "f = {0}.LeaceFitter(%d, 1).update(x, z)\ne = f.eraser" % d  # noqa: UP031
        peaks = [peak_memory(setup.format(m), body.format(m)) for m in ("efface", "concept_erasure")]
        rows.append([d, *(f"{p:.0f}" for p in peaks), f"{peaks[1] / peaks[0]:.1f}"])
    table("Peak memory of one fit above the data (MiB)", ["d", "efface", PEER, "peer / ours"], rows)


def accuracy() -> None:
    rows = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for offset in (0.0, 1e2, 1e4):
            if dtype.itemsize == 2 and offset > 1e3:
                continue  # Half precision resolves 8 (float16) or 64 (bfloat16) there: nothing is left of the data.
            rows.append([str(dtype)[6:], f"{offset:g}", *accuracy_row(dtype, offset)])
    header = [
        "x",
        "mean / sd",
        "efface: covariance error",
        "class gap / sd",
        f"{PEER}: covariance error",
        "class gap / sd",
    ]
    table("Accuracy: relative error of sigma_xx against a float64 two-pass reference, d = 256", header, rows)


def accuracy_row(dtype: torch.dtype, offset: float) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (20_000,), generator=generator)
    x = torch.randn(20_000, 256, generator=generator, dtype=torch.float64) + offset
    x[:, 0] += y
    x = x.to(dtype)
    wide = x.double() - x.double().mean(0)
    expected = wide.T @ wide / (len(x) - 1)
    cells = []
    for library in (efface, concept_erasure):
        try:
            fitter = library.LeaceFitter(
                256, 1, shrinkage=False, dtype=None if dtype.itemsize == 2 and library is efface else dtype
            )
            for part, labels in zip(x.split(4000), y.split(4000), strict=True):
                fitter.update(part, labels)
            sigma = fitter.moments.scatter_xx / (len(x) - 1) if library is efface else fitter.sigma_xx.double()
            error = float((sigma - expected).norm() / expected.norm())
            x_ = fitter.eraser(x).double()
            gap = (x_[y == 1].mean(0) - x_[y == 0].mean(0)).abs() / wide.std(0)
            cells += [f"{error:.1e}", f"{float(gap.max()):.1e}"]
        except NotImplementedError as failure:
            cells += [f"fails: {str(failure).split(' for ')[0][:40]}", ""]
    return cells


def prevalence(n: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rows = []
    for share in (0.5, 0.1, 0.01, 1e-3, 2e-4):
        rng = np.random.default_rng(0)
        y = torch.from_numpy((rng.permutation(n) < share * n).astype(int))
        x = torch.from_numpy(rng.normal(size=(n, 32)))
        x[:, 0] += 3 * y
        row: list[object] = [f"{share:.2%}", int(y.sum())]
        for erase in (None, efface.LeaceEraser.fit(x, y), concept_erasure.LeaceEraser.fit(x, y)):
            x_ = (x if erase is None else erase(x)).numpy()
            probe = LogisticRegression(max_iter=1000, class_weight="balanced").fit(x_, y.numpy())
            row.append(f"{roc_auc_score(y.numpy(), probe.decision_function(x_)):.3f}")
        rows.append(row)
    header = ["prevalence", "positives", "before", "efface", PEER]
    table(f"Rare concepts: AUC of a fresh linear probe on the data of the fit, n = {n}, shift 3 sd", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ["speed", "memory", "accuracy", "prevalence"]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"which of {', '.join(tables)}; all by default")
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--dims", type=int, nargs="+", default=[768, 2048, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    chosen = args.tables or tables
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {load:.1f} at the start")
    if "speed" in chosen:
        speed(args.n, args.dims, args.threads, args.repeats)
    torch.set_num_threads(max(args.threads))
    if "memory" in chosen:
        memory(args.n, args.dims)
    if "accuracy" in chosen:
        accuracy()
    if "prevalence" in chosen:
        prevalence(100_000)


if __name__ == "__main__":
    main()
