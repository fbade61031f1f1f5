"""Who reads the hidden states of a site: seen in one forward pass, by the identity of memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from efface.core.hooks import edit_value, look, look_before
from efface.core.site import Site
from efface.scrubbing.adapted import layers
from efface.scrubbing.forward import at_rest, uncached

_COPIES = {"__getitem__", "index_select", "repeat_interleave", "repeat", "clone", "contiguous", "take_along_dim"}
"""Functions that may give rows as they are in new memory, as a mixture of experts sends tokens to them."""

_MASKS = {"mul", "__mul__", "__rmul__", "masked_fill", "where"}
"""Functions that may set rows of padding to zero and leave the others as they are."""

_SHAPES = {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"}
"""Functions that read a shape and no number."""

_LIKE = {"type_as", "to", "view_as", "expand_as", "reshape_as"}
"""Functions that read of all but their first argument a shape or a dtype and no number."""

_PRODUCTS = {"linear": -1, "matmul": -2, "__matmul__": -2, "mm": -2, "bmm": -2, "grouped_mm": -2, "_grouped_mm": -2}
"""Products of rows with a matrix -> along which of its dimensions they sum."""


@dataclass
class Readers:
    """What reads the hidden states of one site, and where they come from.

    Attributes:
        linear: Paths of linear layers that read them.
        weights: Names of parameters outside of linear layers by which they are multiplied, as a router's or those of
            experts -> whether these are kept as `(in, out)`.
        others: What else reads them, in words.
        masked: Whether rows of padding are set to zero on the way.
        source: Path of the linear layer or embedding whose output they are as it is, with no other reader.
    """

    linear: set[str] = field(default_factory=set)
    weights: dict[str, bool] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    masked: bool = False
    source: str | None = None

    def with_those_of(self, other: Readers) -> Readers:
        """What reads them in this pass or in another."""
        return Readers(
            self.linear | other.linear,
            self.weights | other.weights,
            self.others | other.others,
            self.masked or other.masked,
            self.source if self.source == other.source else None,
        )


def find_readers(model: nn.Module, sites: list[Site], passes: list[Mapping[str, Any]]) -> dict[Site, Readers]:
    """Who reads what the modules at `sites` give, in a forward pass on each of some inputs.

    A linear layer that also reads other hidden states counts among the others.

    Does not guarantee: what another input would make the model do.
    """
    found: dict[Site, Readers] = {}
    for inputs in passes:
        for site, readers in _readers(model, sites, inputs).items():
            found[site] = found[site].with_those_of(readers) if site in found else readers
    return found


def _readers(model: nn.Module, sites: list[Site], inputs: Mapping[str, Any]) -> dict[Site, Readers]:
    watch = _Watch(model)
    with at_rest(model), ExitStack() as stack:
        for path, module in layers(model):
            stack.callback(look_before(module, watch.entering(path)))
            stack.callback(look(module, watch.leaving(path)))
        for path, module in model.named_modules():
            if type(module) is nn.Embedding:
                stack.callback(look(module, watch.made(path)))
        for site in sites:
            stack.callback(look(model.get_submodule(site.path), watch.beginning(site)))
        with watch:
            output = model(**uncached(model, inputs))
    watch.finish(output)
    return watch.readers


class _Watch(TorchFunctionMode):
    """Notes each function that takes a tensor whose memory is that of a site's hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._owner = type(model).__name__
        matrices = ((name, p) for name, p in model.named_parameters() if p.ndim > 1)
        self._weights: dict[int, tuple[str, Tensor]] = {_memory_of(p): (name, p) for name, p in matrices}
        self.readers: dict[Site, Readers] = {}
        self._memory: dict[int, Site] = {}
        self._given: dict[int, Tensor] = {}
        self._alive: list[Tensor] = []
        self._inside: list[str] = []
        self._calls: dict[str, int] = {}
        self._reads: dict[tuple[str, Site], set[int]] = {}
        self._made: dict[int, tuple[str, Tensor]] = {}
        self._used: set[int] = set()

    def beginning(self, site: Site) -> Any:
        """A hook that begins to follow what a module gives."""

        def begin(_module: nn.Module, _args: Any, output: Any) -> None:
            def follow(x: Tensor) -> None:
                known = site in self.readers
                readers = self.readers.setdefault(site, Readers())
                source = self._source_of(x)
                readers.source = None if known and readers.source != source else source
                self._follow(x, site)

            edit_value(output, follow, site.index, site)

        return begin

    def _follow(self, x: Tensor, site: Site) -> None:
        self._alive.append(x)  # so that no other tensor gets its memory
        self._memory[x.untyped_storage().data_ptr()] = site
        self._given[x.untyped_storage().data_ptr()] = x

    def _source_of(self, x: Tensor) -> str | None:
        """The layer whose output this is as it is, if nobody else has read it so far."""
        at = x.untyped_storage().data_ptr()
        path, made = self._made.get(at, ("", x))
        whole = x.numel() == made.numel() and _of_whole_rows(x, made)
        return path if path and whole and at not in self._used and at not in self._memory else None

    def entering(self, path: str) -> Any:
        """A hook that notes that a linear layer begins."""

        def enter(_module: nn.Module, _args: Any) -> None:
            self._inside.append(path)
            self._calls[path] = self._calls.get(path, 0) + 1

        return enter

    def leaving(self, path: str) -> Any:
        """A hook that notes that it ends."""
        made = self.made(path)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._inside.pop()
            made(module, args, output)

        return leave

    def made(self, path: str) -> Any:
        """A hook that notes what a layer gives."""

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not self._inside:
                self._alive.append(output)
                self._made[output.untyped_storage().data_ptr()] = path, output

        return note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        flat = [] if name in _SHAPES else _flat(args[:1] if name in _LIKE else (args, kwargs or {}))
        given = {site: x for x in flat if (site := self._site_of(x)) is not None}
        versions = [_version(x) for x in flat]
        result = func(*args, **(kwargs or {}))
        made = _flat(result)
        self._note_use(flat, versions, made)
        self._note_chosen(name, args, made)
        product, rows = self._product(name, args)
        for site, x in given.items():
            if _version(x) != versions[next(i for i, y in enumerate(flat) if y is x)]:
                self.readers[site].others.add(f"torch's {name}(), which changes them in place")
            elif made and not all(self._site_of(y) == site for y in made):
                self._note(site, x if product is None else rows, name, made[0], product)
        if product is not None and self._site_of(rows) is None:
            self._calls[product[0]] = self._calls.get(product[0], 0) + 1
        return result

    def _note_use(self, flat: list[Tensor], versions: list[int], made: list[Tensor]) -> None:
        """What a layer made, and is computed with, is read: a view of it is not."""
        for x, version in zip(flat, versions, strict=True):
            at = _memory_of(x)
            if at in self._made and (_version(x) != version or any(_memory_of(y) != at for y in made)):
                self._used.add(at)

    def _site_of(self, x: Tensor) -> Site | None:
        return self._memory.get(_memory_of(x)) if self._memory else None

    def _note(self, site: Site, x: Tensor, name: str, made: Tensor, product: tuple[str, bool] | None) -> None:
        readers, given = self.readers[site], self._given[_memory_of(x)]
        whole = _of_whole_rows(x, given)
        if self._inside:
            path = self._inside[-1]
            if not whole:
                readers.others.add(f"{path}, which reads them transposed or in parts")
            self._reads.setdefault((path, site), set()).add(self._calls[path])
            readers.linear.add(path)
        elif product is not None and whole:
            weight, turned = product
            self._calls[weight] = self._calls.get(weight, 0) + 1
            self._reads.setdefault((weight, site), set()).add(self._calls[weight])
            readers.weights[weight] = turned
        elif whole and (rows := _same_rows(name, made, given)) is not None:
            readers.masked |= rows == "masked"
            self._follow(made, site)
        else:
            readers.others.add(f"torch's {name}() outside of any linear layer")

    def _product(self, name: str, args: Any) -> tuple[tuple[str, bool] | None, Any]:
        """The parameter by which rows are multiplied outside of linear layers, if it is `(in, out)`, and the rows."""
        if self._inside or name not in _PRODUCTS or len(args) < 2 or not all(isinstance(x, Tensor) for x in args[:2]):
            return None, None
        rows, weight, along = args[0], args[1], _PRODUCTS[name]
        if (
            along == -2
            and rows.ndim > 1
            and weight.ndim > 1
            and weight.shape[-1] == 1
            and _memory_of(rows) in self._weights
        ):
            rows, weight, along = weight.squeeze(-1), rows, -1  # a column at a time
        found = self._weights.get(_memory_of(weight))
        if found is None or weight.ndim < 2:
            return None, None
        path, parameter = found
        step = weight.stride(along)
        if step == parameter.stride(-1):
            return (path, False), rows
        return ((path, True) if step == parameter.stride(-2) else None), rows

    def _note_chosen(self, name: str, args: Any, made: list[Tensor]) -> None:
        """Matrices that are chosen from a weight, one for each row, are that weight."""
        x = args[0] if name == "__getitem__" and args and isinstance(args[0], Tensor) else None
        if x is None or not made or (found := self._weights.get(_memory_of(x))) is None:
            return
        if _memory_of(made[0]) not in self._weights and made[0].shape[-2:] == found[1].shape[-2:]:
            self._alive.append(made[0])
            self._weights[_memory_of(made[0])] = found[0], made[0]

    def finish(self, output: Any) -> None:
        """Look at what the model gives, and at what else the linear layers read."""
        for x in _flat(output):
            if (site := self._site_of(x)) is not None:
                self.readers[site].others.add(f"the caller: it is an output of {self._owner}")
        for (path, site), reads in self._reads.items():
            if len(reads) != self._calls[path]:
                self.readers[site].others.add(f"{path}, which also reads other hidden states")


