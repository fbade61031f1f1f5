"""What leaves efface: LoRAs that plain diffusers loads, and pipelines with the weights in them, with equal pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView
from efface.core.weights import Add, LowRank
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from efface.diffusion.weights.export import LORA, save_lora, save_pipeline
from tests.pipelines import BUILDERS, build

CIRCLE = Concept("circle", anchor="star")
LOADERS = ("sd1", "sdxl", "sd3", "flux", "cogvideox", "ltx", "hunyuan-video", "wan")
"""Kinds of pipelines that diffusers gives `load_lora_weights`."""


def said(pipe: Any, kind: str) -> Tensor:
    """What the denoiser predicts of a prompt with the concept in it."""
    view = PipelineView.of(pipe)
    embedding = view.encode(["a red circle"]).replace(negative=None)
    call = {k: v for k, v in BUILDERS[kind][1].items() if k in ("height", "width", "num_frames")}
    prepared = view.prepare(embedding, **call)
    with torch.no_grad():
        return view.denoise(prepared.latents, prepared.timesteps[0], embedding, **call)


def erased(pipe: Any, kind: str, erasure: WeightErasure) -> Tensor:
    with erasure.on(pipe):
        return said(pipe, kind)


def loaded(kind: str, folder: Path) -> Any:
    pipe = build(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.load_lora_weights(folder)
    return pipe


@pytest.mark.parametrize("kind", LOADERS)
def test_a_lora_that_plain_diffusers_loads(kind: str, tmp_path: Path) -> None:
    pipe = build(kind)
    erasure = efface.erase(pipe, CIRCLE, "uce", key_span="last")
    facts = save_lora(erasure, pipe, tmp_path / "lora")
    plain, expected = said(pipe, kind), erased(pipe, kind, erasure)
    found = said(loaded(kind, tmp_path / "lora"), kind)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert facts["kept"] == 1.0 and facts["rank"] <= 3
    assert facts["nbytes"] == sum(v.numel() * 4 for v in load_file(tmp_path / "lora" / LORA).values())
    assert not hasattr(pipe, "peft_config") and torch.equal(said(pipe, kind), plain)


def test_pictures_are_equal(tmp_path: Path) -> None:
    pipe = build("sd1")
    erasure = efface.erase(pipe, CIRCLE, "uce", key_span="last")
    save_lora(erasure, pipe, tmp_path / "lora")
    save_pipeline(erasure, pipe, tmp_path / "pipe")
    fused = type(pipe).from_pretrained(tmp_path / "pipe", safety_checker=None)
    call = {"height": 32, "width": 32, "num_inference_steps": 4, "output_type": "pt"}

    def drawn(pipe: Any) -> Tensor:
        return pipe("a red circle", generator=torch.Generator().manual_seed(0), **call).images

    with erasure.on(pipe):
        expected = drawn(pipe)
    assert not torch.allclose(drawn(pipe), expected, atol=1e-3)
    assert torch.equal(drawn(fused), expected)
    torch.testing.assert_close(drawn(loaded("sd1", tmp_path / "lora")), expected, rtol=1e-3, atol=1e-3)


def test_a_pipeline_that_needs_no_efface(tmp_path: Path) -> None:
    """Every weight is the edited one, bit for bit, also of a rotation; the pipeline itself is as before."""
    pipe = build("sd1")
    before = {n: v.clone() for n, v in pipe.unet.state_dict().items()}
    erasure = efface.erase(pipe, CIRCLE, "oce")
    save_pipeline(erasure, pipe, tmp_path / "p")
    assert all(torch.equal(v, before[n]) for n, v in pipe.unet.state_dict().items())
    with erasure.on(pipe):
        inside = {n: v.clone() for n, v in pipe.unet.state_dict().items()}
    saved = type(pipe.unet).from_pretrained(tmp_path / "p", subfolder="unet").state_dict()
    assert all(torch.equal(v, inside[n]) for n, v in saved.items())
    assert any(not torch.equal(v, before[n]) for n, v in saved.items())
    with pytest.raises(InputError, match="has something in it"):
        save_pipeline(erasure, pipe, tmp_path / "p")


def test_a_dense_change_is_refused_or_cut(tmp_path: Path) -> None:
    pipe = build("sd1")
    erasure = efface.erase(pipe, CIRCLE, "uce")
    with pytest.raises(InputError, match=r"has rank 3\d, and as a LoRA it would be larger .* write rank=N"):
        save_lora(erasure, pipe, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    facts = save_lora(erasure, pipe, tmp_path / "lora", rank=6)
    assert facts["rank"] == 6 and 0.3 < facts["kept"] < 1
    with erasure.on(pipe):
        inside = {n: v.double() for n, v in pipe.unet.state_dict().items()}
    tensors = load_file(tmp_path / "lora" / LORA)
    for name in erasure.deltas["unet"].changes:
        path = f"unet.{name.removesuffix('.weight')}"
        change = inside[name] - pipe.unet.state_dict()[name].double()
        found = (tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]).double()
        best = torch.linalg.svdvals(change)[6:].norm()
        assert abs((change - found).norm() - best) < 1e-4 * change.norm()


def test_several_changes_of_low_rank_are_one(tmp_path: Path) -> None:
    pipe = build("sd1")
    one, other = (efface.erase(pipe, Concept(w, anchor="star"), "uce", key_span="last") for w in ("circle", "ring"))
    both = one.then(other)
    facts = save_lora(both, pipe, tmp_path / "lora")
    assert facts["rank"] == 2 and facts["kept"] == 1.0
    torch.testing.assert_close(
        said(loaded("sd1", tmp_path / "lora"), "sd1"), erased(pipe, "sd1", both), rtol=1e-4, atol=1e-4
    )


def test_what_a_lora_cannot_hold(tmp_path: Path) -> None:
    pipe = build("sd1")
    for name, value in (("conv_in.bias", torch.ones(16)), ("conv_in.weight", torch.ones(16, 4, 3, 3))):
        erasure = WeightErasure({"unet": delta_of(pipe.unet, {name: Add(value)})})
        with pytest.raises(InputError, match=f"weights of linear layers, not {name}"):
            save_lora(erasure, pipe, tmp_path / "lora")
    vae = WeightErasure({"vae": delta_of(pipe.vae, {"quant_conv.bias": Add(torch.ones(8))})})
    with pytest.raises(InputError, match="not of 'vae'"):
        save_lora(vae, pipe, tmp_path / "lora")
    erasure = efface.erase(pipe, CIRCLE, "uce", key_span="last")
    with pytest.raises(InputError, match="other weights|has no"):
        save_lora(erasure, build("sdxl"), tmp_path / "lora")
    with pytest.raises(InputError, match="rank=0"):
        save_lora(erasure, pipe, tmp_path / "lora", rank=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="overwrite=True"):
        save_lora(erasure, pipe, tmp_path / "full")
    save_lora(erasure, pipe, tmp_path / "full", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["mine.txt", LORA]
    with pytest.raises(InputError, match="not with"):
        save_lora(erasure, pipe.unet, tmp_path / "lora")


def test_text_encoders_too(tmp_path: Path) -> None:
    pipe = build("sd1")
    name = next(n for n, _ in pipe.text_encoder.named_parameters() if n.endswith("q_proj.weight"))
    up, down = (torch.randn(s, generator=torch.Generator().manual_seed(0)) for s in ((32, 2), (2, 32)))
    change = LowRank(up, down)
    erasure = WeightErasure({"text_encoder": delta_of(pipe.text_encoder, {name: change})})
    save_lora(erasure, pipe, tmp_path / "lora")
    torch.testing.assert_close(
        said(loaded("sd1", tmp_path / "lora"), "sd1"), erased(pipe, "sd1", erasure), rtol=1e-4, atol=1e-4
    )
