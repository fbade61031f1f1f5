"""Does an erasure of a language model last: rounded, tuned on, states put back; and a broken model is never a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import efface.audit
from efface import InputError, Scrubber, scrub
from efface.audit import Audit
from efface.audit.states.depth import depth, scored
from efface.audit.states.durability import BACK, DEPTH, LOSS
from efface.audit.states.durability_text import BROKEN, COMES, READ, SPOILED, WELL
from efface.audit.states.language import Texts, blocks_of, frequency_nats, nats_of, rounded, to_bfloat16, to_int8, tuned
from tests.models import hooks, tiny

KINDS, COLOURS, WORDS = 3, 5, 300
LAST = "model.norm"


def language(n: int, seed: int, length: int = 16) -> Tensor:
    """Token ids of a kind (the rest by three), which mostly moves on by one, and a colour, which mostly stays."""
    source = torch.Generator().manual_seed(seed)

    def some(below: int) -> Tensor:
        return torch.randint(0, below, (n,), generator=source)

    kind, colour, found = some(KINDS), some(COLOURS), []
    for _ in range(length):
        found.append(kind + KINDS * (colour + COLOURS * some(WORDS // KINDS // COLOURS)))
        kind = (kind + 1 + (some(10) == 0) * some(KINDS)) % KINDS
        colour = torch.where(some(10) == 0, some(COLOURS), colour)
    return torch.stack(found, dim=1)


@cache
def model() -> Any:
    """A small model that has learnt the language."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    net: Any = tf.LlamaForCausalLM(tf.LlamaConfig(intermediate_size=48, pad_token_id=0, **sizes))
    adam, data = torch.optim.Adam(net.parameters(), lr=1e-2), language(512, 0)
    for _ in range(60):
        ids = data[torch.randint(0, 512, (64,))]
        adam.zero_grad()
        net(input_ids=ids, labels=ids).loss.backward()
        adam.step()
    for p in net.parameters():
        p.grad = None
    return net.eval()


@cache
def scrubber() -> Scrubber:
    ids = language(2500, 3)
    return scrub(model(), {"input_ids": ids}, ids % KINDS, sites="norms", batch_size=256)


def never_knew(blocks: int = 2) -> Any:
    """A model of the same architecture that knows nothing."""
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_key_value_heads": 4, "num_hidden_layers": blocks}
    return tiny("llama", seed=1, **shape)


class Other:
    """An erasure that puts other weights in place of the model's."""

    def __init__(self, weights: nn.Module) -> None:
        self.weights = weights

    @contextmanager
    def on(self, subject: nn.Module) -> Iterator[None]:
        kept = {name: p.data for name, p in subject.named_parameters()}
        for name, p in self.weights.named_parameters():
            subject.get_parameter(name).data = p.data
        try:
            yield
        finally:
            for name, value in kept.items():
                subject.get_parameter(name).data = value


def asked(erasure: Any, n: int = 48, **more: Any) -> Audit:
    text = language(n, 1)
    options: dict[str, Any] = {"sites": [LAST], "max_rows": 240, "folds": 2} | more
    return efface.audit.durability(model(), erasure, text, text % KINDS, **options)


def verdicts(audit: Audit) -> dict[str, str]:
    return audit.settings["verdicts"]


@cache
def tuned_audit() -> Audit:
    return asked(scrubber(), tuning=language(600, 2), steps=60, rate=1e-2)


