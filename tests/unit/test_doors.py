"""Doors: arguments against hints, devices, containers without end, text that would steer whoever shows it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import efface
from efface import InputError
from efface._io import as_path
from efface._memory import check_room
from efface._text import visible
from efface._validate import to_tensor
from efface.attribution import FeatureGroups, Grid, Marginal, Superpixels, TokenClassifier, TokenMask, Tokens, top_k
from efface.audit import Audit, Finding
from efface.audit import bootstrap_interval as bootstrap
from efface.audit.pipelines.probes.case import Pictures
from efface.audit.pipelines.probes.prompt_search import p4d
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.remembrance import Registry
from efface.audit.remembrance.corpus import takedown_table
from efface.audit.vectors import Labels, canonical_correlations, class_mean_gap, edit_size
from efface.audit.vectors.folds import make_folds
from efface.core.arrays import countable, read_array, shared
from efface.core.codec import encoded
from efface.core.doors import check_call, fits
from efface.core.hashing import feed
from efface.core.labels import read_column, read_groups
from efface.diffusion.anchors.soft import soft_anchor
from efface.diffusion.text.cgce.pairs import as_pairs
from efface.estimators import LeaceTransformer, OracleTransformer, QuadraticTransformer
from efface.explanation import PixelModel
from efface.moments.grouping import groupby
from efface.pipelines import PromptEmbedding
from efface.pipelines.prompts import listed
from efface.scrubbing import ScrubConfig
from efface.scrubbing.token_labels import numbered
from efface.streams.source import shortened
from efface.training.seeds import generator

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}:UserWarning")
    for text in (
        "Sparse .* tensor support",
        "The PyTorch API of nested tensors",
        "torch.quantize_per",
        "ComplexHalf support",
    )
]

X, Z = torch.arange(24.0).reshape(6, 4) ** 2, torch.arange(6) % 3


class Reader(torch.nn.Module):
    """A model of tokens that gives a dictionary."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"input_ids": input_ids}


class Named:
    """Has items by name."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, name: Any) -> Any:
        raise KeyError(name)


class Parts:
    """Is asked for attributes that it lacks, and fails with KeyErrors, as pipelines of diffusers do."""

    components = ()

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class Dataset:
    """As torch has them: a length, items by number, and no end to these."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> list[float]:
        return [float(index % 3), 1.0]


