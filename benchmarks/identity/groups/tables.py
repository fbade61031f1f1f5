"""Estimators, and the command line on files."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.identity.harness import Group, named, text
from benchmarks.identity.inputs import arrays, pipelines


def estimators() -> dict[str, Tensor]:
    import pandas as pd

    from efface.estimators import (
        LeaceTransformer,
        MeanDifferenceTransformer,
        OracleTransformer,
        OrthogonalTransformer,
        QuadraticTransformer,
    )

    out: dict[str, Tensor] = {}
    t = arrays.table()

    def put(name: str, value: Any) -> None:
        out[name] = torch.from_numpy(np.ascontiguousarray(value))

    for kind in (LeaceTransformer, OrthogonalTransformer, MeanDifferenceTransformer):
        name = kind.__name__
        for dtype in (np.float64, np.float32):
            made = kind().fit(t["x"].astype(dtype), sensitive_features=t["group"])
            put(f"{name}/{np.dtype(dtype).name}", made.transform(t["new"].astype(dtype)))
        put(
            f"{name}/weighted",
            kind().fit(t["x"], sensitive_features=t["sex"], sample_weight=t["weight"]).transform(t["new"]),
        )
        put(f"{name}/y", kind(concept="y").fit(t["x"], t["y"]).transform(t["new"]))
        made = kind(affine=False)
        for part in range(4):
            rows = slice(40 * part, 40 * part + 40)
            made.partial_fit(t["x"][rows], sensitive_features=t["group"][rows], classes=["north", "east", "south"])
        put(f"{name}/streamed", made.transform(t["new"]))
    put("LeaceTransformer/quantity", LeaceTransformer().fit(t["x"], sensitive_features=t["age"]).transform(t["new"]))
    both = pd.DataFrame({"group": t["group"], "age": t["age"]})
    put(
        "LeaceTransformer/two",
        LeaceTransformer(shrinkage=False).fit(t["x"], sensitive_features=both).transform(t["new"]),
    )
    put(
        "MeanDifferenceTransformer/bins",
        MeanDifferenceTransformer(n_bins=4).fit(t["x"], sensitive_features=t["age"]).transform(t["new"]),
    )
    for kind in (OracleTransformer, QuadraticTransformer):
        name = kind.__name__
        made = kind().fit(t["x"], sensitive_features=t["group"])
        put(f"{name}/float64", made.transform(t["new"], sensitive_features=t["new_group"]))
        made = kind().fit(t["x"].astype(np.float32), sensitive_features=t["group"])
        put(f"{name}/float32", made.transform(t["new"].astype(np.float32), sensitive_features=t["new_group"]))
        put(f"{name}/y", kind(concept="y").fit_transform(t["x"], t["y"]))
    made = OracleTransformer(alpha=0.4).fit(t["x"], sensitive_features=t["age"])
    put("OracleTransformer/alpha", made.transform(t["new"], sensitive_features=t["new_age"]))
    made = QuadraticTransformer(n_bins=2, shrinkage=False).fit(t["x"], sensitive_features=t["age"])
    put("QuadraticTransformer/bins", made.transform(t["new"], sensitive_features=t["new_age"]))
    frame = pd.DataFrame(t["x"], columns=list("abcde")).assign(sex=t["sex"])
    for keep in (False, True):
        made = LeaceTransformer(sensitive_columns=["sex"], keep_sensitive=keep)
        put(f"LeaceTransformer/columns, {'kept' if keep else 'dropped'}", made.fit_transform(frame))
    return out


def command_line() -> dict[str, Tensor]:
    """`efface fit`, `apply`, `audit` and `generate`, run in this process on files of a temporary folder."""
    import json

    import pandas as pd
    from PIL import Image
    from safetensors.torch import load_file, save_file

    from efface.cli import main

    out: dict[str, Tensor] = {}
    t = arrays.table()
    frame = pd.DataFrame(t["x"], columns=list("abcde")).assign(group=t["group"], sex=t["sex"], age=t["age"])

    def run(*arguments: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main(list(arguments))
        assert code == 0, arguments

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        frame.to_csv(at / "t.csv", index=False)
        np.save(at / "x.npy", t["x"].astype(np.float32))
        np.save(at / "z.npy", t["sex"])
        csv, x = str(at / "t.csv"), str(at / "x.npy")
        jobs: dict[str, list[str]] = {
            "leace": ["--concept", "group", "--exclude", "sex,age"],
            "orth": ["--concept", "age", "--exclude", "sex,group"],
            "mean-difference": ["--concept", "sex", "--exclude", "age,group"],
            "oracle": ["--concept", "group", "--concept", "age", "--exclude", "sex"],
            "quadratic": ["--concept", "group", "--exclude", "sex,age"],
        }
        for method, job in jobs.items():
            eraser, clean = str(at / method), str(at / f"{method}.csv")
            run("fit", csv, *job, "-o", eraser, "--method", method, "--chunk-rows", "50")
            run("apply", csv, "--eraser", eraser, "-o", clean)
            out[f"{method}/applied"] = torch.from_numpy(pd.read_csv(clean)[list("abcde")].to_numpy())
            out[f"{method}/side"] = text(json.loads((at / method / "concept.json").read_text()))
        run("fit", x, "--concept", str(at / "z.npy"), "-o", str(at / "array"))
        run("apply", x, "--eraser", str(at / "array"), "-o", str(at / "clean.npy"))
        out["array/applied"] = torch.from_numpy(np.load(at / "clean.npy"))
        np.savez(at / "x.npz", X=t["x"])
        save_file({"X": torch.from_numpy(t["x"])}, at / "x.safetensors")
        frame.to_parquet(at / "t.parquet")
        for name in ("x.npz:X", "x.safetensors:X"):
            clean = at / f"clean.{name.split('.')[1].split(':')[0]}"
            run("apply", str(at / name), "--eraser", str(at / "array"), "-o", str(clean))
            found = load_file(clean) if clean.suffix == ".safetensors" else np.load(clean)
            out[f"{clean.suffix}/applied"] = torch.as_tensor(next(iter(found.values())))
        run("apply", str(at / "t.parquet"), "--eraser", str(at / "leace"), "-o", str(at / "clean.parquet"))
        out[".parquet/applied"] = torch.from_numpy(pd.read_parquet(at / "clean.parquet")[list("abcde")].to_numpy())
        report = str(at / "report.json")
        run("audit", csv, "--concept", "sex", "--exclude", "group,age", "--task", "group", "-o", report)
        found = json.loads((at / "report.json").read_text())["findings"]
        out["audit/findings"] = text([[f["family"], f["name"], f["condition"], f["value"]] for f in found])
        grid = ["--prompt", pipelines.WORLD_PROMPTS[0], "--seeds", "1", "--steps", "2"]
        erasing = ["--erase", "star", "--method", "negative-prompt"]
        run("generate", "shapes", *grid, *erasing, "-o", str(at / "grid.png"))
        out["generate/pixels"] = torch.from_numpy(np.array(Image.open(at / "grid.png")))
    return out


GROUPS: dict[str, Group] = named(estimators, command_line)