class TestTreatments:
    def test_an_erasure_lasts_through_rounding_and_not_through_tuning(self) -> None:
        audit = tuned_audit()
        assert verdicts(audit)["after"] == WELL, audit
        assert verdicts(audit)["rounded to bfloat16"] == WELL
        assert verdicts(audit)["tuned for 60 steps"] == COMES
        assert audit.find("linear probe", LAST, "before").value > 0.95
        assert audit.find("linear probe", LAST, "after").side == 0
        assert (audit.find("change since erasure", LAST, "tuned for 60 steps").low or 0.0) > 0.1
        assert any(said.startswith("WARNING: tuned for 60 steps: concept comes back") for said in audit.conclusions)

    def test_what_was_not_erased_is_said_first(self) -> None:
        audit = asked(Scrubber.at({LAST: lambda x: x + 0}))
        assert set(verdicts(audit).values()) == {READ} and audit.conclusions[0].startswith("NOT erased")

    def test_the_fold_is_as_the_hooks(self) -> None:
        part = scrubber().only(LAST)
        paths = ["lm_head"]
        hooks, fold = (asked(erasure, sites=paths, max_rows=200) for erasure in (part, part.folded(model())))
        for condition in ("before", "after"):
            one, other = (audit.find(LOSS, "loss", condition).value for audit in (hooks, fold))
            assert one == pytest.approx(other, abs=1e-4)
        one, other = (audit.find("linear probe", "lm_head", "after").value for audit in (hooks, fold))
        assert one == pytest.approx(other, abs=0.02)

    def test_sites_are_those_of_the_erasure(self) -> None:
        audit = efface.audit.durability(model(), scrubber(), language(8, 1), language(8, 1) % KINDS, folds=2)
        assert audit.settings["sites"][-1] == LAST and len(audit.settings["sites"]) == 4
        fold = scrubber().only("model.layers.1.input_layernorm").folded(model())
        audit = efface.audit.durability(model(), fold, language(8, 1), language(8, 1) % KINDS, folds=2)
        layers = audit.settings["sites"]
        assert layers == [f"model.layers.1.self_attn.{part}_proj" for part in "qkv"]

    def test_tuning_that_was_not_asked_for_is_not_run(self) -> None:
        audit = asked(scrubber())
        assert [f.status for f in audit.findings if f.name == "tuned"] == ["not run"] and len(verdicts(audit)) == 3

    def test_the_model_is_left_as_it_was(self) -> None:
        net = model()
        places = {name: value.data_ptr() for name, value in net.state_dict().items()}
        before, weights = hooks(net), {name: value.clone() for name, value in net.state_dict().items()}
        net.train()
        try:
            asked(scrubber(), tuning=language(8, 2), steps=1)
            assert net.training
        finally:
            net.eval()
        assert hooks(net) == before and places == {name: value.data_ptr() for name, value in net.state_dict().items()}
        assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())

    def test_the_audit_is_plain_data_and_draws_itself(self) -> None:
        audit = tuned_audit()
        assert Audit.from_dict(audit.to_dict()) == audit
        assert "comes back" in audit.html() and "put back" in audit.markdown()


class TestNeverAPass:
    def test_a_broken_model_is_no_erasure(self) -> None:
        audit = asked(Scrubber.at({LAST: torch.zeros_like}), tuning=language(16, 2), steps=1)
        assert set(verdicts(audit).values()) == {BROKEN}
        assert audit.conclusions[0].startswith("WARNING: the erased model is broken")
        after = [f for f in audit.findings if f.condition == "after" and f.family == "linear probe"]
        assert after and all(f.verdict == BROKEN for f in after)
        assert audit.find(LOSS, "loss", "before").caution == ""

    def test_noise_in_place_of_states_is_broken(self) -> None:
        def noise(x: Tensor) -> Tensor:
            return 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

        assert verdicts(asked(Scrubber.at({LAST: noise})))["after"] == BROKEN

    def test_few_tokens_are_inconclusive(self) -> None:
        audit = asked(scrubber(), n=4, max_rows=20)
        assert WELL not in verdicts(audit).values() and not any("stays away" in said for said in audit.conclusions)
        assert audit.conclusions[0].startswith("WARNING")

    def test_a_model_that_never_learnt_says_nothing(self) -> None:
        ids = language(40, 1)
        net = never_knew()
        site = "model.norm"
        part = scrub(net, {"input_ids": language(300, 3)}, language(300, 3) % KINDS, sites=[site])
        audit = efface.audit.durability(net, part, ids, ids % KINDS, max_rows=200, folds=2)
        assert set(verdicts(audit).values()) == {BROKEN}


