"""Folding erasers into the weights of the linear layers that read what they erase from.

Where linear layers alone read x, their `W x + b` of the erased `x - L R (x - mu)` is another linear layer,

    W' = W - (W L) R,    b' = b + (W L) R mu,

and what a linear layer gives is erased by `W' = W - L (R W)`, `b' = b - L R (b - mu)`. With LoRA, `s B A x` beside it,
the same happens to A or B, and the constant goes into the bias of B: it is erased with adapters on, off, and merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.installer import Handle, handles_on
from efface.core.site import Site
from efface.core.weights import Add, Change, LowRank, Put, WeightDelta
from efface.erasers.leace import LeaceEraser
from efface.scrubbing.adapted import check_open, is_layer, is_lora, trained_beside
from efface.scrubbing.examples import example_inputs
from efface.scrubbing.output_readers import find_readers

_BIAS_FLAGS = (("self_attn", "attention_bias"), ("mlp", "mlp_bias"))
"""Part of a block -> the switch in the config that gives its layers biases when the model is loaded."""


@dataclass(frozen=True, eq=False, repr=False)
class Folded(Erasure):
    """Erasers of a scrubber as an edit of the weights of one model: `with folded.on(model):`.

    Attributes:
        delta: How the weights change.
        marks: Site -> content hash of the eraser that is folded.
        notes: What saving the model needs: layers whose new biases its config cannot express.

    Does not guarantee: the hooks' results to more than rounding; anything in a model that runs its layers' weights
    without their biases.
    """

    delta: WeightDelta
    marks: Mapping[Site, str]
    notes: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The change of weights."""
        return (OnWeights(self.delta),)

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers in which the erasers are."""
        return tuple(name.removesuffix(".weight") for name in self.delta.changes if name.endswith(".weight"))

    def __repr__(self) -> str:
        return f"Folded({self.method or 'erasers'}, {len(self.marks)} sites into {len(self.layers)} layers)"

    def on(self, subject: Any, *, check: bool = True) -> Handle:
        """Write it into the weights of the model that it was made for, until `undo()`; see `Erasure.on`.

        Raises:
            InputError: If the model has other weights, has the erasers on already, or weights would not be finite.
        """
        check_apart(subject, self.marks)
        return super().on(subject, check=check)


def check_apart(subject: Any, marks: Mapping[Site, str], *, weights_only: bool = False) -> None:
    """Refuse erasers that a model has on already.

    Args:
        subject: The model.
        marks: Site -> content hash of an eraser.
        weights_only: Ask only what is folded into its weights.

    Raises:
        InputError: If any is.
    """
    for handle in handles_on(subject):
        folded = isinstance(handle.erasure, Folded)
        theirs: Mapping[Site, str] = getattr(handle.erasure, "marks", {})
        if (folded or not weights_only) and any(theirs.get(site) == mark for site, mark in marks.items()):
            raise InputError(
                f"these erasers are {'folded into' if folded else 'on'} this model already: undo() their handle, or "
                "leave its with block, first"
            )


def fold(
    model: nn.Module, erasers: Mapping[Site, Any], inputs: Mapping[str, Any] | None = None
) -> tuple[WeightDelta, tuple[str, ...]]:
    """Erasers as a change of the weights of a model, which is left as it is, and notes of what saving it needs.

    Raises:
        InputError: If one cannot be folded.
    """
    plan = _Plan(model)
    for path, edits in _layers(model, erasers, inputs).items():
        plan.add(path, edits)
    return WeightDelta(plan.changes, fingerprint(model), plan.config), tuple(plan.notes)


@dataclass
class _Plan:
    """What is to be written into a model.

    Attributes:
        model: The model.
        changes: Name in its state dict -> changes.
        config: Switches of its config.
        notes: What saving needs.
    """

    model: nn.Module
    changes: dict[str, tuple[Change, ...]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, edits: list[tuple[str, LeaceEraser]]) -> None:
        """Plan the edits of one layer, in all states that its adapters can have."""
        check_open(self.model, path)
        module: Any = self.model.get_submodule(path)
        if beside := trained_beside(module):
            for name in beside:
                self.add(f"{path}.{name}", edits)
            return
        self._add_layer(path, module.base_layer if is_lora(module) else module, edits)
        if is_lora(module):
            for name in module.lora_A:
                self._add_adapter(path, name, edits)

    def _add_adapter(self, path: str, name: str, edits: list[tuple[str, LeaceEraser]]) -> None:
        module: Any = self.model.get_submodule(path)
        down, up = module.lora_A[name], module.lora_B[name]
        before, bias = _changes(down, [(where, eraser) for where, eraser in edits if where != "output"])
        after = [(where, replace(eraser, bias=None)) for where, eraser in edits if where == "output"]
        constant = bias[0].value if bias and isinstance(bias[0], Put) else None
        weight, bias = _changes(up, after, None if constant is None else up.weight.detach().double() @ constant)
        self.changes[f"{path}.lora_A.{name}.weight"] = tuple(before)
        self.changes[f"{path}.lora_B.{name}.weight"] = tuple(weight)
        if bias:
            self.changes[f"{path}.lora_B.{name}.bias"] = tuple(bias)
            if not module.lora_bias[name]:
                self.config[f"{path}.lora_bias.{name}"] = True  # else a merge would leave it behind

    def _add_layer(self, path: str, module: nn.Module, edits: list[tuple[str, LeaceEraser]]) -> None:
        if module.weight.device.type == "meta":  # type: ignore[union-attr]
            raise InputError(
                f"the weights of {path} are not in memory (offloaded or on the meta device), so nothing can be folded "
                "into them: load the model without offloading, or leave the scrubber to hooks"
            )
        weight, bias = _changes(module, edits)
        self.changes[f"{path}.weight"] = tuple(weight)
        if bias and module.bias is None:
            self._say_bias(path)
        if bias:
            self.changes[f"{path}.bias"] = tuple(bias)
        if _uses(self.model, module.weight) > 1:  # type: ignore[arg-type]
            self._switch("tie_word_embeddings", False)

    def _switch(self, flag: str, value: bool) -> None:
        if getattr(getattr(self.model, "config", None), flag, value) != value:
            self.config[flag] = value

    def _say_bias(self, path: str) -> None:
        """A layer without bias gets one: let the config say so, or note that it cannot."""
        config = getattr(self.model, "config", None)
        parent = path.rpartition(".")[0]
        flag = next((flag for part, flag in _BIAS_FLAGS if parent.endswith(part) and hasattr(config, flag)), None)
        if flag is None:
            self.notes.append(f"{path} now has a bias, which {type(self.model).__name__} would not load again")
        elif flag not in self.config and not getattr(config, flag):
            self._switch(flag, True)
            self._fill_biases(parent.rpartition(".")[2])

    def _fill_biases(self, part: str) -> None:
        """The switch gives a bias to every layer of that part of each block: those not folded get zeros."""
        for path, module in self.model.named_modules():
            if is_layer(module) and path.rpartition(".")[0].endswith(f".{part}") and module.bias is None:
                weight: Tensor = module.weight  # type: ignore[assignment]
                self.changes.setdefault(f"{path}.bias", (Put(weight.new_zeros(weight.shape[0])),))


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
    own = {site: is_layer(model.get_submodule(site.path)) for site in sites}
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


def _layers(
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


def _changes(
    module: nn.Module, edits: list[tuple[str, LeaceEraser]], given: Tensor | None = None
) -> tuple[list[Change], list[Change]]:
    """How weight and bias of a layer change, in float64; `given` comes to what it gives before that is edited."""
    old: Tensor = module.weight.detach()  # type: ignore[assignment, operator]
    turned = type(module) is not nn.Linear  # Conv1D keeps (in, out)
    w = old.double().mT if turned else old.double()
    b = None if module.bias is None else module.bias.detach().double()  # type: ignore[operator]
    weight: list[Change] = []
    bias: list[Change] = []
    if given is not None:
        bias.append(Add(given))
        b = given if b is None else b + given
    for where in ("input", "upstream", "output"):
        erasers = [eraser for at, eraser in edits if at == where]
        # before a layer the last edit is the innermost, after it the first
        for eraser in erasers if where == "output" else reversed(erasers):
            up, down, shift = _edit(w, b, where, eraser.to(device=w.device, dtype=torch.float64))
            weight.append(LowRank(-up, down, turned))
            w = w - up @ down
            if shift is not None:
                bias.append(Add(shift))
                b = shift if b is None else b + shift
    # A bias that the layer does not have is given as a whole: zeros plus it would lose the sign of a zero.
    return weight, bias if module.bias is not None or b is None else [Put(b)]


def _edit(w: Tensor, b: Tensor | None, where: str, eraser: LeaceEraser) -> tuple[Tensor, Tensor, Tensor | None]:
    """Factors of what an edit takes from the weight, and what it adds to the bias."""
    left, right, mu = eraser.proj_left, eraser.proj_right, eraser.bias
    if where != "output":
        through = w @ left
        return through, right, None if mu is None else through @ (right @ mu)
    offset = (0 if b is None else b) - (0 if mu is None else mu)
    return left, right @ w, -left @ (right @ offset) if isinstance(offset, Tensor) else None


def _uses(model: nn.Module, parameter: Tensor) -> int:
    return sum(p is parameter for module in model.modules() for p in module._parameters.values())
