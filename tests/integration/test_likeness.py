"""Which copies of a model are the model of a fit: the same weights in another form are, changed ones are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from efface import EffaceWarning, InputError, Scrubber, scrub
from efface.core.fingerprint import agrees, fingerprint
from tests.models import class_gaps, concept, data, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:quantized..linear_dynamic:UserWarning"),
]
Make = Callable[..., Any]


@cache
def known(fitted_on: str = "llama") -> Scrubber:
    model = {"llama": lambda: tiny("llama"), "body": lambda: tiny("llama").model, "quantised": quantised}[fitted_on]()
    return scrub(model, data("llama"), concept("llama"), sites="norms")


def of_class(name: str) -> Any:
    copied = getattr(transformers, name)(tiny("llama").config)
    copied.load_state_dict(tiny("llama").state_dict(), strict=False)
    return copied.eval()


def resized(model: Any) -> Any:
    model.resize_token_embeddings(model.config.vocab_size + 9)
    return model


def trained(path: str, model: Any = None, by: float = 1.05) -> Any:
    model = tiny("llama") if model is None else model
    with torch.no_grad():
        model.get_parameter(path).mul_(by)
    return model


def with_part(wrap: Callable[[nn.Module], Any]) -> Any:
    model = tiny("llama")
    model.model.layers[1] = wrap(model.model.layers[1])
    return model


def checkpointed(part: nn.Module) -> Any:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(part)


def adapted(**options: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    return peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"], **options)).eval()


def added() -> Any:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    return model.eval()


def off() -> Any:
    model = adapted(init_lora_weights=False)
    model.base_model.disable_adapter_layers()
    return model


def merged() -> Any:
    model = adapted(init_lora_weights=False)
    model.merge_adapter()
    return model


def offloaded() -> Any:
    accelerate = pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    return lambda folder: accelerate.dispatch_model(
        tiny("llama"), {**places, "model.rotary_emb": "cpu"}, main_device="cpu", offload_dir=folder
    )


def quantised(model: Any = None) -> Any:
    model = tiny("llama") if model is None else model
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


class Packed(Tensor):
    """A weight that holds other numbers than it shows, as those of torchao and quanto."""

    def __tensor_flatten__(self) -> Any:
        raise NotImplementedError


def packed() -> Any:
    model = tiny("llama")
    for layer in model.model.layers:
        weight = (layer.mlp.up_proj.weight.detach() * 127).round() / 127
        layer.mlp.up_proj.weight = nn.Parameter(weight.as_subclass(Packed), requires_grad=False)
    return model


SAME: dict[str, Make] = {
    "bfloat16": lambda: tiny("llama").bfloat16(),
    "float16 and back": lambda: tiny("llama").half().float(),
    "without its head": lambda: tiny("llama").model,
    "with a head for sequences": lambda: of_class("LlamaForSequenceClassification"),
    "with a head for tokens": lambda: of_class("LlamaForTokenClassification"),
    "with another head": lambda: trained("lm_head.weight"),
    "with more tokens": lambda: resized(tiny("llama")),
    "with more tokens, without its head": lambda: resized(tiny("llama").model),
    "in DataParallel": lambda: nn.DataParallel(tiny("llama")),
    "compiled": lambda: torch.compile(tiny("llama"), backend="eager"),
    "a part compiled": lambda: with_part(lambda part: torch.compile(part, backend="eager")),
    "a part checkpointed": lambda: with_part(checkpointed),
    "with a new adapter": adapted,
    "with an adapter that transformers added": added,
    "with a trained adapter that is off": off,
    "with a trained head beside": lambda: trained(
        "base_model.model.lm_head.modules_to_save.default.weight", adapted(modules_to_save=["lm_head"])
    ),
}


@pytest.mark.parametrize("which", SAME)
def test_the_same_weights_in_another_form_are_the_model_of_the_fit(which: str) -> None:
    model = SAME[which]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        for fitted_on in ("llama", "body"):
            with known(fitted_on).on(model) as run:
                assert run.is_on


def test_a_scrubber_of_the_body_erases_in_the_whole_and_the_other_way_round() -> None:
    whole, labels = tiny("llama"), concept("llama")
    inner = [site.path for site in known("body").sites]
    outer = [f"model.{path}" for path in inner]
    with known("body").on(whole):
        assert max(class_gaps(whole, "llama", outer, labels).values()) <= 1e-6
    with known().on(whole.model):
        assert max(class_gaps(whole.model, "llama", inner, labels).values()) <= 1e-6
    with known("body").folded(whole).on(whole), torch.no_grad():
        folded = whole(**data("llama")).logits
    with known("body").on(whole), torch.no_grad():
        torch.testing.assert_close(whole(**data("llama")).logits, folded, rtol=1e-4, atol=1e-4)


def test_a_model_that_is_in_memory_in_part(tmp_path: Any) -> None:
    model = offloaded()(tmp_path)
    with known().on(model), torch.no_grad():
        erased = model(**data("llama")).logits
    plain = tiny("llama")
    with known().on(plain), torch.no_grad():
        torch.testing.assert_close(plain(**data("llama")).logits, erased)
    with pytest.raises(InputError, match="weights have changed"):
        known().on(trained("model.norm.weight", offloaded()(tmp_path / "again")))


def test_a_tied_head_and_one_of_its_own() -> None:
    tied = tiny("llama", tie_word_embeddings=True)
    free = tiny("llama")
    free.load_state_dict(tied.state_dict())
    with scrub(tied, data("llama"), concept("llama"), sites="norms").on(free):
        pass


@pytest.mark.parametrize("make", [quantised, packed])
def test_a_quantised_copy_is_known_by_its_norms_and_told(make: Make) -> None:
    with pytest.warns(EffaceWarning, match="quantised copy of the model of the fit"):
        run = known().on(make())
    run.undo()
    with pytest.raises(InputError, match="weights have changed"):
        other = trained("model.layers.1.input_layernorm.weight")
        known().on(quantised(other))
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        with known("quantised").on(quantised()):
            pass
    with pytest.warns(EffaceWarning, match="quantised copy"):
        known("quantised").on(tiny("llama")).undo()


def test_a_quantised_model_without_norms_is_not_known() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    known = Scrubber(Scrubber.at({"0": torch.zeros_like}).erasers, fingerprint(model))
    with pytest.raises(InputError, match="weights have changed"):
        known.on(quantised(model))


OTHER: dict[str, Make] = {
    "trained": lambda: trained("model.layers.1.mlp.up_proj.weight"),
    "norms trained": lambda: trained("model.layers.1.input_layernorm.weight"),
    "embeddings trained": lambda: trained("model.embed_tokens.weight"),
    "trained, without its head": lambda: trained("layers.1.mlp.up_proj.weight", tiny("llama").model),
    "trained, in bfloat16": lambda: trained("model.layers.1.mlp.up_proj.weight").bfloat16(),
    "trained, with more tokens": lambda: resized(trained("model.layers.1.mlp.up_proj.weight")),
    "with a trained adapter": lambda: adapted(init_lora_weights=False),
    "with an adapter merged into it": merged,
}


@pytest.mark.parametrize("which", OTHER)
def test_other_weights_are_not_the_model_of_the_fit(which: str) -> None:
    with pytest.raises(InputError, match="not the model of the fit, its weights have changed"):
        known().on(OTHER[which]())


def test_an_adapter_that_is_exchanged_after_the_fit() -> None:
    peft = pytest.importorskip("peft")
    model = adapted(init_lora_weights=False)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    first = scrub(model, data("llama"), concept("llama"), sites="norms")
    model.set_adapter("second")
    with pytest.raises(InputError, match="weights have changed"):
        first.on(model)
    model.set_adapter("default")
    with first.on(model):
        pass


def test_a_part_of_the_blocks_is_enough_for_the_sites_in_them() -> None:
    model = tiny("llama")
    model.model.layers = model.model.layers[:1]
    with known().only("model.layers.0.input_layernorm").on(model):
        pass


def test_fingerprints_of_older_files_have_no_parts() -> None:
    mark = fingerprint(tiny("llama")).partition(";")[0]
    older = Scrubber(known().erasers, mark)
    with older.on(tiny("llama").half()):
        pass
    with pytest.raises(InputError, match="weights have changed"):
        older.on(tiny("llama").model)
    assert agrees(mark, fingerprint(tiny("llama")))