def test_a_data_set_is_read_as_far_as_its_length() -> None:
    assert read_array(Dataset(), "x").values.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "merge": (lambda: efface.Moments(4).merge(None), "what is merged is a NoneType, expected a Moments"),  # type: ignore[arg-type]
    "merge classes": (lambda: efface.ClassMoments(4, 2).merge(3), "expected a ClassMoments"),  # type: ignore[arg-type]
    "dim": (lambda: groupby(X, Z, dim="a"), "dim must be an integer, got 'a'"),  # type: ignore[arg-type]
    "state": (lambda: efface.Moments(4).load_state_dict(None), "state is a NoneType"),  # type: ignore[arg-type]
    "state of a fitter": (lambda: efface.LeaceFitter(4, 2).load_state_dict({}), "lacks decided"),
    "device": (lambda: efface.LeaceFitter(4, 2, device="tpu:x"), "device='tpu:x' cannot be used here"),
    "meta": (lambda: efface.Moments(4, device="meta"), "holds no numbers"),
    "dtype": (lambda: efface.LeaceFitter(4, 2, dtype="float32"), "write a dtype of torch"),  # type: ignore[arg-type]
    "option": (lambda: efface.LeaceFitter(4, 2, affine="yes"), "affine='yes': write True or False"),  # type: ignore[arg-type]
    "memory": (lambda: efface.LeaceFitter(10**9, 2), r"x_dim=1000000000, z_dim=2 would take [\d,.]+ GiB"),
    "path": (lambda: efface.load(3), "the path is a int"),  # type: ignore[arg-type]
    "zero in a path": (lambda: as_path("a\0b"), "no file can be called so"),
    "model": (lambda: efface.find_sites("gpt2", "norms"), "model is 'gpt2': write a torch.nn.Module"),  # type: ignore[arg-type]
    "ragged": (lambda: efface.LeaceFitter.fit([[1.0], [1.0, 2.0]], [0, 1]), "rows of different lengths"),
    "sparse": (lambda: efface.optimal_linear_shrinkage(torch.eye(3).to_sparse_csr(), 5), "write S_n.to_dense()"),
    "label": (lambda: efface.QuantileNormalizer(X, Z).cdf(X, X), "one integer label"),  # type: ignore[arg-type]
    "eight bits": (lambda: to_tensor(torch.zeros(2, dtype=torch.float8_e4m3fn), "x"), r"write x.float\(\)"),
    "half complex": (lambda: to_tensor(torch.zeros(2).to(torch.complex32), "x"), "does not calculate"),
    "bits": (lambda: efface.ClassMoments(4, 2, least=torch.zeros(4, dtype=torch.uint8).view(torch.bits8)), "a Tensor"),  # type: ignore[arg-type]
    "labels without a module": (
        lambda: efface.LeaceEraser.fit(X, Z).to_module()(X, Z),
        "takes 1 values, x first: 2 were given",
    ),
    "labels too few": (lambda: efface.OracleEraser.fit(X, Z).to_module()(X), "takes 2 values, x first: 1 were given"),
    "to a device": (lambda: efface.LeaceEraser.fit(X, Z).to("tpu:x"), "does not take this"),
    "to integers": (lambda: efface.LeaceEraser.fit(X, Z).to(torch.int32), "would lose all fractions"),
    "erasers": (lambda: efface.compose(efface.LeaceEraser.fit(X, Z), X), "erasers is a tuple"),  # type: ignore[arg-type]
    "left out": (lambda: efface.join_concepts(Z, ignore_index=2**70), "no tensor of integers holds"),
    "stable": (lambda: groupby(X, Z, stable="yes"), "stable is a str, expected a bool"),  # type: ignore[arg-type]
    "quantiles": (lambda: efface.QuantileNormalizer(X, Z, 2**40), "quantiles .* would take"),
    "second": (lambda: efface.Moments(4, second=np.array(["full"])), "write 'full' or 'diag'"),  # type: ignore[arg-type]
    "tolerance": (lambda: efface.OracleFitter(4, 2, svd_tol="x"), "svd_tol='x': write a number"),  # type: ignore[arg-type]
    "kind": (lambda: efface.MeanDifferenceFitter(4, 2, kind=np.array(["auto"])), "needs classes"),
    "names": (lambda: efface.Concept("circle", synonyms=Dataset()), "synonyms must be a list of strings"),  # type: ignore[arg-type]
    "options": (lambda: ScrubConfig.of("norms"), "given is a str, expected a Mapping"),  # type: ignore[arg-type]
    "texts of options": (lambda: ScrubConfig.parse([3]), "an option is a int"),  # type: ignore[list-item]
    "level": (lambda: efface.audit.bootstrap_interval([1.0, 2.0], level=X), "level is a Tensor"),  # type: ignore[arg-type]
    "length": (lambda: efface.labels_from_spans([[]], 2**62), "would take"),
    "class of a span": (lambda: efface.labels_from_spans([[(0, 1, 2**70)]], 4), "no tensor of integers holds"),
    "words": (lambda: efface.labels_from_words([[0]], torch.nested.nested_tensor([Z, Z[:2]])), "different lengths"),
    "tensors of words": (lambda: efface.labels_from_words([Z.to("meta")], [[0]]), "meta device|no list of rows"),
    "k": (lambda: top_k(torch.rand(2, 4), Dataset()), "k is a Dataset: expected whole numbers"),  # type: ignore[arg-type]
    "sites": (lambda: efface.foldable(torch.nn.Linear(4, 4), [X]), "one of the sites is a Tensor"),  # type: ignore[list-item]
    "readings": (lambda: efface.audit.detection({"a": 1}), "what the gate read of 'a' is a int"),  # type: ignore[dict-item]
    "erasers by site": (lambda: efface.Scrubber("x"), "erasers is a str, expected a Mapping"),  # type: ignore[arg-type]
    "rank": (lambda: efface.RandomSubspace("x"), "rank must be an integer"),  # type: ignore[arg-type]
    "rows of a control": (lambda: efface.RandomSubspace(1)(3), "x is a int"),  # type: ignore[arg-type]
    "mask of groups": (lambda: FeatureGroups([[0, 1], [2, 3]]).expand(X, X), r"expected \(6, 2\)"),
    "mask of tokens": (lambda: Tokens().map(torch.ones(2, 3), Z[None]), r"expected \(1, 6\)"),
    "ids": (lambda: TokenClassifier(torch.nn.Linear(4, 4), 0)(X), r"expected token ids \(n, tokens\)"),
    "pictures": (lambda: PixelModel(torch.nn.Linear(4, 4))(X), "height, width"),
    "draws": (lambda: Marginal(X).sample(X[0, 0], torch.Generator()), "same shape"),
    "generator": (lambda: Marginal(X).sample(X, np.random.default_rng(0)), "write a torch.Generator"),  # type: ignore[arg-type]
    "compactness": (lambda: Superpixels(compactness="x"), "compactness is 'x': write a number"),  # type: ignore[arg-type]
    "embeddings": (lambda: PromptEmbedding.cat([3]), "one of the embeddings is a int"),  # type: ignore[list-item]
    "rows of correlations": (lambda: canonical_correlations(np.ones((3, 2)), np.ones((4, 1))), "3 of x, 4 of z"),
    "numbers of correlations": (lambda: canonical_correlations(np.ones(3), np.ones((3, 1))), r"rows \(n, d\)"),
    "classes of a gap": (lambda: class_mean_gap(np.ones((3, 2)), np.array([0, -1, 2]), scale=1.0), "at least 0"),
    "scale of a gap": (lambda: class_mean_gap(np.ones((3, 2)), np.arange(3), scale=0.0), "write a positive number"),
    "sizes of an edit": (lambda: edit_size(np.ones((3, 2)), np.ones((3, 1))), r"expected \(n, d\) twice"),
    "rows of labels": (lambda: Labels.of([0, 1], "y").tensor(np.array([2])), "numbers of rows below 2"),
    "function of an eraser": (lambda: efface.LeaceEraser.fit(X, Z).erased(X, X), "a function"),  # type: ignore[arg-type]
    "nested rows of a control": (
        lambda: efface.RandomSubspace(1)(torch.nested.nested_tensor([X[:2], X[:3]])),
        "x has rows of different lengths",
    ),
    "sparse rows of a control": (lambda: efface.RandomSubspace(1)(X.to_sparse()), r"write x.to_dense\(\)"),
    "other fitter": (
        lambda: efface.LeaceFitter.fit(X, Z).merge(torch.zeros(4, dtype=torch.uint8).view(torch.bits8)),  # type: ignore[arg-type]
        "cannot merge a Tensor",
    ),
    "numbers of a trace": (lambda: _several(torch._efficientzerotensor((6,))), "values is a Tensor"),  # type: ignore[attr-defined]
    "sparse or none": (lambda: _perhaps(X.to_sparse()), r"write x.to_dense\(\)"),
    "sparse or a number": (lambda: efface.optimal_linear_shrinkage(X[:4], X.to_sparse()), r"write n.to_dense\(\)"),
    "complex number of rows": (lambda: efface.optimal_linear_shrinkage(X[:4], X[:1] * 1j), "n is torch.complex64"),
    "items by name": (lambda: read_array(Named(), "x"), "not by number"),
    "series": (lambda: efface.audit.Figure("t", series=3), "series is 3: write a list"),  # type: ignore[arg-type]
    "classes as functions": (lambda: groupby(X, Z).map(torch.nn.Linear), "fn is a type: write a function"),  # type: ignore[arg-type]
    "a function of less": (
        lambda: groupby(X, Z).map(efface.LeaceEraser.fit(X, Z)),  # type: ignore[arg-type]
        "fn is a LeaceEraser: write a function of 2 values",
    ),
    "a fit of less": (lambda: efface.audit.rows(X, Z, fit=lambda x: x), "fit is a function: write a function of 2"),  # type: ignore[arg-type]
    "missing ids": (lambda: Tokens(keep=pd.array([1, None], dtype="Int64")), "keep is a IntegerArray"),  # type: ignore[arg-type]
    "fractions of ids": (lambda: Tokens(keep=pd.Series([1.5, 2.0])), "keep is a Series"),  # type: ignore[arg-type]
    "arrays of nothing": (lambda: FeatureGroups(Unreadable()), "groups is a Unreadable"),  # type: ignore[arg-type]
    "dates of groups": (lambda: FeatureGroups(pd.date_range("2020", periods=2)), "groups is a DatetimeIndex"),  # type: ignore[arg-type]
    "objects as groups": (lambda: bootstrap([0.0, 1.0], groups=[object()] * 2), "groups holds object objects"),  # type: ignore[arg-type]
    "missing groups": (lambda: bootstrap([0.0, 1.0, 2.0], groups=["a", None, "b"]), "groups is missing.* 1 of 3"),  # type: ignore[arg-type]
    "missing dates": (lambda: make_folds(2, 2, groups=np.array(["2020", "NaT"], "M8[D]")), "groups is missing"),
    "quantised prompts": (lambda: listed(_by_channel(), "prompts"), "prompts is a Tensor: write a string"),
    "quantised embeddings": (lambda: PromptEmbedding.cat(_by_channel()), "embeddings is a Tensor: write a list"),
    "quantised sites": (lambda: efface.find_sites(torch.nn.Linear(4, 4), _by_channel()), "sites is a Tensor"),  # type: ignore[arg-type]
    "labels on meta": (lambda: numbered([torch.ones(2, device="meta")] * 2), r"concept\[0\] is on the meta device"),
    "rows elsewhere": (lambda: efface.LeaceEraser.fit(X, Z)(X.to("meta")), r"write eraser.to\('meta'\)"),
    "rows and labels elsewhere": (lambda: efface.OracleEraser.fit(X, Z)(X.to("meta"), Z), "the eraser on cpu"),
    "no logits": (lambda: TokenClassifier(Reader(), 0)(Z[None]), "gives a dict, which has no logits: give a class"),
    "no states": (
        lambda: TokenClassifier(Reader(), 0, torch.nn.Identity())(Z[None]),
        "no last_hidden_state: give the model below",
    ),
    "pictures of a probe": (lambda: Pictures(1j, ("a",), X, ()), "concept is 1j: write a torch.Tensor"),  # type: ignore[arg-type]
    "scores of a probe": (lambda: Scores("row", "asked", [1.0], ("a",)), "values is a list: write a torch.Tensor"),  # type: ignore[arg-type]
    "words of a choice": (lambda: Registry(X, ambiguous=X.numpy()), "write one of 'refused', 'apart'"),  # type: ignore[arg-type]
    "tables of no takedowns": (lambda: takedown_table(X), "found is a Tensor: write a list"),  # type: ignore[arg-type]
    "six of two": (lambda: Grid(cells=Z), "cells is a Tensor: write"),  # type: ignore[arg-type]
    "an index of two": (lambda: Grid(cells=pd.RangeIndex(6)), "cells is a RangeIndex: write"),  # type: ignore[arg-type]
    "a column of two": (lambda: Grid(cells=pl.Series([1, 2, 3])), "cells is a Series: write"),  # type: ignore[arg-type]
    "a field without a name": (
        lambda: efface.audit.Figure.from_dict({1: 2, None: 3, "t": 1}),  # type: ignore[dict-item]
        "1 is no name of a field",
    ),
    "names of other options": (
        lambda: ScrubConfig.of({"x": 1}, more=X),  # type: ignore[arg-type]
        "more is a Tensor, expected a tuple",
    ),
    "shapes of text": (lambda: LeaceTransformer(concept="y").partial_fit(X.numpy(), Shaped()), "y is a Shaped"),
    "ragged pairs": (lambda: efface.audit.similarity(X, X, pairs=[[0, 1], [2]]), "pairs has rows of different lengths"),
    "pairs without numbers": (
        lambda: efface.audit.similarity(X, X, pairs=torch.zeros(3, 2, device="meta")),
        "pairs",
    ),
    "what cannot be cut": (lambda: shortened(deque(["a", "b"])), "items is a deque: write a list"),
    "a fit that cannot be called": (
        lambda: soft_anchor(torch.nn.Linear(2, 2), "cat", "fit"),  # type: ignore[arg-type]
        "fit is 'fit': write a function",
    ),
    "keys that are no names": (
        lambda: efface.find_roles(torch.nn.Linear(2, 2), inputs={0: X, (1, 2): Z}),  # type: ignore[dict-item]
        "inputs is a dict: write a mapping from text",
    ),
    "a text for a list in a mapping": (
        lambda: efface.audit.remembrance.Corpus({"1": "a text"}, {"1": "a name"}),  # type: ignore[attr-defined]
        r"about\['1'\] is 'a name': write a list",
    ),
    "a label for a list of them": (
        lambda: efface.audit.ClassifierJudge(None, None, {"fish": "tench"}),
        r"labels\['fish'\] is 'tench': write a list",
    ),
    "rows of labels, and one without a length": (
        lambda: numbered([["a", "b"], 3, np.array("c")]),
        "concept",
    ),
    "a span without a length": (lambda: efface.labels_from_spans([[np.array(3)]], 3), "a span is"),  # type: ignore[arg-type]
    "the side of a site": (lambda: efface.Site("net.0", "inputs"), r"where='inputs' \(did you mean 'input'\?\)"),  # type: ignore[arg-type]
    "a site without a path": (lambda: efface.Site(3), "path is 3"),  # type: ignore[arg-type]
    "the kind of a task": (
        lambda: efface.audit.Task(Z, kind="continuos"),  # type: ignore[arg-type]
        "kind='continuos' .did you mean 'continuous'",
    ),
    "a masker that is an array": (
        lambda: efface.explain(torch.nn.Flatten().eval(), torch.rand(2, 3, 8, 8), masker=torch.ones(2, 3, 4)),  # type: ignore[arg-type]
        "masker=a Tensor: write e.g. masker=Grid",
    ),
    "figure": (lambda: Audit("title").plot({"a": 1}), "figure is a dict"),  # type: ignore[arg-type]
}