def _memory_of(x: Tensor) -> int:
    return 0 if x.device.type == "meta" or x.layout != torch.strided else x.untyped_storage().data_ptr()


def _same_rows(name: str, made: Tensor, given: Tensor) -> str | None:
    """`"copied"` if rows are only moved, `"masked"` if those that are not as they were are zero; None if neither."""
    if name not in _COPIES | _MASKS or made.shape[-1:] != given.shape[-1:] or made.dtype != given.dtype:
        return None
    rows, known = made.reshape(-1, made.shape[-1]), given.reshape(-1, given.shape[-1])
    same = torch.stack([(known == row).all(-1).any() for row in rows]) if len(rows) else torch.ones(0).bool()
    if name in _COPIES:
        return "copied" if bool(same.all()) else None
    return "masked" if bool((same | ~rows.bool().any(-1)).all()) else None


def _version(x: Tensor) -> int:
    """How often the memory of `x` was written to; views share it."""
    return 0 if x.is_inference() else x._version


def _of_whole_rows(x: Tensor, given: Tensor) -> bool:
    """Whether the rows of `x`, a view of the memory of `given`, are rows of `given`."""
    if x.shape[-1:] != given.shape[-1:] or x.stride(-1) != given.stride(-1):
        return False
    if not given.is_contiguous():
        return x.shape == given.shape and x.stride() == given.stride()
    steps = [step for size, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    return not any(step % x.shape[-1] for step in [*steps, x.storage_offset() - given.storage_offset()])


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for item in value.values() for x in _flat(item)]
    if isinstance(value, (tuple, list)):
        return [x for item in value for x in _flat(item)]
    return []
