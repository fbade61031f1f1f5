"""How `scrub` fits: against Algorithm 1 written down plainly, whatever the route, the labels and the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import EffaceWarning, InputError, LeaceEraser, LeaceFitter, Scrubber, collect, labels_from_spans, scrub
from efface.scrubbing.carried_activations import Store
from tests.architectures import small_model
from tests.models import (
    CLASSES,
    FAMILIES,
    class_gaps,
    concept,
    data,
    hidden_states,
    labelled_rows,
    padding,
    state,
    tiny,
    tokens,
)
from tests.scrubs import ROUTES, every_family, every_route, fit, model, same


def rows(name: str, path: str, labels: Tensor | None = None, model_: Any = None) -> tuple[Tensor, Tensor]:
    inputs = data(name)
    decoder = path.startswith("decoder") and "decoder_input_ids" in inputs
    mask = inputs.get("decoder_attention_mask" if decoder else "attention_mask")
    x = hidden_states(model_ or model(name), inputs, [path])[path]
    return labelled_rows(x, concept(name) if labels is None else labels, mask)


def algorithm_1(name: str, paths: list[str]) -> dict[str, LeaceEraser]:
    """For each site in turn: the model with the earlier erasers on, all its hidden states there, and a fit."""
    erasers: dict[str, LeaceEraser] = {}
    handles = []
    for path in paths:
        x, z = rows(name, path)
        eraser = erasers[path] = LeaceEraser.fit(x, z)
        handles.append(model(name).get_submodule(path).register_forward_hook(lambda _m, _a, out, e=eraser: e(out)))
    for handle in handles:
        handle.remove()
    return erasers


@every_family
def test_sequential_scrubbing_is_algorithm_1(name):
    known = fit(name)
    paths = [site.path for site in known.sites]
    same(known, Scrubber.at(algorithm_1(name, paths)), 1e-4)


@every_family
def test_parallel_scrubbing_fits_the_plain_model(name):
    known = fit(name, "parallel")
    same(known, Scrubber({site: LeaceEraser.fit(*rows(name, site.path)) for site in known.sites}), 1e-4)


@every_family
def test_carried_activations_give_what_recomputed_ones_give(name, tmp_path):
    known = fit(name)
    same(known, fit(name, "memory"), 1e-5)
    same(known, fit(name, "disk", scratch=tmp_path), 1e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sites", ["residual", "mlp_out", "attn_out", ["residual", "norms"], "**.*_proj"])
@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_carried_activations_at_other_sites(name, sites):
    if sites == "**.*_proj" and name != "llama":
        sites = "**.*dense*" if name == "bert" else "mlp_out"
    sites = "re:encoder.*dense" if sites == "**.*dense*" else sites
    same(fit(name, sites=sites), fit(name, "memory", sites=sites), 1e-5)


@every_family
def test_the_concept_is_gone_from_all_sites_at_once_but_not_if_fitted_in_parallel(name):
    known, loose = fit(name), fit(name, "parallel")
    paths = [site.path for site in known.sites]
    plain = class_gaps(model(name), name, paths)
    assert min(plain.values()) > 0.1
    with known.on(model(name)):
        assert max(class_gaps(model(name), name, paths).values()) <= 1e-6
    with loose.on(model(name)):
        gaps = class_gaps(model(name), name, paths)
    assert gaps[paths[0]] <= 1e-6 and max(gaps.values()) > 1e-2


# ------------------------------------------------------------------------------------------------- what counts


@every_route
@pytest.mark.parametrize("name", ["llama", "bert", "opt"])
def test_what_is_in_the_padding_changes_nothing(name, route):
    garbage = data(name) | {"input_ids": torch.where(padding().bool(), tokens(), 3)}
    labels = torch.where(padding().bool(), concept(name), 1)
    assert not torch.equal(garbage["input_ids"], tokens())
    same(fit(name, route), fit(name, route, data=garbage, concept=labels))


@every_route
def test_ignored_tokens_are_left_out(route):
    ignored = tokens() % 5 == 0
    marked = torch.where(ignored, -7, concept("llama"))
    known = fit(route=route, concept=marked, ignore_index=-7)
    assert known.summary()[0]["n"] == int((padding().bool() & ~ignored).sum())
    same(known, fit(route=route, concept=torch.where(ignored, -100, concept("llama"))))
    with known.on(model("llama")):
        gaps = class_gaps(
            model("llama"), "llama", ["model.layers.0.input_layernorm"], marked.masked_fill(ignored, -100)
        )
    assert max(gaps.values()) <= 1e-6


@every_route
def test_a_label_of_a_sequence_holds_for_each_of_its_tokens(route):
    labels = torch.arange(24) % 3
    labels[5] = -100
    same(fit(route=route, concept=labels), fit(route=route, concept=labels[:, None].expand(24, 10)))


def test_labels_of_sequences_where_a_layer_sees_its_tokens_flattened():
    labels = torch.arange(24) % 3
    flat = fit("opt", sites="model.decoder.layers.0.fc2", concept=labels)
    assert flat.summary()[0]["n"] == int(padding().sum())


@every_route
def test_a_batch_without_any_label_that_counts(route):
    labels = concept("llama").clone()
    labels[8:16] = -100
    kept = [i for i in range(24) if not 8 <= i < 16]
    few = {k: v[kept] for k, v in data("llama").items()}
    same(fit(route=route, concept=labels), fit(route=route, data=few, concept=labels[kept]), 1e-5)


def test_spans_as_labels():
    spans = [[(i % 3, i % 3 + 3, 1)] for i in range(24)]
    known = fit(concept=labels_from_spans(spans, 10, outside=0))
    labels = torch.zeros(24, 10, dtype=torch.int64)
    for i in range(24):
        labels[i, i % 3 : i % 3 + 3] = 1
    same(known, fit(concept=labels))


def test_quantities_as_labels():
    z = tokens().float()
    paths = ["model.layers.0.input_layernorm", "model.norm"]

    def correlation(path: str) -> float:
        x, labels = rows("llama", path, z)
        x, labels = x.double() - x.double().mean(0), labels.double() - labels.double().mean()
        return float((x.T @ labels / (x.norm(dim=0) * labels.norm())).abs().max())

    before = [correlation(path) for path in paths]
    with fit(concept=z).on(model("llama")), torch.no_grad():
        assert min(before) > 0.1 and max(correlation(path) for path in paths) < 1e-6
    same(fit(concept=z), fit(concept=tokens(), kind="continuous"))


@every_route
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_statistics_of_a_bfloat16_model_are_exact(name, route):
    half = tiny(name).bfloat16()
    known = fit(name, route, model=half)
    assert known.erasers[known.sites[0]].proj_left.dtype == torch.float32
    for i, site in enumerate(known.sites):
        with Scrubber({s: known.erasers[s] for s in known.sites[:i] if route != "parallel"}).on(half):
            x, z = rows(name, site.path, model_=half)
        assert x.dtype == torch.bfloat16
        exact = LeaceFitter.fit(x.double(), z).eraser
        error = (known.erasers[site].P.double() - exact.P).abs().max() / exact.P.abs().max()
        assert error < 1e-5 and (known.erasers[site].bias - exact.bias).abs().max() < 1e-5


def test_options_go_to_the_fitter():
    linear = fit(affine=False, shrinkage=False)
    assert all(eraser.bias is None for eraser in linear.erasers.values())
    assert all(eraser.report.shrinkage == 0 for eraser in linear.erasers.values())
    config: Any = linear.config
    assert (config.affine, config.shrinkage, config.svd_tol, config.order) == (False, False, None, "sequential")
    double = fit(dtype=torch.float64)
    assert all(eraser.proj_left.dtype == torch.float64 for eraser in double.erasers.values())


# ------------------------------------------------------------------------------------------------- what it costs


def calls(count: Callable[[nn.Module], Any], run: Callable[[Any, dict[str, Tensor]], Any], batches: int) -> list[int]:
    """How often the attention layers and the feed-forward layers of six blocks were run to their end."""
    deep = tiny("llama", num_hidden_layers=6)
    found = [0, 0]

    def note(which: int) -> Any:
        def hook(*_: Any) -> None:
            found[which] += 1

        return hook

    for layer in deep.model.layers:
        layer.self_attn.register_forward_hook(note(0))
        layer.mlp.register_forward_hook(note(1))
    many = {k: v.repeat(2, 1)[: 4 * batches] for k, v in data("llama").items()}
    run(deep, many)
    return found


@pytest.mark.parametrize(
    ("route", "attention", "feed_forward"),
    [
        # 13 sites; before that of number 2 i lie i whole blocks, before the next one an attention layer more;
        # and one pass that measures what is left
        ("recompute", sum(range(6)) + sum(range(1, 7)) + 6 + 6, 2 * sum(range(6)) + 6 + 6),
        ("memory", 6 + 6 + 6, 6 + 6),  # each block once, and once more up to its second site
        ("disk", 6 + 6 + 6, 6 + 6),
        ("parallel", 6 + 6, 6 + 6),
    ],
)
def test_what_each_further_batch_costs(route, attention, feed_forward):
    def run(deep: Any, many: dict[str, Tensor]) -> None:
        scrub(deep, many, many["input_ids"] % 3, sites="norms", batch_size=4, **ROUTES[route])

    few, many = calls(len, run, 6), calls(len, run, 8)  # type: ignore[arg-type]
    assert [(b - a) / 2 for a, b in zip(few, many, strict=True)] == [attention, feed_forward]
    whole = 6 + 6
    if route == "recompute":
        assert attention + feed_forward == 13 * whole / 2 + whole
    beyond = few[0] + few[1] - 6 * (attention + feed_forward)
    assert beyond <= 6 * whole  # looking at roles, the order of sites, what is carried: a few single batches


@pytest.mark.parametrize("blocks", [4, 12])
@pytest.mark.parametrize("route", ["memory", "disk"])
def test_what_is_carried_is_read_once_a_pass_however_many_blocks_are_done(route, blocks, monkeypatch):
    reads = passes = 0
    get = Store.get

    def counting(self: Store, *args: Any) -> Any:
        nonlocal reads
        reads += 1
        return get(self, *args)

    def begin(*_: Any) -> None:
        nonlocal passes
        passes += 1

    monkeypatch.setattr(Store, "get", counting)
    deep = tiny("llama", num_hidden_layers=blocks)
    deep.register_forward_pre_hook(begin)
    scrub(deep, data("llama"), data("llama")["input_ids"] % 3, sites="norms", **ROUTES[route])
    assert blocks < reads <= passes


@pytest.mark.parametrize("given", [{}, {"use_cache": True}])
def test_no_cache_is_built_unless_the_data_ask_for_it(given):
    seen = []
    handle = model("llama").register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    fit(data=data("llama") | given)
    handle.remove()
    assert {kwargs["use_cache"] for kwargs in seen} == {bool(given)}


# ------------------------------------------------------------------------------------------- models of other makes


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x)).tanh()


class Leaving(Block):
    def forward(self, x: Tensor) -> Tensor:
        self.left = x.sin()
        return super().forward(x)


class Looped(nn.Module):
    """Two blocks, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.out = nn.LayerNorm(32)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        return self.out(x)


