"""A `Scrubber` on every architecture: what it erases, where it is put, and generation under it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import (
    EffaceWarning,
    InputError,
    LeaceEraser,
    Scrubber,
    Site,
    collect,
    find_sites,
    join_concepts,
    load,
    scrub,
)
from efface.core.fingerprint import agrees, fingerprint
from efface.core.hooks import edits_on
from tests.models import (
    GENERATE,
    class_gaps,
    concept,
    data,
    gap,
    generate,
    hidden_states,
    hooks,
    labelled_rows,
    padding,
    prompts,
    state,
    tiny,
    tokens,
)
from tests.scrubs import every_family, first, fitted, model

# --------------------------------------------------------------------------------------------- what it erases


@every_family
@pytest.mark.parametrize("role", ["residual", "mlp_out", "attn_out"])
def test_the_concept_is_gone_from_all_sites_of_a_role_at_once(name, role):
    known = scrub(model(name), data(name), concept(name), sites=role)
    paths = [site.path for site in known.sites]
    assert max(class_gaps(model(name), name, paths).values()) > 0.1
    with known.on(model(name)):
        assert max(class_gaps(model(name), name, paths).values()) <= 1e-6


SITES = {
    "llama": [
        "model:output[last_hidden_state]",  # a ModelOutput
        "model.layers.0.self_attn",  # a tuple
        "model.layers.1.self_attn:output[0]",
        "model.layers.0.self_attn:input",  # the keyword hidden_states
        "model.layers.1:input",
        "model.layers.1.self_attn:input[hidden_states]",
        "model.layers.*.mlp.down_proj:input",  # 48 wide
        "lm_head:input",
        ":output[logits]",  # of the model as a whole, 64 wide
    ],
    "gpt2": ["h.*.attn:input", "h.*.attn:output[0]", "h.1.mlp.c_proj:input", "transformer", "lm_head"],
    "bert": ["pooler", "encoder.layer.0:input", "encoder:output[0]", ":output[last_hidden_state]"],
    "t5": ["encoder.block.*:output[0]", "encoder", "encoder.block.1.layer.0.SelfAttention:input[0]"],
}


@pytest.mark.parametrize("name", SITES)
def test_inputs_outputs_keywords_tuples_and_model_outputs(name):
    labels = torch.arange(24) % 3 if name == "bert" else concept(name)  # BERT's pooler gives one row a sequence
    given: dict[str, Any] = {"data": data(name), "concept": labels}
    sites = SITES[name][:1] if name == "bert" else SITES[name]
    known = scrub(model(name), **given, sites=sites, shrinkage=False)
    plain, after = (collect(model(name), **given, sites=sites, scrubber=s) for s in (None, known))
    assert list(after.x) == [str(site) for site in known.sites] and len(after.x) >= len(sites)
    assert all(gap(x, plain.labels) > 0.05 for x in plain.x.values())
    # 24 rows for 32 features have any linear concept in them: what is left of them is rounding
    assert all(gap(x, after.labels) <= 4e-6 or float(x.std(0).max()) < 1e-5 for x in after.x.values())


@pytest.mark.parametrize(("name", "activations"), [("llama", "recompute"), ("llama", "memory"), ("bert", "recompute")])
def test_scrubbers_of_several_concepts_inside_one_another(name, activations):
    """What is fitted with another scrubber on keeps both concepts out of every site."""
    other = (tokens() // 3) % 2
    one = fitted(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        with one.on(model(name)):
            two = scrub(model(name), data(name), other, sites="norms", activations=activations)
    paths = [site.path for site in one.sites]
    with one.on(model(name)):
        assert max(class_gaps(model(name), name, paths, other).values()) > 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("error", EffaceWarning)
            inner = two.on(model(name))
        with inner:
            for labels in (None, other):
                assert max(class_gaps(model(name), name, paths, labels).values()) <= 1e-6
    with pytest.warns(EffaceWarning, match="fitted with 1 more scrubbers on, which are not"):
        two.on(model(name)).undo()


def test_scrubbers_that_know_nothing_of_each_other_are_refused(tmp_path):
    own, other = model("llama"), (tokens() // 3) % 2
    one, two = fitted("llama"), scrub(own, data("llama"), other, sites="norms")
    with one.on(own):
        with pytest.raises(InputError, match=r"was not fitted with it on.*join_concepts\(a, b\)"):
            two.on(own)
        with pytest.warns(EffaceWarning, match="both concepts come back in part"):
            two.on(own, check=False).undo()
        with two.random_control().on(own), pytest.raises(InputError):
            two.on(own)
    one.save(tmp_path / "one")
    loaded, more = load(tmp_path / "one"), {k: v[:20] for k, v in data("llama").items()}
    for given, labels, method in ((data("llama"), other, "leace"), (more, other[:20], "leace")):
        on = loaded if given is not more else one
        with on.on(own):
            with pytest.warns(EffaceWarning, match="cannot be kept whole.*Fit both at once"):
                late = scrub(own, given, labels, sites="norms", method=method)
            with late.on(own):
                pass
    front, back = one.only(*one.sites[:2]), one.only(*one.sites[2:])
    with front.on(own), back.on(own), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(first("llama"), scrubbed("llama", tiny("llama")))


def test_several_concepts_of_some_tokens_at_once():
    own, ids = model("llama"), tokens()
    one, two = torch.where(ids % 5 == 0, -100, ids % 3), torch.where(ids % 7 == 0, -100, (ids // 3) % 2)
    known = scrub(own, data("llama"), join_concepts(one, two, ignore_index=-100), sites="norms")
    left = (one == -100) | (two == -100)
    paths = [site.path for site in known.sites]
    with known.on(own):
        for labels in (one, two):
            assert max(class_gaps(own, "llama", paths, labels.masked_fill(left, -100)).values()) <= 1e-6


def test_several_concepts_at_once_as_columns_of_labels():
    name, other = "llama", (tokens() // 3) % 2
    known = scrub(model(name), data(name), join_concepts(concept(name), other), sites="norms")
    paths = [site.path for site in known.sites]
    with known.on(model(name)):
        for labels in (None, other):
            assert max(class_gaps(model(name), name, paths, labels).values()) <= 1e-6


@every_family
def test_bfloat16_models_are_scrubbed_in_bfloat16(name):
    half = tiny(name).bfloat16()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in data(name).items()}
    known = scrub(half, inputs, concept(name), sites="norms")
    paths = [site.path for site in known.sites]
    rows = {p: x for p, x in hidden_states(half, inputs, paths).items()}
    with known.on(half):
        scrubbed = hidden_states(half, inputs, paths)
    for path in paths:
        mask = inputs.get("decoder_attention_mask" if path.startswith("decoder") else "attention_mask")
        plain, after = (gap(*labelled_rows(x[path], concept(name), mask)) for x in (rows, scrubbed))
        assert scrubbed[path].dtype == torch.bfloat16 and plain > 0.1
        assert after < 0.01  # what rounding to eight bits puts back


# --------------------------------------------------------------------------------------------------- collecting


@pytest.mark.parametrize("name", ["llama", "opt", "bert", "vit"])
@pytest.mark.parametrize("on", [False, True])
def test_collected_rows_are_the_hidden_states_of_labelled_tokens(name, on):
    known = fitted(name) if on else None
    sites = list(fitted(name).sites)
    labels = concept(name).masked_fill(concept(name) == 2, -100)
    found = collect(model(name), data(name), labels, sites=sites, scrubber=known)
    paths = [site.path for site in sites]
    if known is None:
        expected = hidden_states(model(name), data(name), paths)
    else:
        with known.on(model(name)):
            expected = hidden_states(model(name), data(name), paths)
    for path in paths:
        x, z = labelled_rows(expected[path], labels, data(name).get("attention_mask"))
        torch.testing.assert_close(found.x[path], x, rtol=1e-5, atol=1e-5)
        assert torch.equal(found.labels, z)
        whole = expected[path].reshape(24, -1, 32)
        torch.testing.assert_close(found.x[path], whole[found.sequence, found.position], rtol=1e-5, atol=1e-5)


def test_the_same_rows_are_drawn_with_and_without_a_scrubber():
    given: dict[str, Any] = {"sites": "norms", "max_rows": 50, "batch_size": 4}
    name = "llama"
    draws = [collect(model(name), data(name), concept(name), scrubber=s, **given) for s in (None, fitted(name))]
    assert all(len(d.labels) == 50 for d in draws) and torch.equal(draws[0].position, draws[1].position)
    assert torch.equal(draws[0].sequence, draws[1].sequence) and torch.equal(draws[0].labels, draws[1].labels)
    assert bool((draws[0].sequence.diff() >= 0).all())
    assert torch.equal(draws[0].labels, concept(name)[draws[0].sequence, draws[0].position])
    assert len({(a, b) for a, b in zip(draws[0].sequence.tolist(), draws[0].position.tolist(), strict=True)}) == 50
    other = collect(model(name), data(name), concept(name), seed=1, **given)
    assert not torch.equal(other.sequence * 10 + other.position, draws[0].sequence * 10 + draws[0].position)


def test_every_row_is_as_likely_to_be_drawn():
    counts = torch.zeros(24, 10)
    for seed in range(60):
        found = collect(
            model("gpt2"), tokens(), concept("gpt2"), sites="h.0.ln_1", max_rows=24, batch_size=5, seed=seed
        )
        counts[found.sequence, found.position] += 1
    # 60 draws of a tenth: 6 expected of each, standard deviation 2.3
    assert counts.max() <= 18 and abs(float(counts[:12].sum()) / 720 - 1) < 0.12


def test_encoder_and_decoder_are_collected_one_by_one():
    sites = ["encoder.final_layer_norm", "decoder.final_layer_norm"]
    few = data("t5") | {"decoder_attention_mask": torch.ones_like(padding())}
    with pytest.raises(InputError, match="encoder and decoder.*collect them separately"):
        collect(model("t5"), few, concept("t5"), sites=sites)
    assert hooks(model("t5")) == 0


# -------------------------------------------------------------------------------------------------- on and off


def test_on_until_undone():
    name, known = "llama", fitted("llama")
    plain = first(name)
    with known.on(model(name)):
        inside = first(name)
    assert not torch.allclose(inside, plain, atol=1e-3)
    run = known.on(model(name))
    assert run.is_on and torch.equal(first(name), inside)
    with pytest.raises(InputError, match="on this LlamaForCausalLM already"):
        known.on(model(name))
    assert torch.equal(first(name), inside)
    run.undo()
    assert not run.is_on and torch.equal(first(name), plain)
    run.undo()
    with known.on(model(name)) as run:
        run.undo()
        assert torch.equal(first(name), plain)
    assert hooks(model(name)) == 0


def test_what_fired_is_in_the_log():
    name, known = "llama", fitted("llama")
    with known.on(model(name)) as run:
        first(name)
        first(name)
    assert run.log.counts == {str(site): 2 for site in known.sites}


def test_another_copy_of_the_model():
    known, twin = fitted("llama"), copy.deepcopy(model("llama"))
    with known.on(model("llama")):
        expected = first("llama")
    before = state(twin)
    with known.on(twin) as run:
        assert run.erasure is known and torch.equal(first("llama", twin), expected)
        assert hooks(model("llama")) == 0
        with known.on(model("llama")):
            assert torch.equal(first("llama", twin), expected)
    assert state(twin) == before


def test_a_model_that_has_changed_since_the_fit():
    known, changed = fitted("llama"), tiny("llama")
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.mul_(1.05)
    before = state(changed)
    with pytest.raises(InputError, match="not the model of the fit, its weights have changed.*check=False"):
        known.on(changed)
    with pytest.raises(InputError, match="weights have changed"), known.on(nn.DataParallel(changed)):
        pass
    with pytest.raises(InputError, match="weights have changed"):
        known.folded(changed)
    assert state(changed) == before
    with known.on(changed, check=False):
        assert edits_on(changed) == len(known.sites)
    assert state(changed) == before


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_pass_that_runs_the_model_again_is_run_with_the_scrubber_on(reentrant):
    plain, again = (tiny("llama").train() for _ in range(2))
    again.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again.enable_input_require_grads()
    call = {**data("llama"), "labels": data("llama")["input_ids"]}
    known = fitted("llama")
    with warnings.catch_warnings(), known.on(plain), known.on(again):
        warnings.simplefilter("error", EffaceWarning)
        for each in (plain, again):
            each(**call).loss.backward()
    for p, q in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    grads = [p.grad.clone() for p in again.parameters()]
    for part in ("loss", "logits"):
        with pytest.warns(EffaceWarning, match=r"gradient checkpointing before backward\(\)"), known.on(again):
            late = again(**call)
        with pytest.raises(InputError, match=r"has been taken off.*call backward\(\) while the erasure is on"):
            late[part].sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(again.parameters(), grads, strict=True))
    with warnings.catch_warnings(), known.on(again):
        warnings.simplefilter("error", EffaceWarning)
        again(**call).logits.sum().backward()
    with known.on(again):
        again.eval()(**call)


class Opaque(Tensor):
    """A weight that can be multiplied by but not viewed, as torchao's quantised ones."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.reshape, Tensor.view):
            raise NotImplementedError("unimplemented operator aten.view")
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            return out.as_subclass(Tensor)
        return out.as_subclass(cls) if func is Tensor.detach else out


