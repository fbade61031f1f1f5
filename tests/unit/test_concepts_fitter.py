"""Several concepts on the same rows: each eraser is that of a fit of its own, and sigma_xx is kept once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from efface import ConceptsFitter, FormatError, InputError, NotFittedError, get_method, join_concepts
from efface.erasers import leace
from tests.integration.test_collective import run

SOURCE = torch.Generator().manual_seed(0)
N, D = 400, 12
X = torch.randn(N, D, generator=SOURCE, dtype=torch.float64) @ torch.randn(D, D, generator=SOURCE, dtype=torch.float64)
A = torch.randint(0, 3, (N,), generator=SOURCE)
B = torch.rand(N, generator=SOURCE, dtype=torch.float64)
C = torch.randint(0, 2, (N, 2), generator=SOURCE)
X = X + 50
X[:, 0] += A
X[:, 1] += B * 3 + C.sum(1)
Z: dict[str, Any] = {"group": A, "age": B, "flags": C}
WIDTHS = {"group": 3, "age": 1, "flags": 2}
METHODS = ("leace", "orth", "oracle", "mean-difference")


def labels(method: str) -> dict[str, Any]:
    return {name: z for name, z in Z.items() if method != "mean-difference" or name == "group"}


def apart(found: Any, right: Any) -> float:
    """The largest difference of two erasers as maps, relative to the largest entry."""
    if hasattr(found, "P"):
        return float((found.P - right.P).abs().max() + ((found.bias - right.bias) / right.bias).abs().max())
    return max(float((t - right.tensors()[n]).abs().max()) for n, t in found.tensors().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_eraser_is_that_of_a_fit_of_its_own(method: str, dtype: torch.dtype) -> None:
    x, z = X.to(dtype), labels(method)
    fitter = ConceptsFitter.fit(x, z, method=method)
    for name, own in z.items():
        right = get_method(method, "rows").fitter.fit(x, own)
        found = fitter.erasers[name]
        assert apart(found, right.eraser) < (1e-12 if dtype == torch.float64 else 1e-4)
        assert (found.report.kind, found.report.rank, found.report.n) == (right.report.kind, right.report.rank, N)
    if method != "oracle":
        joined = join_concepts(*z.values())
        assert apart(fitter.joint, get_method(method, "rows").fitter.fit(x, joined).eraser) < (
            1e-12 if dtype == torch.float64 else 1e-4
        )


def test_batches_masks_weights_and_merges_give_the_same() -> None:
    mask, weight = torch.rand(N, generator=SOURCE) < 0.8, torch.randint(1, 4, (N,), generator=SOURCE).double()
    z = {**Z, "group": torch.where(mask, A, -100), "age": torch.where(mask, B, torch.nan)}
    whole = ConceptsFitter(D, WIDTHS, dtype=torch.float64).update(X, z, mask=mask, weight=weight)
    parts = [slice(0, 150), slice(150, 151), slice(151, N)]
    several = [
        ConceptsFitter(D, WIDTHS, dtype=torch.float64).update(
            X[p], {name: each[p] for name, each in reversed(z.items())}, mask=mask[p], weight=weight[p]
        )
        for p in parts
    ]
    merged = several[0] + several[1] + several[2]
    assert int(several[0].n) == int(mask[parts[0]].sum()) and int(merged.n) == int(mask.sum())
    for name in Z:
        own = get_method("leace", "rows").fitter.fit(X[mask], Z[name][mask], weight=weight[mask]).eraser
        assert apart(whole.erasers[name], own) < 1e-10 and apart(merged.erasers[name], own) < 1e-10


def test_one_covariance_is_kept_and_it_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    factored: list[int] = []
    factor = leace.factor_
    monkeypatch.setattr(leace, "factor_", lambda sigma, **more: (factored.append(len(sigma)), factor(sigma, **more))[1])
    names = [f"c{i}" for i in range(20)]
    z = {name: torch.randint(0, 2, (N,), generator=SOURCE) for name in names}
    fitter = ConceptsFitter(D, dict.fromkeys(names, 1), dtype=torch.float64).update(X, z)
    assert sum(t.numel() for t in fitter.moments.state_dict().values()) == D * D + D * 20 + 400 + 2 * D + 2 * 20 + 3
    ranks = [fitter.erasers[name].report.rank for name in names]
    assert ranks == [1] * 20 and fitter.joint.report.rank == D and factored == [D]
    before = fitter.erasers["c0"]
    assert fitter.erasers["c0"] is before
    fitter.update(X + 1, z)
    assert fitter.erasers["c0"] is not before and factored == [D, D]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_saved_and_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    z, half = labels(method), N // 2
    z["group"] = pd.Series(["abc"[int(a)] for a in A])
    widths = {name: WIDTHS[name] for name in z}
    first, rest = ({name: each[p] for name, each in z.items()} for p in (slice(0, half), slice(half, N)))
    known = ConceptsFitter(D, widths, method=method).update(X[:half], first)
    known.save(tmp_path / "fit")
    again = ConceptsFitter.load(tmp_path / "fit")
    copied = known.copy()
    for each in (known, again, copied):
        each.update(X[half:], rest)
    for name in z:
        assert known.erasers[name] == again.erasers[name] == copied.erasers[name]
    assert known.erasers["group"].report.classes == ("a", "b", "c") and known.joint == again.joint
    assert repr(again) == repr(known)


def test_tables_name_concepts_and_columns() -> None:
    x = pd.DataFrame(X.numpy(), columns=[f"f{i}" for i in range(D)])
    z = pd.DataFrame({"group": A.numpy(), "age": B.numpy()})
    fitter = ConceptsFitter.fit(x, z)
    assert [*fitter.erasers] == ["group", "age"] and fitter.erasers["age"].columns == tuple(x.columns)
    with pytest.raises(InputError, match="another order"):
        fitter.update(x[x.columns[::-1]], z)
    with pytest.raises(InputError, match=r"z\['age'\] has the rows of x in another order"):
        fitter.update(x, {"group": z["group"], "age": z["age"][::-1]})
    assert int(fitter.n) == N


def test_the_processes_of_a_group_are_as_one(tmp_path: Path) -> None:
    parts = [slice(0, 390), slice(390, 390), slice(390, N)]

    def work(rank: int) -> Any:
        fitter = ConceptsFitter(D, WIDTHS, dtype=torch.float64)
        if rank != 1:
            fitter.update(X[parts[rank]], {name: z[parts[rank]] for name, z in Z.items()})
        fitter.all_reduce()
        assert fitter.erasers["group"].report.kind == "categorical"
        wrong = ConceptsFitter(D, {"group": 3} if rank else {"group": 3, "age": 1})
        with pytest.raises(InputError, match="concepts is .* on rank 0 and"):
            wrong.all_reduce()
        told = ConceptsFitter(D, {"a": 1}).update(X[:3], {"a": A[:3] % 2 if rank else B[:3]})
        with pytest.raises(InputError, match=r"z\['a'\]: decided is 'continuous' on rank 0"):
            told.all_reduce(dist.group.WORLD)
        return {name: dict(fitter.erasers[name].tensors()) for name in Z}

    found = [answer["found"] for answer in run(3, tmp_path, work)]
    one = ConceptsFitter.fit(X, Z)
    for name in Z:
        assert all(torch.equal(found[0][name][n], each[name][n]) for each in found for n in each[name])
        P = torch.eye(D) - found[0][name]["proj_left"] @ found[0][name]["proj_right"]
        assert float((P - one.erasers[name].P).abs().max()) < 1e-12


def fitter() -> ConceptsFitter:
    return ConceptsFitter(D, WIDTHS, dtype=torch.float64).update(X, Z)


BAD = {
    "none": (lambda: ConceptsFitter(D, {}), "no concepts were given"),
    "no name": (lambda: ConceptsFitter(D, {"": 2}), "a concept is called ''"),
    "a number as name": (lambda: ConceptsFitter(D, {1: 2}), "write a mapping|a concept is called 1"),  # type: ignore[dict-item]
    "no width": (lambda: ConceptsFitter(D, {"a": 0}), r"concepts\['a'\] must be"),
    "a list": (lambda: ConceptsFitter(D, ["a"]), "concepts is"),  # type: ignore[arg-type]
    "quadratic": (lambda: ConceptsFitter(D, {"a": 2}, method="quadratic"), "choose one of .*leace"),
    "unknown method": (lambda: ConceptsFitter(D, {"a": 2}, method="lace"), "unknown method 'lace'"),
    "kind": (lambda: ConceptsFitter(D, {"a": 2}, kind="continuous"), "write kinds="),
    "kinds of another": (lambda: ConceptsFitter(D, {"a": 2}, kinds={"b": "auto"}), "kinds has 'b', no concept"),
    "a concept that lacks": (lambda: fitter().update(X, {"group": A}), "z lacks 'age', 'flags'"),
    "one too many": (lambda: fitter().update(X, {**Z, "ages": B}), r"z has 'ages'.*did you mean 'age'\?"),
    "labels alone": (lambda: fitter().update(X, A), r"write \{'name': labels"),
    "labels of another length": (
        lambda: fitter().update(X, {**Z, "age": B[:7]}),
        r"z\['age'\] has shape \(7,\), expected \(400,\)",
    ),
    "missing labels of one": (
        lambda: fitter().update(X, {**Z, "age": B.masked_fill(A == 0, torch.nan)}),
        r"z\['age'\] is missing",
    ),
    "ignored labels of one": (
        lambda: fitter().update(X, {**Z, "group": A.masked_fill(A == 0, -100)}),
        r"z\['group'\] has the negative class label -100.*mask=",
    ),
    "a mask for each": (lambda: fitter().update(X, Z, mask={"age": A > 0}), "mask is one for all concepts.*a & b"),
    "another kind": (
        lambda: fitter().update(X, {**Z, "group": B}),
        r"z\['group'\] was categorical in earlier batches",
    ),
    "a class too many": (lambda: fitter().update(X, {**Z, "group": A + 1}), r"z\['group'\] has the class label 3"),
    "merging another": (lambda: fitter().merge(ConceptsFitter(D, {"a": 2})), "name the same in the same order"),
    "merging labels": (lambda: fitter().merge(A), "cannot merge a Tensor"),  # type: ignore[arg-type]
    "merging another dtype": (lambda: fitter().merge(ConceptsFitter(D, WIDTHS)), "type and options must agree"),
    "merging other kinds": (
        lambda: fitter().merge(ConceptsFitter(D, WIDTHS, dtype=torch.float64, kinds={"age": "continuous"})),
        "options must agree",
    ),
    "an eraser of another": (lambda: fitter().erasers["agee"], r"no concept 'agee'.*did you mean 'age'\?"),
}


@pytest.mark.parametrize(("make", "text"), BAD.values(), ids=BAD)
def test_what_does_not_suit_is_refused(make: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()


def test_an_error_leaves_all_as_it_was() -> None:
    found, before = fitter(), {name: t.clone() for name, t in fitter().moments.state_dict().items()}
    for wrong in ({**Z, "age": B.clone().index_fill(0, torch.tensor(3), torch.inf)}, {**Z, "flags": C[:, :1]}):
        with pytest.raises(InputError):
            found.update(X, wrong)
    with pytest.raises(InputError, match="x has NaN"):
        found.update(X.clone().index_fill(0, torch.tensor(3), torch.nan), Z)
    assert all(torch.equal(t, before[name]) for name, t in found.moments.state_dict().items())


def test_a_concept_that_never_varies_is_named_and_does_not_stop_the_others() -> None:
    found = ConceptsFitter(D, WIDTHS, dtype=torch.float64).update(X, {**Z, "age": torch.ones(N)})
    assert found.erasers["group"].report.rank == 2 and "age" in found.erasers and len(found.erasers) == 3
    with pytest.raises(InputError, match=r"z\['age'\] has the same value in all 400 rows"):
        _ = found.erasers["age"]
    with pytest.raises(NotFittedError):
        _ = ConceptsFitter(D, WIDTHS).erasers["age"]
    assert found.erasers.get("nobody") is None


def test_quantities_and_classes_by_word() -> None:
    kinds: Any = {"group": "continuous"}
    found = ConceptsFitter.fit(X, {"group": A, "age": B}, kinds=kinds)
    assert found.erasers["group"].report.kind == "continuous" and found.concepts == {"group": 1, "age": 1}
    right = get_method("leace", "rows").fitter.fit(X, A, kind="continuous").eraser
    assert apart(found.erasers["group"], right) < 1e-12


def damaged(change: Any, folder: Path) -> None:
    import json

    path = folder / "config.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["concepts"][0].update(width=2),
        lambda plain: plain["concepts"][0].update(decided="maybe"),
        lambda plain: plain["concepts"].append(plain["concepts"][0]),
        lambda plain: plain.update(method="quadratic"),
        lambda plain: plain.update(concepts={}),
        lambda plain: plain["whole"].update(x_dim=5),
        lambda plain: plain["concepts"][1].pop("classes"),
        lambda plain: plain["concepts"][1].update(name=""),
    ],
)
def test_a_damaged_file_is_refused(change: Any, tmp_path: Path) -> None:
    fitter().save(tmp_path / "fit")
    damaged(change, tmp_path / "fit")
    with pytest.raises(FormatError):
        ConceptsFitter.load(tmp_path / "fit")


def one_hots(z: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(z, 3).double()


def test_the_joint_eraser_leaves_no_class_mean_of_any_concept() -> None:
    x = fitter().joint(X)
    columns = torch.cat([one_hots(A), B[:, None], C.double()], 1)
    rest = (x - x.mean(0)).mT @ (columns - columns.mean(0)) / N
    assert float(rest.abs().max()) < 1e-9
    alone = fitter().erasers["group"](X)
    left = (alone - alone.mean(0)).mT @ (columns - columns.mean(0)) / N
    assert float(left[:, :3].abs().max()) < 1e-9 and float(left[:, 3].abs().max()) > 1e-2


def test_a_scatter_of_nothing_takes_no_memory_and_behaves_as_zeros(tmp_path: Path) -> None:
    def size(found: Any) -> int:
        return found.moments.s_xx.untyped_storage().nbytes()

    new = ConceptsFitter(D, WIDTHS, dtype=torch.float64)
    assert size(new) == 8 and float(new.moments.state_dict()["s_xx"].abs().sum()) == 0
    new.save(tmp_path / "empty")
    makers = [new.copy, lambda: ConceptsFitter.load(tmp_path / "empty"), lambda: new + new]
    for each in makers:
        assert apart(each().update(X, Z).erasers["age"], fitter().erasers["age"]) == 0.0
        assert apart((each() + fitter()).erasers["age"], fitter().erasers["age"]) < 1e-12
    assert size(new) == 8 and size(new.update(X, Z)) == 8 * D * D
