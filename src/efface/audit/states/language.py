"""A language model while it is asked: its loss, its hidden states at sites, its blocks, and its weights for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efface._errors import InputError
from efface._validate import to_tensor
from efface.audit.states.folded import sequences
from efface.audit.states.reading import Floats
from efface.core.arrays import refuse_class
from efface.core.edits import edit_sites
from efface.core.site import Site

IGNORED = -100
"""The label of a token that does not count, as everywhere in PyTorch."""
_LEVELS = 127
_MATRIX = 2
_TOKENS, _MASK = "input_ids", "attention_mask"


@dataclass(frozen=True, eq=False)
class Texts:
    """Sequences of tokens, a batch at a time.

    Attributes:
        columns: What the model is called with, `(n, ...)` each; `input_ids` `(n, length)` among them.
        batch_size: Sequences in a forward pass.
    """

    columns: Mapping[str, Tensor]
    batch_size: int

    @classmethod
    def of(cls, data: Any, name: str, batch_size: int) -> Texts:
        """Token ids `(n, length)`, or a mapping with `input_ids` as tokenizers give it.

        Raises:
            InputError: If it is neither, or has fewer than two tokens a sequence.
        """
        refuse_class(data, name)
        sequences(data)
        given = dict(data) if isinstance(data, Mapping) else {_TOKENS: data}
        columns = {str(key): to_tensor(value, f"{name}[{key!r}]") for key, value in given.items()}
        ids = columns.get(_TOKENS)
        if ids is None or ids.ndim != _MATRIX or ids.shape[1] < 2 or not len(ids) or ids.is_floating_point():
            shown = "none" if ids is None else f"shape {tuple(ids.shape)} of {ids.dtype}"
            raise InputError(f"{name} has {_TOKENS} {shown}, expected integers (n, length) of at least 1 by 2")
        mask = columns.get(_MASK)
        if mask is not None and mask.shape != ids.shape:
            raise InputError(f"{name} has {_MASK} {tuple(mask.shape)}, expected {tuple(ids.shape)}, as {_TOKENS}")
        return cls({**columns, _TOKENS: ids.long()}, batch_size)

    def check(self, model: nn.Module, name: str) -> Texts:
        """The same, if the model knows all of its tokens.

        Raises:
            InputError: If not.
        """
        table = getattr(model, "get_input_embeddings", lambda: None)()
        known = getattr(table, "num_embeddings", None)
        least, most = int(self.ids.min()), int(self.ids.max())
        if least < 0 or (isinstance(known, int) and most >= known):
            raise InputError(
                f"{name} has tokens from {least} to {most}, and the model knows {known}: use its tokenizer"
            )
        return self

    @property
    def ids(self) -> Tensor:
        """Token ids `(n, length)`."""
        return self.columns[_TOKENS]

    @property
    def there(self) -> Tensor:
        """Which tokens are no padding, `(n, length)` bool."""
        mask = self.columns.get(_MASK)
        return torch.ones_like(self.ids, dtype=torch.bool) if mask is None else mask.bool()

    @property
    def predicted(self) -> Tensor:
        """Which tokens behind the first are predicted from what is there, `(n, length - 1)` bool."""
        return self.there[:, 1:] & self.there[:, :-1]

    def batches(self, model: nn.Module) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Which sequences, and what the model is called with."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for start in range(0, len(self.ids), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield part, {name: column[part].to(device) for name, column in self.columns.items()}


def logits_of(model: nn.Module, given: Mapping[str, Tensor]) -> Tensor:
    """What a language model gives for each token, `(n, length, vocabulary)`.

    Raises:
        InputError: If it gives no such thing.
    """
    caches = hasattr(getattr(model, "config", None), "use_cache")
    out = model(**given, **({"use_cache": False} if caches else {}))
    found = getattr(out, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != given[_TOKENS].shape:
        raise InputError(
            f"{type(model).__name__} gives no logits (n, length, vocabulary): it is no causal language model, and what "
            "erasing costs it cannot be said"
        )
    return found


def nats_of(model: nn.Module, texts: Texts) -> Tensor:
    """`-log p` of each token but the first, given those before, `(n, length - 1)` float64; 0 for padding."""
    found = []
    with torch.no_grad():
        for _, given in texts.batches(model):
            logits, ids = logits_of(model, given)[:, :-1].float(), given[_TOKENS][:, 1:]
            found.append(nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none").double().cpu())
    return torch.where(texts.predicted, torch.cat(found), 0.0)


def frequency_nats(texts: Texts) -> Tensor:
    """The same by nothing but how often each token occurs in these sequences, which flatters it a little."""
    ids, counted = texts.ids[:, 1:], texts.predicted
    counts = torch.bincount(ids[counted])
    share = counts.double() / counts.sum().clamp_min(1)
    return torch.where(counted, -torch.log(share[ids.clamp_max(len(share) - 1)].clamp_min(1e-300)), 0.0)


def states_of(
    model: nn.Module, texts: Texts, sites: Sequence[Site], rows: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> dict[str, Floats]:
    """Hidden states of some tokens at sites, behind all edits that are on: address -> `(n, d)` float64.

    Args:
        model: The model.
        texts: Sequences.
        sites: Where.
        rows: Sequence and position of each token, sequences in rising order.
    """
    kept: dict[Site, list[Tensor]] = {site: [] for site in sites}
    now: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        def look(x: Tensor) -> None:
            now.setdefault(site, x.detach())  # of a module that runs several times, its first call

        return look

    remove = edit_sites(model, {site: keep(site) for site in sites})
    try:
        with torch.no_grad():
            for part, given in texts.batches(model):
                now.clear()
                logits_of(model, given)
                mine = (rows[0] >= part.start) & (rows[0] < part.stop)
                where = torch.from_numpy(rows[0][mine] - part.start), torch.from_numpy(rows[1][mine])
                for site in sites:
                    kept[site].append(_tokens_at(now, site, given)[where].double())
    finally:
        remove()
    return {str(site): torch.cat(parts).numpy() for site, parts in kept.items()}


def _tokens_at(now: Mapping[Site, Tensor], site: Site, given: Mapping[str, Tensor]) -> Tensor:
    shape = tuple(given[_TOKENS].shape)
    x = now.get(site)
    if x is not None and x.ndim == 2 and len(x) == shape[0] * shape[1]:
        x = x.reshape(*shape, -1)
    if x is None or tuple(x.shape[:2]) != shape:
        raise InputError(
            f"{site} {'was not passed' if x is None else f'gives {tuple(x.shape)}'}, expected a vector for each of "
            f"{shape} tokens: name other sites"
        )
    return x.cpu()


def blocks_of(model: nn.Module) -> list[str]:
    """Paths of the blocks that a language model is a stack of: the longest list of modules in it, the first of equals.

    Raises:
        InputError: If it has no list of modules.
    """
    lists = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    if not lists:
        raise InputError(f"{type(model).__name__} has no list of blocks: states cannot be put back block by block")
    path = max(lists, key=lambda name: len(lists[name]))
    return [f"{path}.{i}" for i in range(len(lists[path]))]


def block_states(model: nn.Module, texts: Texts, block: str) -> list[Tensor]:
    """What a block gives, batch by batch."""
    found: list[Tensor] = []
    remove = edit_sites(model, {Site(block): lambda x: found.append(x.detach())})
    try:
        with torch.no_grad():
            for _, given in texts.batches(model):
                logits_of(model, given)
    finally:
        remove()
    if len(found) != -(-len(texts.ids) // texts.batch_size):
        raise InputError(f"{block} does not run once in each forward pass: states cannot be put back there")
    return found


@contextmanager
def put_back(
    model: nn.Module, texts: Texts, block: str, states: Sequence[Tensor], where: Tensor | None = None
) -> Iterator[None]:
    """A block gives states that were kept, batch after batch, in one pass over the same sequences after another.

    Args:
        model: The model.
        texts: The sequences.
        block: Path of the block.
        states: What it is to give, batch by batch.
        where: At which tokens `(n, length)` bool; None for all.
    """
    count = 0

    def replace(x: Tensor) -> Tensor:
        nonlocal count
        kept = states[count % len(states)].to(x)
        start = (count % len(states)) * texts.batch_size
        count += 1
        if kept.shape != x.shape:
            raise InputError(f"{block} gives {tuple(x.shape)} here and {tuple(kept.shape)} in the other model")
        return kept if where is None else torch.where(where[start : start + len(x), :, None].to(x.device), kept, x)

    remove = edit_sites(model, {Site(block): replace})
    try:
        yield
    finally:
        remove()


def to_bfloat16(weight: Tensor) -> Tensor:
    """The nearest of bfloat16."""
    return weight.to(torch.bfloat16).to(weight.dtype)


def to_int8(weight: Tensor) -> Tensor:
    """The nearest of 255 levels a row, by its largest value; vectors (norms, biases) are left as they are.

    >>> to_int8(torch.tensor([[1.0, 0.501, 0.0]])).mul(127).round(decimals=3).tolist()
    [[127.0, 64.0, 0.0]]
    """
    if weight.ndim < _MATRIX:
        return weight
    step = weight.detach().float().abs().flatten(1).amax(dim=1).clamp_min(1e-30) / _LEVELS
    step = step.reshape(-1, *[1] * (weight.ndim - 1))
    return ((weight.float() / step).round() * step).to(weight.dtype)


@contextmanager
def _own_weights(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[list[nn.Parameter]]:
    """The weights changed for the length of a block; behind it they are the very tensors that they were."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    kept = [(p.data, p.requires_grad, p.grad) for p in weights]
    try:
        for p in weights:
            p.data = change(p.data)
        yield weights
    finally:
        for p, (data, asked, grad) in zip(weights, kept, strict=True):
            p.data, p.grad = data, grad
            p.requires_grad_(asked)