def test_weights_that_cannot_be_viewed_are_scrubbed_by_hooks():
    odd = tiny("llama")
    for layer in odd.model.layers:
        layer.mlp.up_proj.weight = nn.Parameter(
            layer.mlp.up_proj.weight.detach().as_subclass(Opaque), requires_grad=False
        )
    scrubber = scrub(odd, data("llama"), concept("llama"), sites="norms")
    with scrubber.on(odd):
        assert torch.equal(first("llama", odd), scrubbed("llama"))


def scrubbed(name: str, own: Any = None) -> Tensor:
    with fitted(name).on(own or model(name)):
        return first(name, own)


def offloaded(folder: Any = None) -> Any:
    accelerate = pytest.importorskip("accelerate")
    moved = tiny("llama")
    if folder is None:
        return accelerate.cpu_offload(moved, execution_device="cpu")
    return accelerate.disk_offload(moved, folder, execution_device="cpu")


def test_models_of_other_precision_or_offloaded_are_the_same_model(tmp_path):
    known = fitted("llama")
    copies = {
        "bfloat16": tiny("llama").bfloat16(),
        "float16": tiny("llama").half(),
        "there and back": tiny("llama").half().float(),
        "in memory": offloaded(),
        "on disk": offloaded(tmp_path / "weights"),
    }
    for how, copied in copies.items():
        with known.on(copied) as run:
            assert run.is_on, how
    with torch.no_grad():
        copies["float16"].model.layers[1].mlp.up_proj.weight.mul_(1.05)
    with pytest.raises(InputError, match="weights have changed"):
        known.on(copies["float16"])
    with known.on(copies["on disk"]):
        assert torch.equal(first("llama", copies["on disk"]), scrubbed("llama"))