class TestPutBack:
    def test_the_states_of_the_base_bring_it_back(self) -> None:
        ids = language(2500, 3)
        first = scrub(model(), {"input_ids": ids}, ids % KINDS, sites=["model.embed_tokens"], batch_size=256)
        audit = asked(first)
        found = [f for f in audit.findings if f.family == BACK]
        assert [f.name for f in found] == ["model.layers.0", "model.layers.1"]
        after = audit.find("linear probe", LAST, "after").value
        assert all(f.side == 1 and f.value > after + 0.03 for f in found)
        assert any("is read again behind all of 2 blocks" in said for said in audit.conclusions)

    def test_where_nothing_was_erased_before_the_last_site_nothing_changes(self) -> None:
        audit = asked(scrubber().only(LAST))
        after = audit.find("linear probe", LAST, "after").value
        assert all(f.value == pytest.approx(after, abs=1e-9) for f in audit.findings if f.family == BACK)


class TestDepth:
    def test_without_a_model_that_never_knew_there_is_no_score(self) -> None:
        score = tuned_audit().find(DEPTH, "score")
        assert score.status == "not applicable" and "gold=" in score.why

    def test_the_ends_of_the_scale(self) -> None:
        text = Texts.of(language(12, 1), "data", 5)
        never, spots = never_knew(), text.ids % KINDS == 0
        net = model()
        as_before = depth(net, lambda: Other(net).on(net), never, text, spots)
        as_gold = depth(net, lambda: Other(never).on(net), never, text, spots)
        assert np.abs(as_before.erased).max() == 0 and np.nanmax(as_before.scores) == 0
        assert np.nanmin(as_gold.scores) == pytest.approx(1) and as_gold.spoils > 0.05
        itself = depth(net, lambda: Other(net).on(net), net, text, spots)
        assert np.abs(itself.never).max() == 0 and np.isnan(itself.scores).all()

    def test_states_that_spoil_everything_are_void(self) -> None:
        never = never_knew()
        score = asked(Other(never), gold=never, asked=language(48, 1) % KINDS == 0).find(DEPTH, "score", "after")
        assert score.value == pytest.approx(1) and score.verdict == SPOILED

    def test_hooks_and_fold_have_one_score(self) -> None:
        never, spots = never_knew(), language(48, 1) % KINDS == 0
        inner = scrubber().only("model.layers.1.input_layernorm")
        scores = [
            asked(erasure, gold=never, asked=spots).find(DEPTH, "score", "after").value
            for erasure in (inner, inner.folded(model()))
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)

    def test_the_formula(self) -> None:
        found = scored(np.array([[1.0], [0.04], [3.0]]), np.array([[2.0], [9.0], [-1.0]]))
        assert found.tolist() == [0.25]

    def test_another_architecture_is_refused(self) -> None:
        never = never_knew(1)
        with pytest.raises(InputError, match="1 blocks, and the model 2"):
            asked(scrubber(), gold=never, asked=language(48, 1) > 5)


