"""Which layers of a denoiser are tuned: chosen by what they do, which is measured, never by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, get_args

from torch import nn

from efface._errors import InputError
from efface.core.adapters import is_dressed
from efface.core.subjects import unwrapped
from efface.pipelines.view import PipelineView

Modules: TypeAlias = Literal["x", "x-strict", "self", "attention", "transformers", "u", "all"]
"""Which linear and convolutional layers of the denoiser are tuned.

`"x"`: those of the attention that reads text (cross-attention in SD and SDXL; in SD3, FLUX and joint attention of
video, where the picture reads itself and the text at once, all of that attention). `"x-strict"`: the keys and values of
text alone, where joint attention has one layer for both (FLUX's single blocks, CogVideoX) these. `"self"`: the
attention that reads no text. `"attention"`: both. `"transformers"`: those within the modules whose blocks have such
attention (`Transformer2DModel` in a UNet; elsewhere that is the whole denoiser). `"u"`: all but `"x"`. `"all"`: all.
"""

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def chosen_layers(view: PipelineView, which: Modules) -> dict[str, nn.Module]:
    """Path in the denoiser -> layer, of those that are tuned, in the order of the denoiser.

    Args:
        view: The pipeline.
        which: Which of them.

    Raises:
        InputError: If there are none, the pipeline has several denoisers, or adapters are around layers of it.
    """
    denoiser = denoiser_of(view)
    crossed = {layer.path.rpartition(".")[0] for layer in view.key_value_layers()}
    strict = {layer.path for layer in view.key_value_layers()}
    whole = _transformers(crossed)
    alone = {path for path in _attentions(denoiser) if path not in crossed}
    found = {}
    for path, layer in denoiser.named_modules():
        if not isinstance(layer, _WEIGHTED):
            continue
        reads, looks = _below(path, crossed), _below(path, alone)
        groups: Mapping[Modules, bool] = {
            "x": reads,
            "x-strict": path in strict,
            "self": looks,
            "attention": reads or looks,
            "transformers": _below(path, whole),
            "u": not reads,
            "all": True,
        }
        if groups[which]:
            found[path] = layer
    if not found:
        others = ", ".join(repr(each) for each in get_args(Modules) if each != which)
        raise InputError(
            f"{type(denoiser).__name__} has no layers of modules={which!r} (all of its attention reads text): "
            f"choose one of {others}"
        )
    return found


def denoiser_of(view: PipelineView) -> nn.Module:
    """The one denoiser of a pipeline, if it can be tuned.

    Raises:
        InputError: If there are several, adapters are around layers of it, or its weights are elsewhere or quantised.
    """
    return tunable(unwrapped(view.components.denoisers[view.denoising.only]))


def tunable(model: nn.Module) -> nn.Module:
    """A model, if its weights can be tuned.

    Raises:
        InputError: If adapters are around layers of it, or its weights are elsewhere or quantised.
    """
    name = type(model).__name__
    if is_dressed(model):
        raise InputError(
            f"{name} has adapters around its layers: fuse or unload them first, as by pipe.unload_lora_weights()"
        )
    if any("forward" in vars(module) for module in model.modules()):
        raise InputError(
            f"the forward of {name} was replaced, as accelerate does to offload it, and tuning wants its weights in "
            "one place: load the pipeline without offloading, pipe.to(device)"
        )
    for path, value in model.named_parameters():
        if value.device.type == "meta" or not value.is_floating_point():
            raise InputError(
                f"{path} of {name} is quantised or not in memory: load the model unquantised, without offload"
            )
    return model


def _transformers(paths: set[str]) -> set[str]:
    """What has the lists of blocks with these attentions: path of that, name of the list, number, and attention.

    >>> sorted(_transformers({"mid.attentions.0.transformer_blocks.0.attn2", "transformer_blocks.0.attn"}))
    ['', 'mid.attentions.0']
    """
    return {"" if path.count(".") < 3 else path.rsplit(".", 3)[0] for path in paths}


def _attentions(denoiser: nn.Module) -> Iterator[str]:
    for path, module in denoiser.named_modules():
        if all(isinstance(getattr(module, role, None), nn.Module) for role in ("to_q", "to_k", "to_v")):
            yield path


def _below(path: str, roots: set[str]) -> bool:
    return any(not root or path.startswith(f"{root}.") for root in roots)