def test_a_fit_in_half_precision_suits_the_model_it_is_of():
    mark = fingerprint(tiny("llama").half())
    assert agrees(mark, fingerprint(tiny("llama"))) and not agrees(mark, fingerprint(tiny("gpt2")))


def test_a_model_without_the_sites():
    with pytest.raises(InputError, match="GPT2LMHeadModel has no model.layers.0.input_layernorm and 4 more sites"):
        fitted("llama").on(model("gpt2"))
    assert hooks(model("gpt2")) == hooks(model("llama")) == 0


def test_a_scrubber_of_what_is_no_site_or_no_eraser():
    with pytest.raises(InputError, match=r"'norm' is no Site: write Scrubber.at\({'norm': ...}\)"):
        Scrubber({"norm": torch.zeros_like})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="the eraser of norm is 3, expected a callable of hidden states"):
        Scrubber.at({"norm": 3})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="the eraser of norm is a type, expected a callable of hidden states"):
        Scrubber.at({"norm": LeaceEraser})


@pytest.mark.parametrize("thing", [torch.ones(2, 3), "llama", None])
def test_only_a_model_takes_a_scrubber(thing):
    with pytest.raises(InputError):
        fitted("llama").on(thing)


def test_transformers_own_output_of_hidden_states_is_erased():
    """It captures by hooks of its own, which stay on once they were asked for: before or after the scrubber."""
    own, known = tiny("llama"), scrub(model("llama"), data("llama"), concept("llama"), sites="residual")

    def gaps() -> list[float]:
        with torch.no_grad():
            found = own(**data("llama"), output_hidden_states=True).hidden_states
        mask = data("llama")["attention_mask"]
        return [gap(*labelled_rows(x, concept("llama"), mask)) for x in found[1:-1]]

    with known.on(own):
        assert max(gaps()) <= 1e-6  # asked for the first time
    assert min(gaps()) > 0.1
    with known.on(own):
        assert max(gaps()) <= 1e-6


