"""Folding erasers into the weights of the linear layers that read what they erase from.

Where linear layers alone read x, their `W x + b` of the erased `x - L R (x - mu)` is another linear layer,

    W' = W - (W L) R,    b' = b + (W L) R mu,

and what a linear layer gives is erased by `W' = W - L (R W)`, `b' = b - L R (b - mu)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.site import Site
from efface.erasers.leace import LeaceEraser
from efface.scrubbing.readers import example_inputs, find_readers, is_linear

_BIAS_FLAGS = (("self_attn", "attention_bias"), ("mlp", "mlp_bias"))
"""Part of a block -> the switch in the config that gives its layers biases when the model is loaded."""


class Fold:
    """Erasers that are part of a model's weights.

    Attributes:
        model: The model.
        layers: Paths of the layers whose weights were replaced.
        notes: What saving the model needs: layers whose new biases its config cannot express.
    """

    def __init__(self, model: nn.Module, erasers: Mapping[Site, Any], inputs: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self._old: list[tuple[nn.Module, str, Any]] = []
        self._config: dict[str, Any] = {}
        self.notes: list[str] = []
        plan = _plan(model, erasers, inputs)
        new = {path: _new_weights(model.get_submodule(path), edits) for path, edits in plan.items()}
        for path, (weight, bias) in new.items():
            _check_finite(path, weight, bias)
        self.layers = tuple(new)
        try:
            for path, (weight, bias) in new.items():
                self._replace(path, weight, bias)
        except BaseException:
            self.undo()
            raise

    def _replace(self, path: str, weight: Tensor, bias: Tensor | None) -> None:
        module = self.model.get_submodule(path)
        shared = _uses(self.model, module.weight) > 1  # type: ignore[arg-type]
        if bias is not None and module.bias is None:
            self._say_bias(path)
        self._set(module, "weight", weight)
        if bias is not None:
            self._set(module, "bias", bias)
        if shared and getattr(getattr(self.model, "config", None), "tie_word_embeddings", False):
            self._switch("tie_word_embeddings", False)

    def _set(self, module: nn.Module, name: str, value: Tensor) -> None:
        old = getattr(module, name)
        self._old.append((module, name, old))
        trains = module.weight.requires_grad if old is None else old.requires_grad  # type: ignore[union-attr]
        setattr(module, name, nn.Parameter(value, requires_grad=bool(trains)))

    def _say_bias(self, path: str) -> None:
        """A layer without bias gets one: let the config say so, or note that it cannot."""
        config = getattr(self.model, "config", None)
        parent = path.rpartition(".")[0]
        flag = next((flag for part, flag in _BIAS_FLAGS if parent.endswith(part) and hasattr(config, flag)), None)
        if flag is None:
            self.notes.append(f"{path} now has a bias, which {type(self.model).__name__} would not load again")
            return
        if not getattr(config, flag):
            self._switch(flag, True)
            self._fill_biases(parent.rpartition(".")[2])

    def _fill_biases(self, part: str) -> None:
        """The switch gives a bias to every layer of that part of each block: those not folded get zeros."""
        for path, module in self.model.named_modules():
            if is_linear(module) and path.rpartition(".")[0].endswith(f".{part}") and module.bias is None:
                weight: Tensor = module.weight  # type: ignore[assignment]
                self._set(module, "bias", weight.new_zeros(weight.shape[0]))

    def _switch(self, flag: str, value: bool) -> None:
        config: Any = self.model.config
        self._config.setdefault(flag, getattr(config, flag))
        setattr(config, flag, value)

    def undo(self) -> None:
        """Put back what was there, bit for bit."""
        for module, name, old in reversed(self._old):
            setattr(module, name, old)
        for flag, value in self._config.items():
            setattr(self.model.config, flag, value)  # type: ignore[union-attr]
        self._old, self._config = [], {}


def foldable(
    model: nn.Module, sites: Iterable[Site], inputs: Mapping[str, Any] | None = None
) -> dict[Site, tuple[str, ...] | str]:
    """For each site the layers into which its eraser can be folded, or why it cannot, in words.

    Args:
        model: The model.
        sites: Some of its sites.
        inputs: Keyword arguments for one small forward pass; None makes token ids or pixels.
    """
    sites = list(sites)
    own = {site: is_linear(model.get_submodule(site.path)) for site in sites}
    traced = [site for site in sites if not own[site] and site.where == "output"]
    readers = find_readers(model, traced, inputs or example_inputs(model)) if traced else {}
    found: dict[Site, tuple[str, ...] | str] = {}
    for site in sites:
        if own[site]:
            found[site] = (site.path,)
        elif site.where == "input":
            found[site] = "only inputs of linear layers can be folded"
        elif site not in readers:
            found[site] = "the forward pass does not come by it"
        elif readers[site].others:
            found[site] = "it is also read by " + "; ".join(sorted(readers[site].others))
        else:
            found[site] = tuple(sorted(readers[site].linear)) or "nothing in the model reads it"
    return found


def _plan(
    model: nn.Module, erasers: Mapping[Site, Any], inputs: Mapping[str, Any] | None
) -> dict[str, list[tuple[str, LeaceEraser]]]:
    """Layer -> the edits of what comes to it (`"upstream"`), is passed in (`"input"`) and given (`"output"`)."""
    for site, eraser in erasers.items():
        if not isinstance(eraser, LeaceEraser):
            raise InputError(f"the eraser of {site} is {eraser!r}: only affine erasers (LEACE, orth) can be folded")
    plan: dict[str, list[tuple[str, LeaceEraser]]] = {}
    found = foldable(model, erasers, inputs)
    if refused := {site: why for site, why in found.items() if isinstance(why, str)}:
        site, why = next(iter(refused.items()))
        rest = f"; and {len(refused) - 1} more sites cannot" if len(refused) > 1 else ""
        raise InputError(
            f"the eraser of {site} cannot be folded: {why}{rest}. Leave them to hooks: fold only those that "
            "`foldable(model, scrubber.sites)` gives layers for, by scrubber.only(...)"
        )
    for site, layers in found.items():
        where = site.where if layers == (site.path,) else "upstream"
        for path in layers:
            plan.setdefault(path, []).append((where, erasers[site]))
    return plan


def _new_weights(module: nn.Module, edits: list[tuple[str, LeaceEraser]]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the edits in them, formed in float64, in the layer's dtype."""
    old: Tensor = module.weight.detach()  # type: ignore[assignment, operator]
    flip = type(module) is not nn.Linear  # Conv1D keeps (in, out)
    w = old.double().mT if flip else old.double()
    b = None if module.bias is None else module.bias.detach().double()  # type: ignore[operator]
    for where in ("input", "upstream", "output"):
        erasers = [eraser for at, eraser in edits if at == where]
        # before a layer the last edit is the innermost, after it the first
        for eraser in erasers if where == "output" else reversed(erasers):
            w, b = _edited(w, b, where, eraser.to(device=w.device, dtype=torch.float64))
    w = w.mT if flip else w
    return w.to(old.dtype).contiguous(), None if b is None else b.to(old.dtype)


def _edited(w: Tensor, b: Tensor | None, where: str, eraser: LeaceEraser) -> tuple[Tensor, Tensor | None]:
    left, right, mu = eraser.proj_left, eraser.proj_right, eraser.bias
    if where != "output":
        through = w @ left
        shift = None if mu is None else through @ (right @ mu)
        total = shift if b is None else b if shift is None else b + shift
        return w - through @ right, total
    offset = (0 if b is None else b) - (0 if mu is None else mu)
    if isinstance(offset, Tensor):
        moved = -left @ (right @ offset)
        b = moved if b is None else b + moved
    return w - left @ (right @ w), b


def _check_finite(path: str, weight: Tensor, bias: Tensor | None) -> None:
    if not bool(weight.isfinite().all()) or (bias is not None and not bool(bias.isfinite().all())):
        raise InputError(
            f"folding would give {path} weights that are not finite in {weight.dtype}; the model is as it was. Convert "
            "it first: model.float() or model.bfloat16()"
        )


def _uses(model: nn.Module, parameter: Tensor) -> int:
    return sum(p is parameter for module in model.modules() for p in module._parameters.values())
