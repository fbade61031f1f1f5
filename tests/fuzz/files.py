"""Saved folders of every type under mutation: each load ends in a good value, or in an error of ours.

python -m tests.fuzz.files [NAME ...] [--share 0.1] [--seed 0]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import efface
from efface.audit import Audit
from efface.cli.concepts import load_side
from efface.core.codec import encoded, is_finite
from efface.core.concept import Concept
from efface.erasers.base import Eraser
from tests.fuzz.outcome import Tally, quiet

FIXTURES = Path(__file__).parents[1] / "fixtures" / "2127722"
STATISTICS = {
    "Moments": efface.Moments,
    "ClassMoments": efface.ClassMoments,
    "LeaceFitter": efface.LeaceFitter,
    "OrthogonalFitter": efface.OrthogonalFitter,
    "MeanDifferenceFitter": efface.MeanDifferenceFitter,
    "OracleFitter": efface.OracleFitter,
    "QuadraticFitter": efface.QuadraticFitter,
}

NESTED = 2000
"""Levels of nesting at which recursive readers give up."""

VALUES: tuple[Any, ...] = (
    *(None, -1, 0, 10**6, 2**70, 0.5, 1e19, True, "x", "", "nan", "../../etc", "/", "\ud800"),
    *([], {}, [[]], [None], {"$type": "Joined"}, {"$tensor": "x"}, {"$type": ["x"]}, {"": 1}),
)
GONE = object()
DTYPES = (
    *(torch.bool, torch.int64, torch.uint8),
    *(torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2),
)


@dataclass(frozen=True)
class Saved:
    """A folder, and what reads it.

    Attributes:
        name: What it is.
        folder: Where it lies.
        load: Reads it, and uses what was read.
    """

    name: str
    folder: Path
    load: Callable[[Path], Any]


# --------------------------------------------------------------------------------------------------- what is read


def load_erasure(folder: Path) -> Any:
    """Read an erasure, and do with it what needs no subject."""
    found = efface.load(folder)
    with tempfile.TemporaryDirectory() as other:
        found.save(Path(other) / "again")
        assert efface.load(Path(other) / "again") == found
    repr(found)
    if isinstance(found, Eraser) and not found.takes_labels:
        width = next((len(t) for t in found.tensors().values()), 1)
        found(torch.zeros(2, width))
    elif not isinstance(found, Eraser):
        _ = found.edits
    return found


def load_statistics(folder: Path) -> Any:
    """Read a fit or its sums, and go on with it."""
    kind = json.loads((folder / "config.json").read_text())
    cls = STATISTICS[kind["type"]]
    found = cls.load(folder)
    with tempfile.TemporaryDirectory() as other:
        found.save(Path(other) / "again")
        cls.load(Path(other) / "again")
    _ = found.eraser if hasattr(found, "eraser") else (found.mean_x, found.scatter_xx)
    return found


def load_report(folder: Path) -> Audit:
    """Read an audit and show it."""
    found = Audit.from_dict(json.loads((folder / "report.json").read_text()))
    _ = str(found), found.markdown()
    return found


def load_concept(folder: Path) -> Concept:
    """Read a concept from plain data."""
    return Concept.from_dict(json.loads((folder / "concept.json").read_text()))


# ------------------------------------------------------------------------------------------------------- mutations


def paths(plain: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values lie in JSON data; of a long list the first and the last."""
    if above:
        yield above
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from paths(value, (*above, key))
    elif isinstance(plain, list):
        for i in sorted({0, len(plain) - 1} if plain else ()):
            yield from paths(plain[i], (*above, i))


