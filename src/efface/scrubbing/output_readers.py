"""Who reads the hidden states of a site: seen in one forward pass, by the identity of memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from efface.core.hooks import edit_value, look, look_before
from efface.core.site import Site
from efface.scrubbing.adapted import layers
from efface.scrubbing.forward import at_rest


@dataclass
class Readers:
    """What reads the hidden states of one site.

    Attributes:
        linear: Paths of linear layers that read them.
        others: What else does, in words.
    """

    linear: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


def find_readers(model: nn.Module, sites: list[Site], inputs: Mapping[str, Any]) -> dict[Site, Readers]:
    """Who reads what the modules at `sites` give, in one forward pass.

    A linear layer that also reads other hidden states counts among the others.

    Does not guarantee: what another input would make the model do.
    """
    watch = _Watch(model)
    with at_rest(model), ExitStack() as stack:
        for path, module in layers(model):
            stack.callback(look_before(module, watch.entering(path)))
            stack.callback(look(module, watch.leaving))
        for site in sites:
            stack.callback(look(model.get_submodule(site.path), watch.beginning(site)))
        with watch:
            output = model(**inputs)
    watch.finish(output)
    return watch.readers


class _Watch(TorchFunctionMode):
    """Notes each function that takes a tensor whose memory is that of a site's hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._owner = type(model).__name__
        self.readers: dict[Site, Readers] = {}
        self._memory: dict[int, Site] = {}
        self._given: dict[Site, Tensor] = {}
        self._alive: list[Tensor] = []
        self._inside: list[str] = []
        self._calls: dict[str, int] = {}
        self._reads: dict[tuple[str, Site], set[int]] = {}

    def beginning(self, site: Site) -> Any:
        """A hook that begins to follow what a module gives."""

        def begin(_module: nn.Module, _args: Any, output: Any) -> None:
            def follow(x: Tensor) -> None:
                self._alive.append(x)  # so that no other tensor gets its memory
                self._memory[x.untyped_storage().data_ptr()] = site
                self._given[site] = x
                self.readers.setdefault(site, Readers())

            edit_value(output, follow, site.index, site)

        return begin

    def entering(self, path: str) -> Any:
        """A hook that notes that a linear layer begins."""

        def enter(_module: nn.Module, _args: Any) -> None:
            self._inside.append(path)
            self._calls[path] = self._calls.get(path, 0) + 1

        return enter

    def leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """A hook that notes that it ends."""
        self._inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {site: x for x in _flat((args, kwargs or {})) if (site := self._site_of(x)) is not None}
        versions = {site: _version(x) for site, x in given.items()}
        result = func(*args, **(kwargs or {}))
        made, name = _flat(result), getattr(func, "__name__", str(func))
        for site, x in given.items():
            if _version(x) != versions[site]:
                self.readers[site].others.add(f"torch's {name}(), which changes them in place")
            elif made and not all(self._site_of(y) == site for y in made):
                self._note(site, x, name)
        return result

    def _site_of(self, x: Tensor) -> Site | None:
        if not self._memory or x.device.type == "meta" or x.is_sparse:
            return None
        return self._memory.get(x.untyped_storage().data_ptr())

    def _note(self, site: Site, x: Tensor, name: str) -> None:
        if self._inside:
            path = self._inside[-1]
            if not _of_whole_rows(x, self._given[site]):
                self.readers[site].others.add(f"{path}, which reads them transposed or in parts")
            self._reads.setdefault((path, site), set()).add(self._calls[path])
            self.readers[site].linear.add(path)
        else:
            self.readers[site].others.add(f"torch's {name}() outside of any linear layer")

    def finish(self, output: Any) -> None:
        """Look at what the model gives, and at what else the linear layers read."""
        for x in _flat(output):
            if (site := self._site_of(x)) is not None:
                self.readers[site].others.add(f"the caller: it is an output of {self._owner}")
        for (path, site), reads in self._reads.items():
            if len(reads) != self._calls[path]:
                self.readers[site].others.add(f"{path}, which also reads other hidden states")


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
