"""Fits whose rows are spread over processes: real ones, with gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from efface import EffaceWarning, GroupError, InputError, LeaceFitter, OracleFitter, QuadraticFitter
from efface.erasers.mean_difference import MeanDifferenceFitter

Work = Callable[[int], Any]
SPLITS = {
    "even": (200, 200),
    "uneven": (390, 9, 1),
    "an empty first": (0, 150, 250),
    "all but one empty": (0, 0, 400, 0),
}
_REAL = {
    kind.__name__: partial(kind, 6, 3, dtype=torch.float64)
    for kind in (LeaceFitter, MeanDifferenceFitter, OracleFitter, QuadraticFitter)
}
FITTERS: Mapping[str, Callable[[], Any]] = {**_REAL, "complex": partial(LeaceFitter, 6, 3, dtype=torch.complex128)}


def data(kind: str = "") -> tuple[Tensor, Tensor]:
    """Rows whose mean is 1e4 of their spread away from zero, and classes."""
    source = torch.Generator().manual_seed(0)
    z = torch.randint(0, 3, (400,), generator=source)
    x = torch.randn(400, 6, generator=source, dtype=torch.float64) + 1e4
    x[:, 0] += z
    return (x + 1j * x.flip(0), z) if kind == "complex" else (x, z)


def _child(rank: int, size: int, place: str, seconds: float, work: Work) -> None:
    torch.set_num_threads(1)
    where, limit = f"file://{place}/meet", datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=limit)
    try:
        found: Any = {"found": work(rank)}
    except (InputError, GroupError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    torch.save(found, f"{place}/{rank}.pt")
    if "found" in found:  # who leaves first is to the others one who died
        dist.barrier()
    os._exit(0)


def run(size: int, place: Path, work: Work, seconds: float = 60) -> list[dict[str, Any]]:
    """What each process of a group found, or its error; nothing of one that died."""
    fork = multiprocessing.get_context("fork")
    many = [fork.Process(target=_child, args=(rank, size, str(place), seconds, work)) for rank in range(size)]
    for process in many:
        process.start()
    for process in many:
        process.join(120)
        assert process.exitcode is not None
        # Of other errors the traceback is in what the test has printed.
    files = [place / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=True) if file.exists() else {} for file in files]


def parts(rows: Sequence[int]) -> list[slice]:
    ends = torch.tensor([0, *rows]).cumsum(0).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def seen(fitter: Any) -> list[Tensor]:
    """What a fit knows of its rows: means, and scatters about them."""
    every = getattr(fitter.moments, "classes", [fitter.moments])
    return [each for m in every for each in (m.mean_x, m.mean_z, m.scatter_xx, m.scatter_xz, m.scatter_zz)]


@pytest.mark.parametrize("split", SPLITS)
def test_ranks_together_are_one_process(split: str, tmp_path: Path) -> None:
    """Unequal and empty ranks: a relative error of at most 1e-12, and the same bits in all."""
    mine = parts(SPLITS[split])

    def work(rank: int) -> Any:
        found = {}
        for name, make in FITTERS.items():
            (x, z), fitter = data(name), make()
            for x_batch, z_batch in zip(x[mine[rank]].split(100), z[mine[rank]].split(100), strict=True):
                fitter.update(x_batch, z_batch)
            found[name] = dict(fitter.all_reduce().state_dict())
        return found

    answers = run(len(mine), tmp_path, work)
    for name, make in FITTERS.items():
        states = [answer["found"][name] for answer in answers]
        assert all(torch.equal(state[key], states[0][key]) for state in states for key in state)
        one, many = make().update(*data(name)), make().load_state_dict(states[0])
        assert torch.equal(one.n, many.n) and one.decided == many.decided
        for a, b in zip(seen(one), seen(many), strict=True):
            assert float((a - b).norm()) <= 1e-12 * float(a.norm())


def test_a_group_of_some_processes_is_of_these_alone(tmp_path: Path) -> None:
    x, z = data()

    def work(rank: int) -> Any:
        pair = dist.new_group([1, 2])
        fitter = LeaceFitter(6, 3).update(x[: 10 * (rank + 1)], z[: 10 * (rank + 1)])
        with pytest.raises(InputError, match="group is '3'|group is 3"):
            fitter.all_reduce(3)
        if rank == 0:
            with pytest.raises(InputError, match="not in the group"):
                fitter.all_reduce(pair)
            return int(fitter.n)
        return int(fitter.all_reduce(pair).n)

    assert [each["found"] for each in run(3, tmp_path, work)] == [10, 50, 50]


def test_what_ranks_have_seen_but_not_all_goes_to_all(tmp_path: Path) -> None:
    """Names of columns and of classes, where a rank had no rows."""
    x, z = data()
    words = [("a", "b", "c")[i] for i in z.tolist()]

    def work(rank: int) -> Any:
        fitter = LeaceFitter(6, 3)
        if rank == 1:
            fitter.update(pd.DataFrame(x.numpy(), columns=list("uvwxyz")), words)
        fitter.all_reduce()
        return [list(fitter.columns), list(fitter.classes), fitter.decided, list(fitter.eraser.report.classes)]

    told = [list("uvwxyz"), ["a", "b", "c"], "categorical", ["a", "b", "c"]]
    assert [each["found"] for each in run(2, tmp_path, work)] == [told, told]


DIFFER: dict[str, tuple[Callable[[int], Any], str]] = {
    "width": (lambda rank: LeaceFitter(6 + (rank == 1), 3), "x_dim is 6 on rank 0 and 7 on rank 1"),
    "classes": (lambda rank: LeaceFitter(6, 3 + (rank == 2)), "z_dim is 3 on rank 0 and 4 on rank 2"),
    "options": (lambda rank: LeaceFitter(6, 3, affine=rank != 2), "options is .* on rank 2"),
    "type": (lambda rank: (LeaceFitter, OracleFitter, OracleFitter)[rank](6, 3), "type is 'LeaceFitter' on rank 0"),
    "kind": (
        lambda rank: LeaceFitter(6, 1).update(torch.ones(2, 6), torch.tensor([0.5, 1]) if rank else [0, 1]),
        "decided is 'categorical' on rank 0 and 'continuous' on rank 1",
    ),
    "words": (
        lambda rank: LeaceFitter(6, 2).update(torch.ones(2, 6), ["a", "b" if rank < 2 else "c"]),
        "classes is .* number them alike",
    ),
}


def test_what_does_not_go_together_is_refused_by_all(tmp_path: Path) -> None:
    """And the same group goes on afterwards."""

    def work(rank: int) -> Any:
        errors = {}
        for name, (make, _) in DIFFER.items():
            fitter = make(rank)
            before = fitter.state_dict()
            try:
                fitter.all_reduce()
            except InputError as error:
                errors[name] = str(error)
            assert all(torch.equal(value, before[key]) for key, value in fitter.state_dict().items())
        return errors

    for answer in run(3, tmp_path, work):
        for name, (_, says) in DIFFER.items():
            with pytest.raises(InputError, match=says):
                raise InputError(answer["found"][name])


def test_rows_that_count_twice_are_said(tmp_path: Path) -> None:
    """As where no sampler parts them, or what was reduced is reduced again; who has seen nothing has not the same."""
    x, z = data()

    def work(rank: int) -> Any:
        fitter = LeaceFitter(6, 3).update(x[:200], z[:200]) if rank else LeaceFitter(6, 3)
        with pytest.warns(EffaceWarning, match="ranks 1 and 2 have seen the same rows, which count twice"):
            fitter.all_reduce()
        with pytest.warns(EffaceWarning, match="ranks 0 and 1 have seen the same rows"):
            return int(fitter.all_reduce().n)

    assert [each["found"] for each in run(3, tmp_path, work)] == [1200] * 3


def test_a_process_that_dies_is_an_error_in_the_others_and_no_wait(tmp_path: Path) -> None:
    x, z = data()

    def work(rank: int) -> Any:
        fitter = LeaceFitter(6, 3).update(x, z)
        if rank == 1:
            os._exit(9)
        before, start = fitter.state_dict(), time.monotonic()
        with pytest.raises(GroupError, match=f"rank {rank} of 3: another process has died"):
            fitter.all_reduce()
        assert time.monotonic() - start < 20
        assert all(torch.equal(value, before[key]) for key, value in fitter.state_dict().items())
        torch.save({"found": "went on"}, tmp_path / f"{rank}.pt")
        os._exit(0)

    found = run(3, tmp_path, work, seconds=8)
    assert [each.get("found") for each in found] == ["went on", None, "went on"]


def test_without_a_group() -> None:
    fitter = LeaceFitter(6, 3)
    with pytest.raises(InputError, match="torchrun"):
        fitter.all_reduce()
