"""Folding erasers into the weights of the linear layers that read what they erase from.

Where linear layers alone read x, their `W x + b` of the erased `x - L R (x - mu)` is another linear layer,

    W' = W - (W L) R,    b' = b + (W L) R mu,

and what a linear layer gives is erased by `W' = W - L (R W)`, `b' = b - L R (b - mu)`. With LoRA, `s B A x` beside it,
the same happens to A or B, and the constant goes into the bias of B: it is erased with adapters on, off, and merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_type
from efface.core.doors import check_call
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.installer import Handle, handles_on
from efface.core.site import Site
from efface.core.weights import Add, Change, LowRank, Put, WeightDelta
from efface.erasers.leace import LeaceEraser
from efface.scrubbing.adapted import check_open, is_layer, is_lora, trained_beside
from efface.scrubbing.examples import passes
from efface.scrubbing.loading import switches_for
from efface.scrubbing.output_readers import Readers, find_readers

_BESIDE = re.compile(r"\.(original_module|modules_to_save\.[^.]+)(?=\.)")
"""Where PEFT keeps trained copies of a layer: a model that is loaded again has one in their place."""

_Layer: TypeAlias = tuple[str, bool]
"""Path of a layer, or name of a weight that is in none and whether that is kept as `(in, out)`."""


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
        """Paths of the layers in which the erasers are; of weights that are in no layer, their names."""
        return tuple(name.removesuffix(".weight") for name in self.delta.changes if not name.endswith("bias"))

    @property
    def unsaved(self) -> str:
        """Why `save_pretrained` would save another model, and what to write; empty if it saves this one."""
        first = next(iter(self.notes), None)
        if first is None:
            return ""
        more = f" ({len(self.notes)} such layers)" if len(self.notes) > 1 else ""
        return (
            f"{first}{more}, so what is loaded would give other outputs: fit with scrub(..., affine=False), "
            "whose erasers need no bias, or save the scrubber itself, scrubber.save(folder), and put it on what is "
            "loaded; model.state_dict() has all of it"
        )

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
    for (path, turned), edits in _layers(model, erasers, inputs).items():
        plan.add(path, edits, turned)
    plan.settle_biases()
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
    _biases: list[str] = field(default_factory=list)

    def add(self, path: str, edits: list[tuple[str, LeaceEraser]], turned: bool = False) -> None:
        """Plan the edits of one layer, in all states that its adapters can have."""
        check_open(self.model, path)
        module: Any = _part(self.model, path)
        if isinstance(module, nn.Parameter):
            self.changes[path] = _of_weight(module, edits, turned)
            return
        if type(module) is nn.Embedding:
            self._add_embedding(path, module, edits)
            return
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
            self._biases.append(f"{path}.bias")
        if bias:
            self.changes[f"{path}.bias"] = tuple(bias)
        self._untie(module.weight)  # type: ignore[arg-type]

    def _add_embedding(self, path: str, module: nn.Embedding, edits: list[tuple[str, LeaceEraser]]) -> None:
        changes: list[Change] = []
        w = module.weight.detach().double()
        for _, eraser in edits:
            eraser = eraser.to(device=w.device, dtype=torch.float64)
            off = w if eraser.bias is None else w - eraser.bias
            changes.append(LowRank(-off @ eraser.proj_right.mT, eraser.proj_left.mT))
            w = changes[-1].on(w)
        self.changes[f"{path}.weight"] = tuple(changes)
        self._untie(module.weight)

    def _untie(self, weight: Tensor) -> None:
        """A weight that others use gets a value of its own: each config that ties them says so.

        Not where the switch ties others, too (those of encoder and decoder, biases, whole blocks): without it these
        would be left out when the model is loaded, and weights that are both in a file are not tied then.
        """
        if _uses(self.model, weight) < 2 or len(getattr(self.model, "all_tied_weights_keys", None) or ()) > 1:
            return
        seen: list[Any] = []
        for path, module in self.model.named_modules():
            config = getattr(module, "config", None)
            if config is None or any(config is other for other in seen):
                continue
            seen.append(config)
            if getattr(config, "tie_word_embeddings", False):
                self.config[f"{path}.config.tie_word_embeddings" if path else "tie_word_embeddings"] = False

    def settle_biases(self) -> None:
        """Layers without bias get one: let the config say so, or note that it cannot."""
        found = switches_for(self.model, dict.fromkeys(_BESIDE.sub("", name) for name in self._biases))
        self.config |= found.switches
        self.notes += [
            f"{name.removesuffix('.bias')} now has a bias, which {type(self.model).__name__} would not load again"
            for name in found.lost
        ]
        for name, shape in found.besides.items():
            layer: Any = self.model.get_submodule(name.removesuffix(".bias"))
            self.changes.setdefault(name, (Put(layer.weight.new_zeros(shape)),))


def foldable(
    model: nn.Module, sites: Iterable[Site] | Mapping[Site, Any], inputs: Mapping[str, Any] | None = None
) -> dict[Site, tuple[str, ...] | str]:
    """For each site the layers into which its eraser can be folded, or why it cannot, in words.

    Args:
        model: The model.
        sites: Some of its sites; or a mapping of these to their erasers, as `scrubber.erasers`: those that shift
            nothing (`affine=False`) also go into weights that have no bias, and through masks of padding.
        inputs: Keyword arguments for one small forward pass; None makes token ids, with and without padding, or
            pixels.
    """
    check_call(foldable, locals())
    sites = sites if isinstance(sites, Mapping) else list(sites)
    for site in sites:
        check_type(site, Site, "one of the sites", "give those that find_sites(model, ...) finds")
    found = _targets(model, sites, inputs)
    return {site: into if isinstance(into, str) else tuple(t.path for t in into) for site, into in found.items()}


@dataclass(frozen=True)
class _Target:
    """One layer into which an eraser goes.

    Attributes:
        path: Of the layer; or the name of a weight that is in none.
        where: Whether the eraser stands before it, `"input"` (at the site) or `"upstream"`, or behind it, `"output"`.
        turned: Whether such a weight is kept as `(in, out)`.
    """

    path: str
    where: str
    turned: bool = False


def _targets(
    model: nn.Module, sites: Iterable[Site] | Mapping[Site, Any], inputs: Mapping[str, Any] | None
) -> dict[Site, tuple[_Target, ...] | str]:
    """`foldable`, with how the eraser stands to each layer."""
    shifts = {site: not isinstance(sites, Mapping) or getattr(sites[site], "bias", None) is not None for site in sites}
    own = {site for site in shifts if _holds(model.get_submodule(site.path), site)}
    traced = [site for site in shifts if site not in own and site.where == "output"]
    readers = find_readers(model, traced, passes(model, inputs)) if traced else {}
    found: dict[Site, tuple[_Target, ...] | str] = {}
    for site, shifted in shifts.items():
        if site in own:
            found[site] = (_Target(site.path, site.where),)
        elif site.where == "input":
            found[site] = "only inputs of linear layers can be folded"
        elif site not in readers:
            found[site] = "the forward pass does not come by it"
        else:
            found[site] = _into(readers[site], shifted)
    return found


def _holds(module: nn.Module, site: Site) -> bool:
    """Whether a layer can take what is erased at a site of its own."""
    return is_layer(module) or (type(module) is nn.Embedding and module.max_norm is None and site.where == "output")


def _into(readers: Readers, shifted: bool) -> tuple[_Target, ...] | str:
    """The layers into which an eraser goes, or why it does not."""
    if not readers.others and (readers.linear or readers.weights):
        if shifted and readers.masked:
            return (
                f"{', '.join(sorted(readers.linear))} read it with padding set to zero, which a shift would not leave "
                "at zero: fit with affine=False"
            )
        if shifted and readers.weights:
            return f"{', '.join(sorted(readers.weights))} have no bias that could take its shift: fit with affine=False"
        linear = (_Target(path, "upstream") for path in sorted(readers.linear))
        return (*linear, *(_Target(name, "upstream", turned) for name, turned in sorted(readers.weights.items())))
    if readers.source is not None:
        return (_Target(readers.source, "output"),)
    if readers.others:
        return "it is also read by " + "; ".join(sorted(readers.others))
    return "nothing in the model reads it"


def _layers(
    model: nn.Module, erasers: Mapping[Site, Any], inputs: Mapping[str, Any] | None
) -> dict[_Layer, list[tuple[str, LeaceEraser]]]:
    """Layer -> the edits of what comes to it (`"upstream"`), is passed in (`"input"`) and given (`"output"`)."""
    for site, eraser in erasers.items():
        if not isinstance(eraser, LeaceEraser):
            raise InputError(f"the eraser of {site} is {shown(eraser)}: only affine erasers (LEACE, orth) fold")
    plan: dict[_Layer, list[tuple[str, LeaceEraser]]] = {}
    found = _targets(model, erasers, inputs)
    if refused := {site: why for site, why in found.items() if isinstance(why, str)}:
        site, why = next(iter(refused.items()))
        rest = f"; and {len(refused) - 1} more sites cannot" if len(refused) > 1 else ""
        raise InputError(
            f"the eraser of {site} cannot be folded: {why}{rest}. Leave them to hooks: fold only those that "
            "`foldable(model, scrubber.erasers)` gives layers for, by scrubber.only(...)"
        )
    for site, into in found.items():
        for target in into:
            assert isinstance(target, _Target)
            plan.setdefault((target.path, target.turned), []).append((target.where, erasers[site]))
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


def _part(model: nn.Module, path: str) -> nn.Module | nn.Parameter:
    """A layer, or a weight that is in none."""
    parent, _, name = path.rpartition(".")
    found = model.get_submodule(parent)._parameters.get(name)
    return model.get_submodule(path) if found is None else found


def _of_weight(weight: Tensor, edits: list[tuple[str, LeaceEraser]], turned: bool) -> tuple[Change, ...]:
    """How a weight by which rows are multiplied outside of linear layers, `(..., out, in)` or turned, changes."""
    changes: list[Change] = []
    w = weight.detach().double()
    for _, eraser in reversed(edits):
        eraser = eraser.to(device=w.device, dtype=torch.float64)
        up = (w.mT if turned else w) @ eraser.proj_left
        changes.append(LowRank(-up, eraser.proj_right, turned))
        w = changes[-1].on(w)
    return tuple(changes)


def _uses(model: nn.Module, parameter: Tensor) -> int:
    return sum(p is parameter for module in model.modules() for p in module._parameters.values())
