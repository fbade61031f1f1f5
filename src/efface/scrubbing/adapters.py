"""The erasers of a `Scrubber` in other libraries' wrappers of the same model: TransformerLens and nnsight.

lm-evaluation-harness needs none: `with scrubber.on(model): simple_evaluate(HFLM(pretrained=model, ...), ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.edits import OnStates, started
from efface.core.erasure import Erasure
from efface.core.hooks import StateEdit, edit_inputs, edit_value
from efface.core.site import Site
from efface.core.subjects import device_of
from efface.scrubbing.scrubber import Scrubber


def transformer_lens_hooks(
    scrubber: Erasure | Mapping[Site, Any], bridge: Any
) -> list[tuple[str, Callable[[Tensor, Any], Tensor]]]:
    """Erasers as `fwd_hooks` of a `TransformerBridge` of TransformerLens 4.

    `bridge.run_with_hooks(tokens, fwd_hooks=hooks)` gives the logits of the scrubbed model, and inside
    `with bridge.hooks(fwd_hooks=hooks):` hooks and caches see the erased activations. TransformerLens takes a model
    to pieces, so give it a copy; this needs neither a hub nor a tokenizer:

        from transformer_lens.model_bridge.sources import build_bridge_from_module
        bridge = build_bridge_from_module(copy.deepcopy(model), type(model).__name__, hf_config=model.config)

    The output of a module is its `hook_out` (of a norm, after its learnt scale: not `hook_normalized`), the residual
    stream as it leaves a block is `hook_out` of the block, which TransformerLens calls `hook_resid_post`, too.

    Args:
        scrubber: What `efface.scrub` made, another erasure of hidden states, or a mapping from sites to erasers.
        bridge: A bridge around a copy of the model of the fit, with its weights as they were.

    Returns:
        Pairs of the name of a hook point and a function of its value and the hook.

    Raises:
        InputError: If this is no bridge, its weights were changed by `enable_compatibility_mode()`, or a site has no
            hook point.

    Does not guarantee: the logits of a model that runs another attention kernel than TransformerLens's eager one to
    more than float32's rounding (1e-6 of their size).
    """
    model = getattr(bridge, "original_model", None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"expected a TransformerBridge of TransformerLens 4, got {type(bridge).__name__}: "
            "HookedTransformer has other weights than the model of the fit, and no hook point behind a norm's scale"
        )
    if getattr(bridge, "_weights_processed", False):
        raise InputError(
            "the weights of this bridge were folded and centred, so that its activations are not those of the fit: "
            "call enable_compatibility_mode(no_processing=True), or leave it out"
        )
    wrappers = {id(getattr(part, "original_component", None)): part for part in bridge.modules() if _has_hooks(part)}
    edits = _edits(scrubber)
    points = {site: _hook_point(model, wrappers, site) for site in edits}
    _check_fires(bridge, points)
    return [(points[site].name, _lens_hook(points[site], edit)) for site, edit in edits.items()]


def _hook_point(model: nn.Module, wrappers: Mapping[int, Any], site: Site) -> Any:
    """The hook point of the component that the bridge has put in place of, or around, the module of a site."""
    try:
        module = model.get_submodule(site.path)
    except AttributeError:
        module = None
    component = module if _has_hooks(module) else wrappers.get(id(module))
    if module is None or component is None or site.index not in (None, 0, "hidden_states"):
        raise InputError(
            f"TransformerLens has no hook point for {site}: it has them for the hidden states that blocks, norms, "
            "attention, feed-forward layers and the linear layers in them get and give"
        )
    return component.hook_out if site.where == "output" else component.hook_in


def _has_hooks(module: Any) -> bool:
    return hasattr(module, "hook_in") and hasattr(module, "hook_out")


def _check_fires(bridge: Any, points: Mapping[Site, Any]) -> None:
    """Not every hook point is passed: TransformerLens computes q, k and v one by one where the model has one layer."""
    passed: set[str] = set()
    names = {point.name for point in points.values()}
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=device_of(bridge.original_model))
    with torch.no_grad():
        bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda _, hook: passed.add(hook.name)) for name in names])
    if missed := [site for site, point in points.items() if point.name not in passed]:
        raise InputError(
            f"TransformerLens computes what {missed[0]} gives in another way and never comes by its hook point "
            f"{points[missed[0]].name!r}: choose another site, such as one of 'norms' or 'residual'"
        )


def _lens_hook(point: Any, edit: StateEdit) -> Callable[[Tensor, Any], Tensor]:
    def erase(value: Tensor, hook: Any) -> Tensor:
        # Queries, keys, values and what o_proj gets come as (batch, position, head, width of a head).
        if value.ndim == 4 and getattr(point, "hook_conversion", None) is not None:
            return edit(value.flatten(-2)).view_as(value)  # type: ignore[union-attr]
        return edit(value)  # type: ignore[return-value]

    return erase


def nnsight_edited(scrubber: Erasure | Mapping[Site, Any], model: Any) -> Any:
    """A copy of an nnsight model in whose traces, and each step of `generate`, the erasers work.

    In a trace of the copy, `.output` of a site is what was left after erasure. (A trace of `model` itself inside
    `with scrubber.on(model):` has the same logits, but there nnsight shows, and takes, the value at a site *before* it
    is erased.) The copy shares modules and weights with `model`, which stays as it was; take modules from the copy:

        edited = nnsight_edited(scrubber, NNsight(model))
        with edited.trace(input_ids=tokens):
            hidden = edited.model.layers[0].input_layernorm.output.save()

    Args:
        scrubber: What `efface.scrub` made, another erasure of hidden states, or a mapping from sites to erasers.
        model: `NNsight(model)` or `TransformersModel(model, ...)` of nnsight 0.8 or newer, around the model of the fit.

    Raises:
        InputError: If this is no nnsight model or lacks a site.

    A trace that does not come by a site, because `tracer.stop()` ended it before, raises nnsight's OutOfOrderError.
    """
    if not (hasattr(model, "edit") and hasattr(model, "modules") and hasattr(model, "path")):
        raise InputError(f"expected an nnsight model such as nnsight.NNsight(model), got {type(model).__name__}")
    envoys = {envoy.path: envoy for envoy in model.modules()}
    edits = _edits(scrubber)
    if missing := [str(site) for site in edits if f"{model.path}.{site.path}" not in envoys]:
        raise InputError(f"this nnsight model has no {missing[0]}: wrap the model that the scrubber was fitted on")
    with model.edit() as (tracer, edited):
        pass
    for site, edit in edits.items():
        envoy = envoys[f"{model.path}.{site.path}"]
        # An edit each, so that none waits for another: in generate() an encoder runs once, a decoder many times.
        with edited.edit(inplace=True) as tracer:
            for visit in tracer.iter[:]:
                if not _erase_visit(envoy, site, edit, visit):
                    break
    return edited


def _erase_visit(envoy: Any, site: Site, edit: StateEdit, visit: int) -> bool:
    """Erase at a site when its module is next called; False if it was called for the last time."""
    try:
        value = envoy.output if site.where == "output" else envoy.inputs
    except Exception:
        if visit:  # nnsight ends a loop that waits for a call that never comes by raising
            return False
        raise
    if site.where == "output":
        envoy.output = edit_value(value, edit, site.index, site)
    else:
        args, kwargs = value
        envoy.inputs = edit_inputs(args, kwargs, edit, site.index, site)
    return True


def _edits(erasure: Erasure | Mapping[Site, Any]) -> dict[Site, StateEdit]:
    given = erasure if isinstance(erasure, Erasure) else Scrubber(erasure)
    edits = [edit for edit in given.edits if isinstance(edit, OnStates)]
    if len(edits) != len(given.edits):
        raise InputError(f"{given!r} edits more than hidden states at sites: put it on the model itself")
    return {site: started(change) for edit in edits for site, change in edit.edits.items()}