def compiled_whole(own: Any) -> Any:
    return torch.compile(own, backend="eager")


def compiled_in_place(own: Any) -> Any:
    own.compile(backend="eager")
    return own


def compiled_forward(own: Any) -> Any:
    own.forward = torch.compile(own.forward, backend="eager")
    return own


@pytest.mark.parametrize("way", [compiled_whole, compiled_in_place, compiled_forward])
def test_a_model_that_was_compiled_and_run_before_is_scrubbed(way):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Embedding(64, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    own, ids = way(copy.deepcopy(plain)), tokens()
    with torch.no_grad():
        before = own(ids)
        known = scrub(own, {"input": ids}, ids % 3, sites="norms")
        assert known == scrub(plain, {"input": ids}, ids % 3, sites="norms")
        with known.on(own), known.on(plain):
            assert torch.equal(own(ids), plain(ids)) and not torch.allclose(plain(ids), before, atol=1e-3)
            with pytest.raises(InputError, match="already"):
                known.on(own)
        assert torch.equal(own(ids), before)
    torch.compiler.reset()


class Somewhere:
    """An eraser that takes what is on its own device alone."""

    def __init__(self, device: str = "cpu", moves: list[str] | None = None) -> None:
        self.device, self.moves = torch.device(device), [] if moves is None else moves

    def to(self, device: torch.device) -> Somewhere:
        self.moves.append(str(device))
        return Somewhere(str(device), self.moves)

    def __call__(self, x: Tensor) -> Tensor:
        assert x.device == self.device
        return x + 1


def test_erasers_are_moved_once_to_each_device_of_the_model():
    """As under `device_map`. Where there is no second device, `meta` stands for one."""
    net = nn.Sequential(nn.Identity(), nn.Identity())
    net[1].register_forward_pre_hook(lambda _m, args: (args[0].to("meta"),))  # what accelerate's hooks do
    here, there = Somewhere(), Somewhere()
    with Scrubber.at({"0": here, "1": there}).on(net):
        for _ in range(3):
            assert net(torch.zeros(2, 4)).device.type == "meta"
    assert here.moves == ["cpu"] and there.moves == ["meta"]
    eraser = fitted("llama").erasers[Site("model.norm")]
    assert {x.device.type for x in eraser.to(torch.device("meta")).tensors().values()} == {"meta"}
    assert fitted("llama").random_control().to(torch.device("meta")).erasers[Site("model.norm")].center.is_meta  # type: ignore


# ---------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("name", GENERATE)
def test_generation_with_and_without_a_cache_is_the_same_and_scrubbed(name):
    plain = generate(model(name), name)
    with fitted(name).on(model(name)):
        cached = generate(model(name), name, use_cache=True)
        assert cached == generate(model(name), name, use_cache=False)
    assert cached != plain and generate(model(name), name) == plain
    assert all(len(row) >= 8 for row in cached)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_generation_is_scrubbed_at_every_step(name):
    """Beams and sampling go through the same hooks; each step edits one token at each site."""
    widths: list[int] = []
    path = fitted(name).sites[-1].path

    def count(x: Tensor) -> Tensor:
        widths.append(x.shape[1])
        return fitted(name).erasers[Site(path)](x)

    with Scrubber.at({path: count}).on(model(name)):
        generate(model(name), name, num_beams=2)
    length = 1 if name == "t5" else prompts(name)["input_ids"].shape[1]
    assert widths == [length] + [1] * 7


def test_roles_find_nothing_in_a_model_of_another_make():
    with pytest.raises(InputError, match="table="):
        find_sites(nn.Sequential(nn.Linear(2, 2)), "attn_out", inputs={"input": torch.ones(1, 2)})
