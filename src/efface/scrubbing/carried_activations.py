"""Carrying activations from block to block, so that each block runs about once however many sites there are.

A transformer is a list of blocks, each of which takes what the one before gave. What every batch gives at the last
block that is done is kept; a forward pass then takes that from the store in place of the blocks that made it. All
else (embeddings, masks, positions) runs as usual, so nothing is assumed of how a model calls its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efface._errors import InputError
from efface._temporary import temporary_folder
from efface.core.hooks import StateEdit, look, patch
from efface.core.site import Site
from efface.scrubbing.batches import Batch
from efface.scrubbing.forward import Stop, execution_order, run_to


class Store:
    """What the last finished block of each chain gave, for each batch, in memory or in files.

    Args:
        where: `"memory"` or `"disk"`.
        folder: Under which to make a temporary folder for `"disk"`; None takes the system's.
    """

    def __init__(self, where: Literal["memory", "disk"], folder: str | Path | None = None) -> None:
        self._kept: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._stack = ExitStack()
        where_to = None if folder is None else Path(folder)
        self._folder = self._stack.enter_context(temporary_folder(where_to)) if where == "disk" else None

    def put(self, chain: str, number: int, output: Any) -> None:
        """Keep the output of a block, in place of what the chain's last block gave."""
        tensors: list[Tensor] = []
        skeleton = _map_tensors(output, lambda x: (tensors.append(x.detach()), _Slot(len(tensors) - 1, x))[1])
        held = [x.to("cpu", copy=True).contiguous() for x in tensors]
        if self._folder is None:
            self._kept[chain, number] = (skeleton, held)
            return
        path = self._folder / f"{chain}-{number}.safetensors"
        save_file({str(i): x for i, x in enumerate(held)}, path)
        self._kept[chain, number] = (skeleton, path)

    def get(self, chain: str, number: int) -> Any:
        """What was kept, on the devices it came from."""
        skeleton, held = self._kept[chain, number]
        if isinstance(held, Path):
            loaded = load_file(held)
            held = [loaded[str(i)] for i in range(len(loaded))]
        return _map_slots(skeleton, lambda slot: held[slot.index].to(slot.device, copy=True))

    def like(self, chain: str, number: int) -> Any:
        """Zeros of the same make, on the same devices; nothing is read."""
        skeleton, _ = self._kept[chain, number]
        return _map_slots(skeleton, lambda slot: torch.zeros(slot.shape, dtype=slot.dtype, device=slot.device))

    def close(self) -> None:
        """Forget all, and remove the files."""
        self._kept.clear()
        self._stack.close()


class _Slot:
    """Stands for a tensor in the skeleton of an output."""

    def __init__(self, index: int, x: Tensor) -> None:
        self.index, self.device, self.shape, self.dtype = index, x.device, x.shape, x.dtype


def _map_tensors(value: Any, change: Any) -> Any:
    return _map(value, Tensor, change)


def _map_slots(value: Any, change: Any) -> Any:
    return _map(value, _Slot, change)


def _map(value: Any, kind: type, change: Any) -> Any:
    """`value` with every instance of `kind` in its tuples, lists and mappings changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, kind, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(item, kind, change) for item in value)
    if isinstance(value, Mapping):
        return {key: _map(item, kind, change) for key, item in value.items()}
    return value


class Carried:
    """Forward passes that begin at the first block that is not done.

    Args:
        model: A model that is made of blocks.
        batch: Any batch, to see in which order blocks run.
        store: Where activations are kept.
        blocks: The blocks (role `"residual"`).

    Raises:
        InputError: If one runs more than once in a forward pass.
    """

    def __init__(self, model: nn.Module, batch: Batch, store: Store, blocks: list[Site]) -> None:
        order = execution_order(model, blocks, batch)
        if repeated := [str(site) for site, calls in order.items() if calls > 1]:
            raise InputError(
                f"{repeated[0]} runs several times in a forward pass, so activations cannot be carried: "
                'pass activations="recompute"'
            )
        self.model, self._store = model, store
        self.blocks = [site.path for site in order]
        self.done = 0

    def block_of(self, site: Site) -> int | None:
        """Number of the block in which a site lies; None if it lies in none."""
        return next((i for i, block in enumerate(self.blocks) if _inside(site, block)), None)

    def active(self, edits: Mapping[Site, StateEdit]) -> dict[Site, StateEdit]:
        """The edits that are still needed: those of blocks that are done are in what is carried."""
        finished = tuple(f"{block}." for block in self.blocks[: self.done])
        return {site: edit for site, edit in edits.items() if not f"{site.path}.".startswith(finished)}

    def run_to(self, batch: Batch, edits: Mapping[Site, StateEdit]) -> None:
        """A forward pass from the first block that is not done, with edits, one of which may end it."""
        with self._shortcut(batch):
            run_to(self.model, batch, self.active(edits))

    def advance(self, batches: Any, edits: Mapping[Site, StateEdit], bar: Any) -> None:
        """Run the next block on every batch, with the edits in it, and keep what it gives.

        Raises:
            InputError: If what is carried is not what the model computes.
        """
        block = self.blocks[self.done]
        for batch in batches:
            with self._shortcut(batch):
                given = _capture(self.model, block, self.active(edits), batch)
            # After two, what a block passes on past the next one shows.
            if batch.number == 0 and self.done in (1, 2, len(self.blocks) - 1):
                self._compare(batch, edits, given)
            self._store.put(_chain(block), batch.number, given)
            bar.update(1)
        self.done += 1

    def _compare(self, batch: Batch, edits: Mapping[Site, StateEdit], given: Any) -> None:
        expected = _capture(self.model, self.blocks[self.done], edits, batch)
        for mine, theirs in zip(_tensors(given), _tensors(expected), strict=True):
            if not _close(mine.double(), theirs.double()):
                raise InputError(
                    f"{type(self.model).__name__} passes more between its blocks than what they return, so activations "
                    'cannot be carried: pass activations="recompute"'
                )

    @contextmanager
    def _shortcut(self, batch: Batch) -> Iterator[None]:
        """Of the blocks that are done, the last of each chain gives what is kept.

        What those before it give goes into the next one alone, which does not look: they give zeros, so that a batch
        is read once however many blocks are done.
        """
        last = {_chain(path): path for path in self.blocks[: self.done]}
        with ExitStack() as stack:
            for path in self.blocks[: self.done]:
                give = self._store.get if last[_chain(path)] == path else self._store.like
                stub = _stub(give, _chain(path), batch.number)
                stack.callback(patch(self.model.get_submodule(path), "forward", stub))
            yield


def _stub(give: Callable[[str, int], Any], chain: str, number: int) -> Any:
    return lambda *_args, **_kwargs: give(chain, number)


def _capture(model: nn.Module, block: str, edits: Mapping[Site, StateEdit], batch: Batch) -> Any:
    """What a block gives, with the edits on; the forward pass ends there."""
    found: list[Any] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        found.append(output)
        raise Stop

    with ExitStack() as stack:
        stack.callback(look(model.get_submodule(block), keep))
        run_to(model, batch, edits)
    return found[0]


def _close(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs are the same but for rounding. Where both hold NaN, it is found at the next site."""
    scale = float(theirs.nan_to_num(0, 0, 0).abs().max()) if theirs.numel() else 0.0
    return torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map_tensors(value, found.append)
    return found


def _inside(site: Site, block: str) -> bool:
    return site.path == block or site.path.startswith(f"{block}.")


def _chain(block: str) -> str:
    """The list that a block is of: only what its last finished block gave is ever used."""
    return block.rpartition(".")[0]