class Skipping(Looped):
    """What comes into the first block is added to what goes into the last."""

    def forward(self, input_ids: Tensor) -> Tensor:
        first = x = self.embed(input_ids)
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else x + self.side(first, x))
        return self.out(x)

    def side(self, first: Tensor, x: Tensor) -> Tensor:
        return first


class Remembering(Skipping):
    """The first block leaves something behind that the last one takes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Leaving() for _ in range(2))

    def side(self, first: Tensor, x: Tensor) -> Tensor:
        return self.blocks[0].left  # type: ignore[return-value]


def test_a_site_that_runs_several_times_gets_one_eraser_and_a_warning():
    with pytest.warns(EffaceWarning, match="blocks.0.norm, blocks.1.norm run several times"):
        known = scrub(Looped(), tokens(), tokens() % 3, sites="norms")
    assert [row["n"] for row in known.summary()] == [480, 480, 240]
    with pytest.warns(EffaceWarning), pytest.raises(InputError, match='several times .*activations="recompute"'):
        scrub(Looped(), tokens(), tokens() % 3, sites="norms", activations="memory")


def test_what_passes_beside_the_blocks():
    torch.manual_seed(0)
    own = Skipping()  # what the model itself passes on is made again in each pass: that is no hindrance
    given: dict[str, Any] = {"data": tokens(), "concept": tokens() % 3, "sites": "norms"}
    same(scrub(own, **given), scrub(own, **given, activations="memory"), 1e-5)
    torch.manual_seed(0)
    own = Remembering()
    before = state(own)
    with pytest.raises(InputError, match='more between its blocks than what they return.*activations="recompute"'):
        scrub(own, **given, activations="memory")
    assert state(own) == before


def test_a_site_that_no_forward_pass_comes_by():
    class Unused(Looped):
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.blocks[0](self.embed(input_ids))

    with pytest.raises(InputError, match="never comes by blocks.1.norm, out"):
        scrub(Unused(), tokens(), tokens() % 3, sites=["**.norm", "out"])
    assert [str(site) for site in scrub(Unused(), tokens(), tokens() % 3, sites="norms").sites] == ["blocks.0.norm"]


# ------------------------------------------------------------------------------------------------ what is measured


@pytest.mark.parametrize("route", ["recompute", "memory", "parallel"])
def test_what_is_left_is_measured_with_everything_on(route):
    own, ids = model("llama"), tokens()
    known = scrub(own, ids, ids % CLASSES, sites="norms", **ROUTES[route])
    worst = {path: 0.0 for path in map(str, known.sites)}
    with known.on(own):
        for path, x in hidden_states(own, {"input_ids": ids}, list(worst)).items():
            x, z = x.flatten(0, 1).double(), (ids % CLASSES).flatten()
            one_hot = nn.functional.one_hot(z).double()
            worst[path] = float(torch.corrcoef(torch.cat([x, one_hot], 1).T)[: x.shape[1], x.shape[1] :].abs().max())
    said = {row["site"]: row["residual"] for row in known.summary()}
    for path, found in worst.items():
        if route == "parallel" and path != str(known.sites[0]):
            assert 0.05 < said[path] < 1 and found > 0.01  # fitted without the erasers before
        else:
            assert said[path] < 1e-5 and found < 1e-5
    assert {row["residual"] for row in known.only(known.sites[0]).summary()} == {None}


@pytest.mark.filterwarnings("ignore:.*run several times:efface.EffaceWarning")
@pytest.mark.filterwarnings("ignore:the norms of:efface.EffaceWarning")
def test_what_is_left_at_the_worst_call_of_a_shared_layer_is_said():
    own, ids = small_model("albert"), tokens()
    known = scrub(own, ids, ids % CLASSES, sites="norms")
    assert max(row["residual"] for row in known.summary()) > 1e-3


# ------------------------------------------------------------------------------------------------ padding on the left


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bloom", "gpt_neox", "codegen", "gptj"])
def test_padding_on_the_left_is_as_if_it_were_not_there(name):
    own = tiny(name) if name in FAMILIES else small_model(name)
    ids, pad = tokens(), torch.zeros(len(tokens()), 3, dtype=torch.int64)
    inputs = {"input_ids": torch.cat([pad, ids], 1), "attention_mask": torch.cat([pad, torch.ones_like(ids)], 1)}
    labels = torch.cat([pad, ids % CLASSES], 1)
    want, got = scrub(own, ids, ids % CLASSES, sites="norms"), scrub(own, inputs, labels, sites="norms")
    for a, b in zip(got.erasers.values(), want.erasers.values(), strict=True):
        torch.testing.assert_close(a.proj_left @ a.proj_right, b.proj_left @ b.proj_right, rtol=1e-3, atol=1e-4)
    rows = collect(own, inputs, labels, sites="norms")
    for path, x in collect(own, ids, ids % CLASSES, sites="norms").x.items():
        torch.testing.assert_close(rows.x[path], x, rtol=1e-3, atol=1e-4)
