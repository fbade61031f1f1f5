"""Interruptions, NaN and bad input: errors say what to do, and the model is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import InputError, LeaceEraser, Scrubber, scrub
from tests.models import data, padding, state, tiny, tokens
from tests.scrubs import every_route, fit, interrupting, model, same


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
    for after in range(0, total[0], max(1, total[0] // 4)):
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
    same(known, Scrubber.at({"layer": LeaceEraser.fit(own.embed(tokens())[kept].detach(), tokens()[kept] % 3)}), 1e-5)


@every_route
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sites": "model.layers.*.norm1"}, "did you mean"),
        ({"sites": 5}, "sites=5: write one or a list"),
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
    ids=lambda x: str(x).partition(" at 0x")[0][:40],  # addresses differ between processes
)
def test_bad_input_is_refused_and_the_model_left_as_it_was(route, change, text):
    before = state(model("llama"))
    with pytest.raises((InputError, TypeError), match=text):
        fit(**{"route": route} | change)
    assert state(model("llama")) == before