def _by_channel() -> Any:
    return torch.quantize_per_channel(X, torch.ones(4), torch.zeros(4), 1, torch.qint8)


class Unreadable:
    """Says that it is an array, and has no items."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("nothing to read")


class Shaped:
    """Says that it has a shape."""

    shape = ("a", None)
    dtype = "float"

    def __len__(self) -> int:
        raise RuntimeError("no length")


class Unshowable:
    """Fails when it is shown."""

    def __repr__(self) -> str:
        raise RuntimeError("nothing to show")


UNSHOWN: dict[str, Callable[[Any], Any]] = {
    "saved": efface.saved,
    "token": TokenMask,
    "unit": lambda value: Marginal(X, value),
    "dtype": lambda value: efface.LeaceFitter(4, 2, dtype=value),
    "second": lambda value: efface.Moments(4, second=value),
    "seed": generator,
    "words": lambda value: efface.Concept("circle", synonyms=[value]),
    "option": lambda value: ScrubConfig(order=[value]),  # type: ignore[arg-type]
    "sites": lambda value: efface.find_sites(torch.nn.Linear(4, 4), [value]),
    "scrubber": lambda value: efface.Scrubber({value: efface.LeaceEraser.fit(X, Z)}),
    "pairs": lambda value: as_pairs([value]),
    "bins": lambda value: QuadraticTransformer(concept="y", n_bins=value).fit(X.numpy(), X[:, 0].numpy()),
    "alpha": lambda value: OracleTransformer(concept="y", alpha=value).fit(X.numpy(), Z.numpy()),
    "columns": lambda value: LeaceTransformer(sensitive_columns=[value]).fit(X.numpy()),
    "word ids": lambda value: efface.labels_from_words([[0]], [[value]]),
}
BITS = torch.zeros(2, dtype=torch.uint8).view(torch.bits8)


@pytest.mark.parametrize("value", [Unshowable(), BITS], ids=["object", "bits"])
@pytest.mark.parametrize("call", UNSHOWN.values(), ids=UNSHOWN)
def test_what_cannot_be_shown_is_refused_by_its_type(call: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(InputError, match="Unshowable|Tensor|a list"):
        call(value)


def test_what_no_file_holds_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="it is a Unshowable, which cannot"):
        encoded(Unshowable())
    with pytest.raises(InputError, match="a is a function fits, which cannot"):
        encoded({"a": fits})


def test_data_sets_in_lists_are_read_as_far_as_their_length() -> None:
    rows = [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
    assert read_array([Dataset()] * 2, "x").values.tolist() == [rows, rows]
    assert read_array([[Dataset()], [rows]], "x").values.tolist() == [[rows], [rows]]
    inside: list[Any] = [1.0]
    assert countable(inside) is inside
    inside.append(inside)
    assert countable(inside) is inside


def test_columns_of_others_are_sequences_of_what_is_in_them() -> None:
    for ids in (
        pd.Series([2, 1]),
        pd.array([2, 1], dtype="Int64"),
        pl.Series([2, 1]),
        pa.array([2, 1]),
        np.array([2, 1]),
    ):
        assert Tokens(keep=ids).keep == (2, 1)  # type: ignore[arg-type]


def test_classes_are_functions_where_they_make_what_is_wanted() -> None:
    def of(fn: Callable[[int], float], made: Callable[..., Any] = len, told: Callable[[int], None] = print) -> None:
        check_call(of, {"fn": fn, "made": made, "told": told})

    of(int, Unshowable, list)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fn is a type"):
        of(str)  # type: ignore[arg-type]


def test_groups_may_be_text_numbers_or_dates() -> None:
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-01"], dtype="M8[D]")
    aware = pd.Series(pd.to_datetime(days).tz_localize("Europe/Berlin"))
    for groups in ([0, 1, 0], ["a", "b", "a"], days, pd.Series(days), aware, torch.tensor([True, False, True])):
        assert len(np.unique(read_groups(groups))) == 2
        assert bootstrap([0.0, 1.0, 1.0], groups=groups).method == "bootstrap over 2 groups"


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_doors_refuse(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((InputError, efface.FormatError), match=message):
        call()


def test_an_array_that_is_read_backwards_is_data() -> None:
    x, z = X.numpy(), np.arange(6) % 3
    one, other = (LeaceTransformer(concept="y").fit(x, each) for each in (z[::-1], z[::-1].copy()))
    np.testing.assert_array_equal(one.transform(x), other.transform(x))
    assert torch.equal(shared(z[::-1]), torch.from_numpy(z[::-1].copy()))
    LeaceTransformer(concept="y").fit(x, x[::-1, ::-1])


def test_an_array_without_dimensions_is_a_label() -> None:
    values, classes = numbered((np.array(3), np.array(1)))
    assert values.tolist() == [3, 1] and classes == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    for make in (efface.LeaceFitter, efface.OracleFitter, efface.QuadraticFitter, efface.Moments):
        with pytest.raises(InputError, match="device='cuda' cannot be used here"):
            make(4, 2, device="cuda")


LAYOUTS = {"CSR": torch.Tensor.to_sparse_csr, "CSC": torch.Tensor.to_sparse_csc, "COO": torch.Tensor.to_sparse}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sparse_rows_are_rows(layout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    eraser = efface.LeaceEraser.fit(layout(X), Z)
    assert torch.equal(eraser(layout(X)), eraser(X)) and eraser == efface.LeaceEraser.fit(X, Z)


def test_numbers_of_numpy_are_numbers() -> None:
    fitter = efface.LeaceFitter(np.int64(4), np.int32(3), svd_tol=np.float32(0.5), affine=np.bool_(True))  # type: ignore[arg-type]
    assert (type(fitter.x_dim), type(fitter.svd_tol), type(fitter.affine)) == (int, float, bool)


def test_a_number_has_no_dimension() -> None:
    assert all(to_tensor(value, "x").shape == () for value in (4, 0.5, np.float64(2), torch.tensor(1)))


def test_memory_that_is_there_is_granted() -> None:
    check_room(2**20, "a little")


HOSTILE = "<script>alert(1)</script> [x](javascript:1) | a\x1b[2J \u202ereversed\n# heading"


def test_names_from_data_have_no_effect_where_they_are_shown() -> None:
    audit = Audit(HOSTILE, conclusions=(HOSTILE,), findings=(Finding(HOSTILE, 0.5, unit=HOSTILE),))
    text, markdown, html = str(audit), audit.markdown(), audit.html()
    for shown in (text, markdown, html):
        assert (
            "\x1b" not in shown
            and "\u202e" not in shown
            and r"\x1b[2J" in shown.replace("\\\\", "\\").replace("\\[", "[")
        )
    assert "<script>" not in html and "\n# heading" not in markdown and r"\[x\](javascript:1)" in markdown
    assert visible("plain\ttext\n") == "plain\ttext\n"


def test_names_from_data_have_no_effect_in_a_card(tmp_path: Any) -> None:
    concept = efface.Concept(HOSTILE.replace("{", ""), labels=Z)
    efface.erase(X, concept, method="leace").save(tmp_path / "e")
    card = (tmp_path / "e" / "README.md").read_text()
    assert "\x1b" not in card and "<script>" not in card.replace("\\<script>", "") and "\n# heading" not in card


def _several(values: Sequence[float]) -> None:
    check_call(_several, locals())


def _perhaps(x: Tensor | None) -> None:
    check_call(_perhaps, locals())


def _gathered(*parts: int, by: float = 1.0, **names: str) -> int:
    check_call(_gathered, locals())
    return len(parts)


def test_hints_of_several_arguments_are_those_of_each() -> None:
    assert _gathered(1, 2, by=2, name="x") == 2
    with pytest.raises(InputError, match="parts is a tuple"):
        _gathered(1, "x")  # type: ignore[arg-type]


def test_stand_ins_of_a_trace_are_refused() -> None:
    with FakeTensorMode() as mode, pytest.raises(InputError, match="x is a FakeTensor"):
        to_tensor(mode.from_tensor(torch.ones(2)), "x")
    with FakeTensorMode() as mode, pytest.raises(InputError, match="maps is a FakeTensor"):
        top_k(mode.from_tensor(torch.ones(2, 4)), 1)


def test_zeros_without_memory_are_zeros() -> None:
    zeros = torch._efficientzerotensor((6,))  # type: ignore[attr-defined]
    column = read_column(zeros, "z")
    assert column.values.tolist() == [0.0] * 6
    digests = []
    for each in (zeros, torch.zeros(6)):
        digests.append(hashlib.sha256())
        feed(digests[-1], each)
    assert digests[0].hexdigest() == digests[1].hexdigest()


def test_what_has_no_shape_offers_nothing() -> None:
    assert efface.audit.access_of(torch.nested.nested_tensor([Z, Z[:2]])) == ()


def test_a_subject_that_fails_when_asked_for_what_it_lacks_offers_the_rest() -> None:
    assert efface.audit.access_of(Parts()) == ("gradients", "weights")


def test_a_variant_of_p4d_that_is_none() -> None:
    with pytest.raises(InputError, match="variant is 'k': write one of 'N', 'K'"):
        p4d(None, None, variant="k")  # type: ignore[arg-type]