@contextmanager
def rounded(model: nn.Module, to: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """All weights rounded, for the length of a block."""
    with _own_weights(model, to):
        yield


@contextmanager
def tuned(model: nn.Module, texts: Texts, *, steps: int, rate: float, seed: int) -> Iterator[None]:
    """The weights after some steps of Adam on the loss of a language model, for the length of a block.

    Raises:
        InputError: If the loss is not finite.
    """
    with _own_weights(model, Tensor.clone) as weights, torch.enable_grad(), torch.inference_mode(False):
        for p in weights:
            p.requires_grad_(True)
            p.grad = None
        adam = torch.optim.Adam(weights, lr=rate)
        order = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            drawn = torch.randperm(len(texts.ids), generator=order)[: texts.batch_size]
            part = Texts({name: column[drawn] for name, column in texts.columns.items()}, texts.batch_size)
            _, given = next(part.batches(model))
            logits = logits_of(model, given)[:, :-1].float()[part.predicted.to(given[_TOKENS].device)]
            loss = nn.functional.cross_entropy(logits, given[_TOKENS][:, 1:][part.predicted.to(logits.device)])
            if not bool(loss.isfinite()):
                raise InputError(f"the loss of tuning is not finite: write a smaller rate than {rate:g}")
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            adam.step()
        yield
