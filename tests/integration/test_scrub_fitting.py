"""How `scrub` fits: against Algorithm 1 written down plainly, whatever the route, the labels and the interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import EffaceWarning, InputError, LeaceEraser, LeaceFitter, Scrubber, labels_from_spans, scrub
from efface.scrubbing import checkpoint as checkpoints
from tests.models import (
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

ROUTES: dict[str, dict[str, Any]] = {
    "recompute": {"activations": "recompute"},
    "memory": {"activations": "memory"},
    "disk": {"activations": "disk"},
    "parallel": {"order": "parallel"},
}
every_route = pytest.mark.parametrize("route", ROUTES)
every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def model(name: str) -> Any:
    return tiny(name)


def fit(name: str = "llama", route: str = "recompute", **options: Any) -> Scrubber:
    given: dict[str, Any] = {"data": data(name), "concept": concept(name), "sites": "norms"} | ROUTES[route] | options
    return scrub(given.pop("model", None) or model(name), given.pop("data"), given.pop("concept"), **given)


def same(one: Scrubber, other: Scrubber, tolerance: float = 0.0) -> None:
    """The same sites and, up to a part of its largest entry, the same tensors."""
    assert one.sites == other.sites
    for site in one.sites:
        theirs = other.erasers[site].tensors()
        assert set(theirs) == set(one.erasers[site].tensors())
        for key, mine in one.erasers[site].tensors().items():
            if key in ("proj_left", "proj_right") and tolerance:  # a basis is free: the projection is not
                mine, theirs[key] = one.erasers[site].P, other.erasers[site].P
            assert mine.shape == theirs[key].shape, (site, key)
            assert float((mine - theirs[key]).abs().max()) <= tolerance * float(mine.abs().max()), (site, key)


# ------------------------------------------------------------------------------------------- against Algorithm 1


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
    same(known, Scrubber(algorithm_1(name, paths)), 1e-4)


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
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "t5", "bert", "clip_text_model"])
def test_carried_activations_at_other_sites(name, sites):
    if sites == "**.*_proj" and name not in ("llama", "clip_text_model"):
        sites = "**.*dense*" if name == "bert" else "mlp_out"
    sites = "re:encoder.*dense" if sites == "**.*dense*" else sites
    same(fit(name, sites=sites), fit(name, "memory", sites=sites), 1e-5)


@every_family
def test_the_concept_is_gone_from_all_sites_at_once_but_not_if_fitted_in_parallel(name):
    known, loose = fit(name), fit(name, "parallel")
    paths = [site.path for site in known.sites]
    plain = class_gaps(model(name), name, paths)
    assert min(plain.values()) > 0.1
    with known:
        assert max(class_gaps(model(name), name, paths).values()) <= 1e-6
    with loose:
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
    with known:
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
    with fit(concept=z), torch.no_grad():
        assert min(before) > 0.1 and max(correlation(path) for path in paths) < 1e-6
    same(fit(concept=z), fit(concept=tokens(), kind="continuous"))


@every_route
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_statistics_of_a_bfloat16_model_are_exact(name, route):
    half = tiny(name).bfloat16()
    known = fit(name, route, model=half)
    assert known.erasers[known.sites[0]].proj_left.dtype == torch.float32
    for i, site in enumerate(known.sites):
        with Scrubber({s: known.erasers[s] for s in known.sites[:i] if route != "parallel"}, model=half):
            x, z = rows(name, site.path, model_=half)
        assert x.dtype == torch.bfloat16
        exact = LeaceFitter.fit(x.double(), z).eraser
        error = (known.erasers[site].P.double() - exact.P).abs().max() / exact.P.abs().max()
        assert error < 1e-5 and (known.erasers[site].bias - exact.bias).abs().max() < 1e-5


def test_options_go_to_the_fitter():
    linear = fit(affine=False, shrinkage=False)
    assert all(eraser.bias is None for eraser in linear.erasers.values())
    assert all(eraser.report.shrinkage == 0 for eraser in linear.erasers.values())
    assert linear.facts["options"] == {"affine": False, "shrinkage": False}
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
        # 13 sites; before that of number 2 i lie i whole blocks, before the next one an attention layer more
        ("recompute", sum(range(6)) + sum(range(1, 7)) + 6, 2 * sum(range(6)) + 6),
        ("memory", 6 + 6, 6),  # each block once, and once more up to its second site
        ("disk", 6 + 6, 6),
        ("parallel", 6, 6),
    ],
)
def test_what_each_further_batch_costs(route, attention, feed_forward):
    def run(deep: Any, many: dict[str, Tensor]) -> None:
        scrub(deep, many, many["input_ids"] % 3, sites="norms", batch_size=4, **ROUTES[route])

    few, many = calls(len, run, 6), calls(len, run, 8)  # type: ignore[arg-type]
    assert [(b - a) / 2 for a, b in zip(few, many, strict=True)] == [attention, feed_forward]
    whole = 6 + 6
    if route == "recompute":
        assert attention + feed_forward == 13 * whole / 2
    beyond = few[0] + few[1] - 6 * (attention + feed_forward)
    assert beyond <= 5 * whole  # looking at the order of sites and checking what is carried: a few single batches


@pytest.mark.parametrize("given", [{}, {"use_cache": True}])
def test_no_cache_is_built_unless_the_data_ask_for_it(given):
    seen = []
    handle = model("llama").register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    fit(data=data("llama") | given)
    handle.remove()
    assert {kwargs["use_cache"] for kwargs in seen} == {bool(given)}


# ----------------------------------------------------------------------------------- interrupted, and gone on with


class Stopped(Exception):
    """What the data raises."""


class Failing:
    """Batches that can only be read so many times."""

    def __init__(self, reads: int) -> None:
        self.reads = reads

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, 24, 4):
            self.reads -= 1
            if self.reads < 0:
                raise Stopped
            yield {k: v[start : start + 4] for k, v in data("llama").items()}


def interrupting(victim: nn.Module, after: int) -> Any:
    """Ctrl-C in the middle of that forward pass of a module."""
    left = [after]

    def hook(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return victim.register_forward_hook(hook)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after each batch."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)


def reads(route: str, **options: Any) -> int:
    """How many batches a fit reads."""
    counting = Failing(10**9)
    fit(route=route, data=counting, **options)
    return 10**9 - counting.reads


@every_route
@pytest.mark.parametrize("method", ["leace", "mean-difference"])
def test_a_fit_that_was_interrupted_by_its_data_goes_on_with_the_same_result(route, method, tmp_path, often):
    known = fit(route=route, method=method, data=Failing(10**9))
    total = reads(route, method=method)
    for after in [total * part // 100 for part in (15, 45, 70, 97)]:
        folder = tmp_path / str(after)
        with pytest.raises(Stopped):
            fit(route=route, method=method, data=Failing(after), checkpoint=folder)
        rest = Failing(10**9)
        again = fit(route=route, method=method, data=rest, checkpoint=folder)
        same(known, again)
        assert not folder.exists()
        assert [e.report for e in again.erasers.values()] == [e.report for e in known.erasers.values()]


@every_route
def test_a_fit_that_was_interrupted_in_the_model_again_and_again(route, tmp_path, often):
    own = tiny("llama")
    known, before = fit(route=route, model=own, batch_size=4), state(own)
    folder, rounds, again = tmp_path / "fit", 0, None
    while again is None:
        rounds += 1
        assert rounds < 20
        handle = interrupting(own.get_submodule("model.layers.1.self_attn.o_proj"), 2 * rounds)
        try:
            again = fit(route=route, model=own, batch_size=4, checkpoint=folder)
        except KeyboardInterrupt:
            continue
        finally:
            handle.remove()
            assert state(own) == before
    same(known, again)
    assert rounds > 2 and not folder.exists()


def test_what_is_done_is_not_done_again(tmp_path, often):
    total = reads("recompute")
    folder = tmp_path / "fit"
    with pytest.raises(Stopped):
        fit(data=Failing(total - 2), checkpoint=folder)
    done = json.loads((folder / "scrub.json").read_text())
    assert done["erasers"] == [str(site) for site in fit().sites[:4]]  # in the middle of the last
    assert done["state"]["batches"] == 4
    paths: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, p=path: paths.append(p))
        for path, module in model("llama").named_modules()
        if path == "model.norm"
    ]
    fit(data=Failing(10**9), checkpoint=folder)
    for handle in handles:
        handle.remove()
    assert len(paths) == 1 + 2  # once to see the order of sites, and the two batches that were missing


def test_a_checkpoint_is_written_after_each_site_and_otherwise_seldom(tmp_path):
    folder = tmp_path / "fit"
    with pytest.raises(Stopped):
        fit(data=Failing(reads("recompute") - 2), checkpoint=folder)
    done = json.loads((folder / "scrub.json").read_text())
    assert len(done["erasers"]) == 4 and done["state"] is None


def other_model() -> Any:
    changed = tiny("llama")
    with torch.no_grad():
        changed.lm_head.weight.mul_(1.1)
    return changed


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "orth"}, "method"),
        ({"affine": False}, "options"),
        ({"route": "parallel"}, "order"),
        ({"sites": "residual"}, "sites"),
        ({"ignore_index": -1}, "ignore_index"),
        ({"kind": "categorical"}, "kind"),
        ({"concept": tokens() % 4}, "labels, data|data, labels"),
        ({"concept": 2 - tokens() % 3}, "data"),
        ({"data": {**data("llama"), "input_ids": tokens(9)}}, "data"),
        ({"batch_size": 3}, "labels|data"),
        ({"model": other_model}, "fingerprint"),
        ({"model": lambda: tiny("llama").bfloat16()}, "dtypes"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_the_checkpoint_of_another_fit_is_refused_and_kept(change, text, tmp_path):
    folder = tmp_path / "fit"
    batches = [{k: v[i : i + 4] for k, v in data("llama").items()} for i in range(0, 24, 4)]
    with pytest.raises(Stopped):
        fit(data=Failing(reads("recompute") - 2), checkpoint=folder)
    kept = sorted(p.name for p in folder.rglob("*"))
    made = change | ({"model": change["model"]()} if "model" in change else {})
    given: dict[str, Any] = {"data": data("llama") if "batch_size" in change else batches} | made
    with pytest.raises(InputError, match=f"checkpoint of another fit, it differs in .*({text})"):
        fit(checkpoint=folder, **given)
    assert sorted(p.name for p in folder.rglob("*")) == kept


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "scrub.json").write_text('{"settings": {}')
    with pytest.raises(InputError, match="damaged"):
        fit(checkpoint=tmp_path)


def test_what_else_is_in_the_folder_of_a_checkpoint_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    fit(checkpoint=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# ------------------------------------------------------------------------- whatever happens, the model is as it was


@every_route
@pytest.mark.parametrize("part", ["model.embed_tokens", "model.layers.0.mlp.act_fn", "model.layers.1.self_attn.o_proj"])
def test_a_scrub_that_is_interrupted_leaves_the_model_as_it_was(route, part, tmp_path):
    own = tiny("llama").train()
    own.lm_head.eval()
    victim = own.get_submodule(part)
    total = [0]
    handle = victim.register_forward_hook(lambda *_: total.__setitem__(0, total[0] + 1))
    fit(route=route, model=own)
    handle.remove()
    before = state(own)
    for after in range(0, total[0], max(1, total[0] // 8)):
        handle = interrupting(victim, after)
        with pytest.raises(KeyboardInterrupt):
            fit(route=route, model=own, scratch=tmp_path)
        handle.remove()
        assert state(own) == before
        assert not list(tmp_path.iterdir())


def poisoned(path: str) -> Any:
    bad = tiny("llama")
    with torch.no_grad():
        bad.get_submodule(path).weight[28, 0] = float("nan")
    return bad


@every_route
@pytest.mark.parametrize(
    "path", ["model.embed_tokens", "model.layers.0.self_attn.o_proj", "model.layers.1.mlp.up_proj"]
)
def test_the_layer_where_nan_arises_is_named(route, path, tmp_path):
    bad = poisoned(path)
    before = state(bad)
    with pytest.raises(InputError) as error:
        fit(route=route, model=bad, scratch=tmp_path)
    text = str(error.value)
    assert f"it first arises in '{path}'" in text and "float16 overflows" in text
    sequence, position = (tokens() == 28).nonzero()[0].tolist() if "embed" in path else (0, 0)
    batch, row = divmod(sequence, 8)
    assert f"batch {batch}, position ({row}, {position}) (sequence {sequence})" in text
    assert state(bad) == before and not list(tmp_path.iterdir())


class Overflowing(nn.Module):
    """Infinity arises between modules, in a function."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(64, 32), nn.LayerNorm(32)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.norm(self.embed(input_ids) / 0)


