"""Which biases a model of transformers has when it is loaded again: seen by building it, without memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Shapes = dict[str, tuple[int, ...]]


@dataclass
class Switches:
    """What a config has to say for a model to be loaded with biases that it does not have.

    Attributes:
        switches: Setting of a config (`"attention_bias"`, or `"path.of.part.config.attention_bias"`) -> value.
        besides: Biases that the model gets besides -> their shape.
        lost: Those that no setting gives it.
    """

    switches: dict[str, Any] = field(default_factory=dict)
    besides: Shapes = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def switches_for(model: nn.Module, biases: Iterable[str]) -> Switches:
    """The settings of a model's config with which it would be loaded with these biases."""
    wanted = list(biases)
    found = Switches(lost=wanted)
    if not wanted or not hasattr(model, "save_pretrained"):
        return Switches()  # nothing that a config could say or fail to say
    plain = _shapes(model, {})
    if plain is None:
        return found
    for name in _flags(model):
        if not found.lost:
            break
        have = _shapes(model, {**found.switches, name: True})
        before = _shapes(model, found.switches)
        if have is None or before is None or not _only_biases(before, have):
            continue
        if any(bias in have for bias in found.lost):
            found.switches[name] = True
            found.besides |= {n: shape for n, shape in have.items() if n not in before and n not in wanted}
            found.lost = [bias for bias in found.lost if bias not in have]
    return found


def _only_biases(before: Shapes, after: Shapes) -> bool:
    new = {name for name in after if name not in before}
    kept = all(after.get(name) == shape for name, shape in before.items())
    return kept and all(name.endswith(".bias") for name in new)


def _flags(model: nn.Module) -> Iterator[str]:
    """Settings about biases that are off, of the config of the model and of its parts."""
    seen: list[Any] = []
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if config is None or any(config is other for other in seen):
            continue
        seen.append(config)
        for name, value in vars(config).items():
            if value is False and "bias" in name:
                yield f"{path}.config.{name}" if path else name


def _shapes(model: nn.Module, switches: dict[str, Any]) -> Shapes | None:
    """The parameters that a model of this class has with some settings; None if that cannot be seen."""
    config = copy.deepcopy(model.config)
    for name, value in switches.items():
        path, _, setting = name.rpartition(".")
        part = model.get_submodule(path.removesuffix("config").rstrip(".")) if path else model
        target = _twin(model.config, part.config, config)
        if target is None:
            return None
        setattr(target, setting, value)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            made: nn.Module = type(model)(config)
    except Exception:
        return None  # some classes cannot be built without memory: what they would load is then not known
    return {name: tuple(parameter.shape) for name, parameter in made.named_parameters(remove_duplicate=False)}


def _twin(whole: Any, part: Any, copied: Any) -> Any:
    """The place of a config inside the copy of the config that it is in."""
    if part is whole:
        return copied
    for name, value in vars(whole).items():
        if value is part:
            return getattr(copied, name)
    return None
