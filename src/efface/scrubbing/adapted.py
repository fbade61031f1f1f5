"""Linear layers inside the adapters of PEFT: what they are made of, in whichever state adapters are.

A layer with LoRA computes `W x + b + s B A x` for the adapters that are on, and what is trained beside an adapter
stands beside the layer that it replaces. Nothing here imports peft: its modules are known by what they have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from efface._errors import InputError
from efface.core.adapters import in_use, is_adapter, trained_beside


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a plain linear layer: `nn.Linear`, or the transposed `Conv1D` of GPT-2."""
    return type(module) is nn.Linear or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a linear layer in whichever state its adapters are, if it has any."""
    return is_linear(module) or is_lora(module) or any(map(is_linear, trained_beside(module).values()))


def is_lora(module: nn.Module) -> bool:
    """Whether a module is a linear layer with LoRA around it; not with a kind whose sum is no sum, as DoRA."""
    base = getattr(module, "base_layer", None)
    known = hasattr(module, "lora_A") and hasattr(module, "lora_bias") and not getattr(module, "lora_variant", None)
    return known and isinstance(base, nn.Module) and is_linear(base)


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of a model by their paths; what an adapter consists of is no layer of its own."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if not path.startswith(inside) and is_layer(module):
            inside = inside if is_linear(module) else (*inside, f"{path}.")
            yield path, module


def check_open(model: nn.Module, path: str) -> None:
    """Refuse a layer around which lies an adapter of an unknown kind.

    Raises:
        InputError: If one does.
    """
    for end in [i for i, c in enumerate(path) if c == "."]:
        around = model.get_submodule(path[:end])
        if hasattr(around, "adapter_layer_names") and not is_layer(around):
            raise InputError(
                f"{path} lies inside an adapter, {type(around).__module__}.{type(around).__name__}, which is no sum of "
                "linear layers: merge it first, model.merge_and_unload(), and fit on what comes out"
            )


def merged(model: nn.Module) -> nn.Module:
    """A model without adapters: those that are on merged into a copy of it. One that has none is given as it is."""
    if not any(is_adapter(module) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    for path, module in [*copied.named_modules()]:
        if is_adapter(module):
            parent, _, name = path.rpartition(".")
            setattr(copied.get_submodule(parent), name, _settled(module))
    if getattr(copied, "_hf_peft_config_loaded", False):
        copied._hf_peft_config_loaded = False  # type: ignore[assignment]
    return copied


def _settled(module: Any) -> nn.Module:
    """The layer that an adapter is in its present state."""
    if beside := trained_beside(module):
        return beside[in_use(module)]
    if not module.disable_adapters:
        module.merge()
    elif module.merged:
        module.unmerge()
    return module.get_base_layer()
