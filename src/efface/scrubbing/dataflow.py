"""One forward pass as a graph: which module gives what to whom, read off autograd's own record.

An edge `(node, number)` stands for a tensor. Edges are the same for a tensor and for what a module passes on untouched,
and in-place changes make new ones, so that nothing is guessed from names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from efface._errors import InputError
from efface.core.hooks import edit_inputs, edit_value, look, look_before, resting
from efface.scrubbing.forward import at_rest, uncached

Edge: TypeAlias = "tuple[Any, int]"

_SAME_ROWS = re.compile(
    r"^(Unsafe)?View|^ReshapeAlias|^Alias|^ToCopy|^CopyBackwards|^Clone|^Transpose|^Permute|^TBackward|^Squeeze|"
    r"^Unsqueeze|^Expand|^MaskedFill"
)
"""Functions that move numbers, or set those of padding, and compute nothing."""

_SCALED = re.compile(r"^(Mul|Div)Backward")
_LOUD = (64.0, 128.0)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: Of the module.
        module: The module.
        given: Edge of its hidden states; None if no gradient goes through them.
        gives: Edge of what it gives.
        x: What it was given.
        y: What it gave.
    """

    path: str
    module: nn.Module
    given: Edge | None
    gives: Edge | None
    x: Tensor | None
    y: Tensor | None

    @property
    def depth(self) -> int:
        """Steps of its path."""
        return self.path.count(".")