def test_nan_that_arises_in_no_module():
    with pytest.raises(InputError, match="norm:input, batch 0.* first arises in 'an|it first arises in"):
        scrub(Overflowing(), tokens(), tokens() % 3, sites="norm:input")


def test_nan_in_the_padding_does_no_harm():
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.Embedding(64, 32), nn.Identity()

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.layer(self.embed(input_ids).masked_fill(attention_mask[..., None] == 0, float("nan")))

    torch.manual_seed(0)
    own = Poisoned()
    known = scrub(own, data("llama"), tokens() % 3, sites="layer")
    kept = padding().bool()
    same(known, Scrubber({"layer": LeaceEraser.fit(own.embed(tokens())[kept].detach(), tokens()[kept] % 3)}), 1e-5)


@every_route
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sites": "model.layers.*.norm1"}, "did you mean"),
        ({"concept": torch.zeros(24, 12, dtype=torch.int64) + torch.arange(12)}, r"\(8, 10, 32\).*\(8, 12\)"),
        ({"concept": [[0, 1] * 6, *[[0, 1]] * 23]}, "12 labels, but its batch has 10 tokens"),
        ({"concept": tokens() * 0}, "the concept is absent from the data"),
        ({"concept": tokens() % 3 - 1}, "-1"),
        ({"data": iter([])}, "only once"),
        ({"method": "oracle"}, "needs the labels when it is applied.*leace, mean-difference, orth"),
        ({"method": "lace"}, "unknown method 'lace'"),
        ({"order": "random"}, "order='random': choose one of 'sequential', 'parallel'"),
        ({"activations": "gpu"}, "activations='gpu': choose one of"),
        ({"batch_size": 0}, "batch_size"),
        ({"ranks": 3}, "ranks"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_bad_input_is_refused_and_the_model_left_as_it_was(route, change, text):
    before = state(model("llama"))
    with pytest.raises((InputError, TypeError), match=text):
        fit(**{"route": route} | change)
    assert state(model("llama")) == before


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
        scrub(Unused(), tokens(), tokens() % 3, sites="norms")