class TestWeights:
    def test_int8_is_within_half_a_step_and_rounds_once(self) -> None:
        weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
        found = to_int8(weight)
        step = weight.abs().amax(1, keepdim=True) / 127
        assert bool(((found - weight).abs() <= step / 2 + 1e-7).all()) and not torch.equal(found, weight)
        assert torch.allclose(to_int8(found), found, atol=1e-6) and to_int8(torch.zeros(2, 2)).abs().sum() == 0
        assert torch.equal(to_int8(weight[0]), weight[0])
        assert torch.equal(to_bfloat16(weight), weight.bfloat16().float())

    def test_weights_are_their_own_again_also_after_an_error(self) -> None:
        net = model()
        before = [p.data.data_ptr() for p in net.parameters()]
        with pytest.raises(ZeroDivisionError), rounded(net, to_int8):
            raise ZeroDivisionError
        assert [p.data.data_ptr() for p in net.parameters()] == before

    def test_tuning_learns(self) -> None:
        net, text = never_knew(), Texts.of(language(32, 1), "data", 16)
        before = nats_of(net, text).mean()
        with tuned(net, text, steps=5, rate=1e-2, seed=0):
            assert nats_of(net, text).mean() < before - 0.1
        assert nats_of(net, text).mean() == before
        with pytest.raises(InputError, match="not finite"), tuned(net, text, steps=9, rate=1e30, seed=0):
            pass

    def test_frequencies_are_the_entropy_and_padding_does_not_count(self) -> None:
        ids = torch.tensor([[0, 1, 2, 1], [0, 2, 1, 9]])
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
        found = frequency_nats(Texts.of({"input_ids": ids, "attention_mask": mask}, "data", 2))
        share = {1: 3 / 5, 2: 2 / 5}
        expected = [[-np.log(share.get(t, 1)) for t in row] for row in ((1, 2, 1), (2, 1, 9))]
        assert np.allclose(found.numpy(), expected)

    def test_blocks(self) -> None:
        assert blocks_of(model()) == ["model.layers.0", "model.layers.1"]
        with pytest.raises(InputError, match="no list of blocks"):
            blocks_of(nn.Linear(2, 2))


class TestBadInput:
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"labels": None}, "one for each token|give the concept of each token"),
            ({"labels": language(48, 1)[:, :3]}, "one for each token"),
            ({"labels": torch.full((48, 16), -100)}, "no token that counts"),
            ({"labels": language(48, 1) * 0}, "at least two"),
            ({"labels": language(48, 1) + 0.5}, "quantity"),
            ({"labels": [[0, 1], [2]]}, "rows of different lengths"),
            ({"erasure": None}, "no erasure"),
            ({"erasure": "scrubber"}, "no erasure"),
            ({"erasure": Other(nn.Linear(1, 1)), "sites": None}, "name the places"),
            ({"sites": "model.norm"}, "list"),
            ({"sites": []}, "at least one"),
            ({"sites": ["model.nrom"]}, "model.norm"),
            ({"sites": ["model.rotary_emb"]}, "expected a vector for each"),
            ({"data": language(48, 1).double()}, "integers"),
            ({"data": {"ids": language(48, 1)}}, "input_ids"),
            ({"rate": 0.0}, "learning rate"),
            ({"steps": 0}, "steps"),
            ({"seed": -1}, "seed"),
            ({"data": {"input_ids": language(48, 1), "attention_mask": torch.ones(48, 3)}}, "attention_mask"),
            ({"data": language(48, 1) + WORDS}, "use its tokenizer"),
            ({"data": -language(48, 1) - 1}, "use its tokenizer"),
            ({"tuning": language(3, 1)[:0]}, "at least 1 by 2"),
            ({"tuning": language(3, 1) + WORDS}, "tuning has tokens"),
            ({"gold": never_knew(), "asked": language(3, 1) > 5}, "one a token"),
            ({"groups": [1, 2]}, "groups"),
        ],
    )
    def test_is_refused(self, wrong: dict[str, Any], said: str) -> None:
        text = language(48, 1)
        given: dict[str, Any] = {"erasure": scrubber(), "data": text, "labels": text % KINDS}
        options: dict[str, Any] = {"sites": [LAST], "max_rows": 60, "folds": 2}
        with pytest.raises(InputError, match=said):
            efface.audit.durability(model(), **{**given, **options, **wrong})

    def test_what_is_no_language_model_is_refused(self) -> None:
        text = language(48, 1)
        with pytest.raises(InputError, match="no causal language model"):
            efface.audit.durability(
                tiny("bert", vocab_size=WORDS), Other(tiny("bert")), text, text % KINDS, sites=["encoder.layer.0"]
            )
        with pytest.raises(InputError, match="model is"):
            efface.audit.durability("llama", scrubber(), text, text % KINDS)  # type: ignore[arg-type]