class Trace:
    """What happened in one forward pass.

    Attributes:
        calls: Calls of modules, in the order in which they ended.
        by_edge: Edge -> the calls that gave it, innermost first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.by_edge: dict[Edge, list[Call]] = {}
        self._kept: list[Any] = []
        self._norms: dict[nn.Module, bool] = {}

    def add(self, call: Call) -> None:
        """Note a call."""
        self.calls.append(call)
        if call.gives is not None:
            self.by_edge.setdefault(call.gives, []).append(call)

    def edge(self, x: Tensor | None) -> Edge | None:
        """The edge of a tensor; None if no gradient goes through it."""
        if x is None or not x.requires_grad:
            return None
        found = get_gradient_edge(x)
        self._kept.append(found)
        return found.node, found.output_nr

    def is_norm(self, call: Call) -> bool:
        """Whether a module normalises: what it gives has the shape of what it is given, but not its scale."""
        if call.module not in self._norms:
            self._norms[call.module] = _normalises(call)
        return self._norms[call.module]

    def mixes(self, call: Call, given: Edge) -> bool | None:
        """Whether rows that a call gives depend on other rows of what lies at an edge; None: it cannot be seen.

        Two rows are tried, in the middle and the last, which may be of padding that the model itself adds.
        """
        assert call.y is not None and call.gives is not None
        at, to = GradientEdge(*call.gives), GradientEdge(*given)
        rows = call.y[..., 0].numel()
        for row in {rows // 2, rows - 1}:
            one = torch.zeros_like(call.y, memory_format=torch.contiguous_format)
            weights = torch.rand(one.shape[-1], generator=torch.Generator().manual_seed(0)) + 0.5
            one.view(rows, -1)[row] = weights.to(one)
            try:
                (found,) = torch.autograd.grad([at], [to], [one], retain_graph=True, allow_unused=True)
            except RuntimeError:
                return None  # a value that the gradient needs was overwritten
            if found is not None:
                if not bool(found.isfinite().all()):
                    return None
                flat = found.reshape(-1, found.shape[-1]).any(-1)
                if bool(flat[:row].any() | flat[row + 1 :].any()):
                    return True
        return False


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Run a model once on small inputs, and note who gives what to whom. It is left as it is; erasures on it rest.

    Raises:
        InputError: If it does not run on them.
    """
    found = Trace(model)
    given: dict[int, list[Tensor | None]] = {}
    with ExitStack() as stack:
        stack.enter_context(resting())
        stack.enter_context(at_rest(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for path, module in model.named_modules():
            stack.callback(look_before(module, _entering(given), kwargs=True))
            stack.callback(look(module, _leaving(found, path, given)))
        try:
            model(**uncached(model, {name: _own(value) for name, value in inputs.items()}))
        except Exception as error:
            raise InputError(
                f"{type(model).__name__} does not run on {_shown(inputs)} ({type(error).__name__}: {error}), so it was "
                "not seen what its modules do: pass inputs={...}, keyword arguments for one small forward pass, or "
                "give sites by their addresses, as in sites=['model.layers.*.mlp']"
            ) from error
    return found


def _own(value: Any) -> Any:
    """An input that gradients can go through, and that inference mode has not marked."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().clone()
    return value.requires_grad_().clone() if value.is_floating_point() else value


def _entering(given: dict[int, list[Tensor | None]]) -> Any:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen: list[Tensor] = []
        with suppress(InputError):
            edit_inputs(args, kwargs, seen.append)
        given.setdefault(id(module), []).append(seen[0] if seen else None)

    return enter


def _leaving(found: Trace, path: str, given: dict[int, list[Tensor | None]]) -> Any:
    def leave(module: nn.Module, _args: Any, output: Any) -> Any:
        x = given[id(module)].pop()
        seen: list[Tensor] = []

        def begin(y: Tensor) -> Tensor | None:
            """Gradients must begin somewhere, also where all weights are frozen."""
            starts = not y.requires_grad and y.is_floating_point() and any(True for _ in module.parameters(False))
            y = y.requires_grad_().clone() if starts else y
            seen.append(y)
            return y if starts else None

        try:
            changed = edit_value(output, begin)
        except InputError:
            changed = output  # it gives no tensor
        y = seen[0] if seen else None
        found.add(Call(path, module, found.edge(x), found.edge(y), x, y))
        return changed

    return leave


def _shown(inputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {tuple(v.shape)}" if isinstance(v, Tensor) else k for k, v in inputs.items())


def _normalises(call: Call) -> bool:
    x, y = call.x, call.y
    if x is None or y is None or x.shape != y.shape or not x.is_floating_point():
        return False
    if any(p.ndim > 1 for p in call.module.parameters()):
        return False
    try:
        with torch.no_grad():
            some = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            quiet, loud = (call.module(some * by) for by in _LOUD)
    except Exception:
        return False  # it takes more than hidden states
    if not isinstance(quiet, Tensor) or quiet.shape != x.shape:
        return False
    quiet, loud = (found.float().nan_to_num(0, 0, 0) for found in (quiet, loud))
    return torch.allclose(quiet, loud, rtol=0.02, atol=0.02 * float(quiet.abs().max()))


# ------------------------------------------------------------------------------------------- steps of the graph


def parents(edge: Edge) -> list[Edge]:
    """The edges that a function takes gradients to."""
    return [(node, number) for node, number in edge[0].next_functions if node is not None]


def before_same_rows(edge: Edge) -> Edge | None:
    """The edge whose rows this one has, moved, multiplied by one number each, or set to nothing where padding is."""
    name, above = edge[0].name(), edge[0].next_functions
    if _SAME_ROWS.search(name):
        return above[0] if above[0][0] is not None else None
    if _SCALED.search(name) and len(above) == 2:
        for mine, factor in ((0, "_saved_other"), (1, "_saved_self"))[: 1 if name.startswith("Div") else 2]:
            other = getattr(edge[0], factor, None)
            if above[mine][0] is not None and _is_one_number_a_row(other):
                return above[mine]
    return None


def _is_one_number_a_row(factor: Any) -> bool:
    if not isinstance(factor, Tensor):
        return isinstance(factor, int | float)
    return factor.numel() == 1 or (not factor.requires_grad and factor.shape[-1:] == (1,))


def is_weight(edge: Edge) -> bool:
    """Whether a parameter lies at an edge."""
    return "AccumulateGrad" in edge[0].name()


def summands(edge: Edge) -> tuple[Edge, Edge] | None:
    """The two edges whose sum this one is; None if it is none."""
    if not re.search(r"^AddBackward", edge[0].name()):
        return None
    a, b = edge[0].next_functions
    return (a, b) if a[0] is not None and b[0] is not None else None


def same_rows(edge: Edge) -> Iterator[Edge]:
    """The edge, and those that have its rows, back to where they were computed."""
    at: Edge | None = edge
    while at is not None:
        yield at
        at = before_same_rows(at)
