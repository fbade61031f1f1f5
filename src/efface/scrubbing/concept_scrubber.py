"""`ConceptScrubber`: one eraser for each normalisation layer of a transformer, while a `with` block lasts.

The drop-in for the class of the same name in concept-erasure 0.2.x. Modules are addressed by the mangled
path below the base model (`layers.0.input_layernorm` -> `layers-0-input_layernorm`), as there. Nothing here
imports transformers: a model with a head is known by its `base_model` property.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface.core.doors import check_call, is_applied
from efface.core.hooks import Remove, edit_call, edit_inputs, edit_states

HookFn: TypeAlias = Callable[[str, Tensor], Tensor | None]


def is_norm_layer(module: nn.Module) -> bool:
    """Whether the class of a module is named `...LayerNorm` or `...RMSNorm`.

    >>> is_norm_layer(nn.LayerNorm(2)), is_norm_layer(nn.Linear(2, 2))
    (True, False)
    """
    return type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


def mangle_module_path(name: str) -> str:
    """The path of a module as a key without dots.

    Raises:
        InputError: If the path holds a `-`, from which the path could not be told again.

    >>> mangle_module_path("layers.0.norm")
    'layers-0-norm'
    """
    if "-" in name:
        raise InputError(f"module path {name!r} holds a '-', which stands for '.' in the keys of a scrubber")
    return name.replace(".", "-")


class ConceptScrubber:
    """Erasers for the normalisation layers of a model, applied by forward hooks.

    Args:
        pre_hook: Edit what goes into each layer instead of what comes out of it.

    Attributes:
        erasers: Mangled module path -> callable from `(..., d)` to `(..., d)`, such as a `LeaceEraser`.

    Does not guarantee: that the concept stays erased further on. Each eraser acts at its own layer; the
    layers between may rebuild the concept from what is left, in particular if the erasers were all fitted on
    the model without hooks instead of one after the other.

    Source: the class of the same name in EleutherAI/concept-erasure, which goes with "LEACE: Perfect linear
    concept erasure in closed form", arXiv:2306.03819, section 6.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        >>> scrubber = ConceptScrubber()
        >>> scrubber.erasers["1"] = torch.zeros_like
        >>> with scrubber.scrub(model):
        ...     model(torch.ones(1, 3)).abs().sum().item()
        0.0
    """

    def __init__(self, pre_hook: bool = False) -> None:
        check_call(ConceptScrubber.__init__, locals())
        self.erasers: dict[str, Callable[[Tensor], Tensor]] = {}
        self.pre_hook = pre_hook

    def __repr__(self) -> str:
        return f"ConceptScrubber(pre_hook={self.pre_hook}, erasers={sorted(self.erasers)})"

    @contextmanager
    def scrub(self, model: nn.Module) -> Iterator[ConceptScrubber]:
        """Apply the erasers in every forward pass inside the `with` block.

        Args:
            model: The model; if it has a head, its base model is meant.

        Raises:
            InputError: If an eraser is none, or finds no normalisation layer of its name.
        """
        check_call(ConceptScrubber.scrub, locals())
        for name, eraser in self.erasers.items():
            _check_eraser(name, eraser)

        def erase(key: str, x: Tensor) -> Tensor:
            return self.erasers[key](x).type_as(x)

        with self.apply_hook(model, erase):
            yield self

    @contextmanager
    def apply_hook(self, model: nn.Module, hook_fn: HookFn) -> Iterator[ConceptScrubber]:
        """Call `hook_fn(key, x)` at every layer that has an eraser; a result that is not None replaces `x`.

        Args:
            model: The model; if it has a head, its base model is meant.
            hook_fn: Takes the mangled path and the hidden states `(..., d)`.

        Raises:
            InputError: If an eraser finds no normalisation layer of its name.
        """
        check_call(ConceptScrubber.apply_hook, locals())
        layers = _find_layers(_unwrap(model), self.erasers)
        with ExitStack() as stack:
            for key, layer in layers.items():
                stack.callback(self._hook(layer, partial(hook_fn, key)))
            yield self

    def _hook(self, layer: nn.Module, edit: Callable[[Tensor], Tensor | None]) -> Remove:
        if self.pre_hook:
            return edit_call(layer, "input", partial(_edit_if_any, edit))
        return edit_states(layer, edit)


def _edit_if_any(edit: Callable[[Tensor], Tensor | None], _layer: nn.Module, args: Any, kwargs: Any) -> Any:
    has_tensors = args or any(isinstance(value, Tensor) for value in kwargs.values())
    return edit_inputs(args, kwargs, edit) if has_tensors else (args, kwargs)


def _unwrap(model: nn.Module) -> nn.Module:
    # transformers gives each model with a head a `base_model` *property*; a wrapper that merely has a
    # submodule of that name (PEFT) is addressed by its own paths.
    is_property = isinstance(getattr(type(model), "base_model", None), property)
    base = getattr(model, "base_model", None) if is_property else None
    return base if isinstance(base, nn.Module) else model


def _check_eraser(name: str, eraser: Any) -> None:
    if hasattr(eraser, "update") and hasattr(type(eraser), "eraser"):
        raise InputError(f"erasers[{name!r}] is a fitter, {type(eraser).__name__}: pass its `.eraser`")
    if not is_applied(eraser):
        raise InputError(f"erasers[{name!r}] is {shown(eraser)}, expected a callable of hidden states")


def _find_layers(model: nn.Module, keys: Any) -> dict[str, nn.Module]:
    """The normalisation layer of each key.

    Raises:
        InputError: If a key has none; the text names those that come near.
    """
    layers = {mangle_module_path(name): m for name, m in model.named_modules() if is_norm_layer(m)}
    unknown = [key for key in keys if key not in layers]
    if unknown:
        hints = "; ".join(_hint(model, key, list(layers)) for key in unknown)
        raise InputError(
            f"{len(unknown)} of {len(keys)} erasers find no layer in {type(model).__name__}: {hints}. "
            "Keys are module paths below the base model with '-' for '.', of normalisation layers only"
        )
    return {key: layers[key] for key in keys}


def _hint(model: nn.Module, key: str, known: list[str]) -> str:
    others = {name.replace(".", "-"): type(m).__name__ for name, m in model.named_modules()}
    if key in others:
        return f"{key!r} is a {others[key]}, not a layer whose class is named ...LayerNorm or ...RMSNorm"
    plain = key.replace(".", "-")
    tails = [k for k in known if f"-{plain}".endswith(f"-{k}")]
    near = tails or difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    return f"{key!r} (did you mean {' or '.join(map(repr, near))}?)" if near else f"{key!r} (there are {known[:3]})"
