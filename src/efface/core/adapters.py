"""What the adapters of PEFT in a model are doing now. Nothing here imports peft: they are known by what they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from efface.core.subjects import wraps


def is_adapter(module: nn.Module) -> bool:
    """Whether a module is an adapter around a layer, or keeps trained copies of one."""
    return bool(trained_beside(module)) or (hasattr(module, "adapter_layer_names") and hasattr(module, "base_layer"))


def is_dressed(model: nn.Module) -> bool:
    """Whether something in a model is a wrapper, or may be an adapter; else names are as they are."""
    for module in model.modules():
        if not module._modules.keys().isdisjoint(_INSIDE) or wraps(type(module)) is not None:
            return True
    return False


_INSIDE = {"base_layer", "original_module"}
"""Where adapters have the layer that they are around."""


def trained_beside(module: nn.Module) -> Mapping[str, nn.Module]:
    """Name inside a module -> a layer, where trained copies of a layer are kept beside the one that was there."""
    original, copies = getattr(module, "original_module", None), getattr(module, "modules_to_save", None)
    if not isinstance(original, nn.Module) or not isinstance(copies, nn.ModuleDict):
        return {}
    return {"original_module": original} | {f"modules_to_save.{name}": each for name, each in copies.items()}


def in_use(module: Any) -> str:
    """Which of `trained_beside` runs now."""
    active = [] if module.disable_adapters else module.active_adapters
    return next((f"modules_to_save.{name}" for name in active if name in module.modules_to_save), "original_module")


def plain_name(model: nn.Module, path: str) -> str | None:
    """The name that a parameter had without adapters, and without wrappers around parts.

    Those of an adapter that is on, and changes something, keep their names; of what does nothing now it is None.
    """
    found: list[str] = []
    module: Any = model
    rest = path.split(".")
    while rest:
        if rest[0] == wraps(type(module)):
            rest, module = rest[1:], getattr(module, rest[0])
        elif isinstance(module, nn.Module) and trained_beside(module):
            chosen = in_use(module).split(".")
            if rest[: len(chosen)] != chosen:
                return None
            rest, module = rest[len(chosen) :], module.get_submodule(".".join(chosen))
        elif isinstance(module, nn.Module) and is_adapter(module) and rest[0] == "base_layer":
            rest, module = rest[1:], module.base_layer
        elif isinstance(module, nn.Module) and is_adapter(module):
            return ".".join((*found, *rest)) if _acts(module, rest) else None
        else:
            found.append(rest[0])
            module, rest = getattr(module, rest[0], None), rest[1:]
    return ".".join(found)


def _acts(module: Any, rest: list[str]) -> bool:
    """Whether the adapter that a parameter is of changes what the layer gives."""
    names = [name for name in rest[1:] if name in module.active_adapters]
    if module.disable_adapters or module.merged or not names:
        return False
    last = getattr(module, "lora_B", {})
    variant = getattr(module, "lora_variant", {})
    if names[0] not in last or names[0] in variant:
        return True
    return any(bool(p.any()) for p in last[names[0]].parameters() if p.device.type != "meta")