def changed(plain: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The data with another value there, or none."""
    new = copy.deepcopy(plain)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return new


def _of_json(file: Path) -> Iterator[tuple[str, bytes]]:
    text = file.read_bytes()
    plain = json.loads(text)
    for path in paths(plain):
        where = ".".join(map(str, path))
        for value in (*VALUES, GONE):
            said = "left out" if value is GONE else repr(value)
            yield f"{where} = {said}", json.dumps(changed(plain, path, value)).encode()
        opened, shut = ("[" * NESTED, "]" * NESTED)
        yield f"{where} nested", json.dumps(changed(plain, path, "@@")).replace('"@@"', opened + shut).encode()
    for value in (None, [], "x", 3, [plain], {}):
        yield f"all = {value!r:.20}", json.dumps(value).encode()
    yield "all nested", b"[" * 10**5
    yield "twice", text + text
    yield "half", text[: len(text) // 2]
    yield "empty", b""
    yield "UTF-16", text.decode().encode("utf-16")
    yield "zeros", bytes(len(text))
    yield "NaN", json.dumps(plain | {"extra": float("nan")}).encode() if isinstance(plain, dict) else b"NaN"


def _other_tensors(value: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    yield "missing", None
    yield "scalar", torch.zeros((), dtype=value.dtype)
    yield "no rows", value[:0] if value.ndim else torch.zeros(0, dtype=value.dtype)
    yield "one more dimension", value[None].clone()
    yield "twice as long", torch.cat([value, value]) if value.ndim else value.repeat(2)
    if value.ndim > 1:
        yield "transposed", value.mT.contiguous()
    for dtype in (
        torch.bool,
        torch.int64,
        torch.uint8,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.float8_e5m2,
    ):
        if dtype != value.dtype:
            yield str(dtype), value.double().nan_to_num().to(dtype) if not value.is_complex() else value.real.to(dtype)
    if value.is_floating_point() and value.numel():
        for number in (torch.nan, torch.inf, -torch.inf, torch.finfo(value.dtype).max, 1e-320):
            new = value.clone()
            new.reshape(-1)[-1] = number
            yield str(number), new
    elif value.numel() and value.dtype != torch.bool:
        yield "-1", torch.full_like(value, -1) if value.dtype != torch.uint8 else torch.full_like(value, 255)


def _of_tensors(file: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Other tensors, and other bytes."""
    raw = file.read_bytes()
    known = load_file(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        for name in sorted(known) if len(known) <= 24 else rng.sample(sorted(known), 24):
            for said, new in _other_tensors(known[name].clone()):
                others = {k: v for k, v in known.items() if k != name}
                save_file(others if new is None else {**others, name: new.contiguous().clone()}, path)
                yield f"{name} {said}", path.read_bytes()
        save_file({**known, "surplus": torch.zeros(2)}, path)
        yield "a surplus tensor", path.read_bytes()
    for at in (0, 4, 8, len(raw) // 2, max(0, len(raw) - 1)):
        yield f"cut at {at}", raw[:at]
    for length in (2**63, 2**40, 100_000_001, 1, 0):
        yield f"a header of {length} bytes", length.to_bytes(8, "little") + raw[8:]
    for shape in ([2**62, 2**62], [2**40], [-1], ["x"]):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
        text = json.dumps(header).encode()
        yield f"a tensor of {shape}", len(text).to_bytes(8, "little") + text + bytes(4)


def mutations(folder: Path, rng: random.Random) -> Iterator[tuple[str, Path, bytes]]:
    """Every mutation of the files of a folder: what, which file, its bytes."""
    for file in sorted(folder.rglob("*")):
        made = {".json": lambda f: _of_json(f), ".safetensors": lambda f: _of_tensors(f, rng)}.get(file.suffix)
        for said, content in made(file) if made else ():
            yield f"{file.relative_to(folder)}: {said}", file, content


def mutate(
    saved: Saved, tally: Tally, *, share: float = 1.0, rng: random.Random | None = None, end: float = math.inf
) -> None:
    """Load a folder under its mutations, or a share of them, until a time of the clock, and count."""
    rng = rng or random.Random(0)
    with tempfile.TemporaryDirectory() as other:
        work = Path(other) / "e"
        shutil.copytree(saved.folder, work)
        with quiet():
            saved.load(work)  # as it is, it is good
        for said, file, content in mutations(saved.folder, rng):
            if time.monotonic() > end:
                break
            if rng.random() >= share:
                continue
            target = work / file.relative_to(saved.folder)
            target.write_bytes(content)
            what = f"{saved.name}: {said}"
            found = tally.take(what, lambda: saved.load(work), ours=lambda error: _no_json(error, saved))
            if found is not None and (bad := _not_finite(found)):
                tally.take(what, lambda bad=bad: _silent(bad))
            target.write_bytes(file.read_bytes())
            left = [path.name for path in Path(other).iterdir() if path.name != "e"]
            assert not left, f"{what} left {left}"


def _no_json(error: Exception, saved: Saved) -> bool:
    """Whether the harness itself parsed the file, as a caller of `from_dict` does."""
    parsed = saved.load in (load_report, load_concept, load_statistics)
    read = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError)
    return parsed and type(error) in read and _is_harness(error)


def _is_harness(error: Exception) -> bool:
    trace = error.__traceback__
    names = set()
    while trace is not None:
        names.add(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return not any(name.startswith("efface") for name in names)


def _not_finite(found: Any) -> str | None:
    if hasattr(found, "state_dict"):
        tensors = found.state_dict()
    else:
        tensors = encoded(found)[1] if isinstance(found, efface.Erasure) else {}
    return next((name for name, value in tensors.items() if not is_finite(value)), None)


def _silent(name: str) -> None:
    raise ValueError(f"{name} has NaN or infinite values and was loaded")


# ------------------------------------------------------------------------------------------------------ which folders


def older() -> list[Saved]:
    """The folders of format 1 that are kept with the tests."""
    found = []
    for folder in sorted(path for path in FIXTURES.iterdir() if path.is_dir() and path.name != "models"):
        if folder.name.startswith("audit"):
            load: Callable[[Path], Any] = load_report
        elif folder.name.startswith("fitter") or "moments" in folder.name:
            load = load_statistics
        else:
            load = load_erasure
        found.append(Saved(f"format 1 {folder.name}", folder, load))
        if (folder / "concept.json").exists():
            found.append(Saved(f"format 1 {folder.name} concept", folder, load_side))
    return found


def statistics(work: Path) -> list[Saved]:
    """Fits under way and their sums."""
    x, z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    found = []
    for name, cls in STATISTICS.items():
        value = cls.fit(x, z) if hasattr(cls, "fit") else cls(4, 3).update(x, torch.nn.functional.one_hot(z, 3))
        value.save(work / name)
        found.append(Saved(name, work / name, load_statistics))
    return found


def erasures(work: Path, subjects: tuple[str, ...]) -> list[Saved]:
    """What every method of these subjects makes of its case."""
    from tests.cases import CASES

    found = []
    for subject in subjects:
        for method in efface.methods(subject):
            folder = work / f"{subject}-{method.name}"
            with quiet():
                erasure = CASES[subject].fit(method)
                erasure.save(folder)
            found.append(Saved(folder.name, folder, load_erasure))
    return found


def plain(work: Path) -> list[Saved]:
    """What is kept as plain data."""
    concept, folder = efface.Concept("circle", synonyms=["disc"], preserve=["star"], anchor="square"), work / "concept"
    folder.mkdir()
    (folder / "concept.json").write_text(json.dumps(concept.to_dict()))
    return [Saved("concept", folder, load_concept)]


def every(work: Path) -> list[Saved]:
    """A folder of every type."""
    from tests.fuzz.resuming import checkpoints
    from tests.fuzz.worlds import worlds

    subjects = ("rows", "model", "classifier", "pipeline")
    kept = [*older(), *statistics(work), *plain(work), *erasures(work, subjects)]
    return [*kept, *checkpoints(work), *worlds(work)]


def main(arguments: list[str] | None = None) -> int:
    """Mutate and report; 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which folders; all")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutations")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rng, total = random.Random(given.seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        for saved in every(Path(folder)):
            if given.names and not any(name in saved.name for name in given.names):
                continue
            tally = Tally()
            mutate(saved, tally, share=given.share, rng=rng)
            print(f"{saved.name:40} {len(tally):6} tried, {len(tally.faults):5} faults", flush=True)
            total.good, total.refused = total.good + tally.good, total.refused + tally.refused
            total.faults += tally.faults
    print(total.report("files"))
    return int(bool(total.faults))


if __name__ == "__main__":
    sys.exit(main())
