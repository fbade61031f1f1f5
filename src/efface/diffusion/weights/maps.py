"""Where in a picture a denoiser attends to a word: attention to rows of text, and masks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.hooks import look
from efface.pipelines.view import PipelineView

Maps = Mapping[str, Tensor]
"""Path of an attention -> `(n, heads, cells, rows)`: how much each cell of the picture attends to each row of text."""


def cross_attentions(view: PipelineView) -> list[str]:
    """Paths of the attentions in which the picture reads text alone, in the order of the denoiser.

    Raises:
        InputError: If there are none: text and picture are read at once.
    """
    layers = view.key_value_layers()
    if not all(layer.text_alone for layer in layers):
        raise InputError(
            f"{type(view.denoiser).__name__} reads text and picture at once, so that it has no cross-attention that "
            "this method could act on: choose 'esd' or 'concept-ablation', or a method that edits text or guidance"
        )
    return list(dict.fromkeys(layer.path.rpartition(".")[0] for layer in layers))


@contextmanager
def noted(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Attention of a model's passes within the block, by path; it is there once the block is left. Gradients flow.

    It is formed of the queries and keys that the layers make, as `softmax(q k^T / sqrt(d))`: where rows of text are
    masked, as padding is in PixArt, it counts them in.

    Args:
        model: A denoiser.
        paths: Its attentions to text.
    """
    found: dict[str, Tensor] = {}
    seen: dict[tuple[str, str], Tensor] = {}
    with ExitStack() as stack:
        for path in paths:
            attention = model.get_submodule(path)
            for side in ("q", "k"):
                stack.callback(look(_last(attention, side), partial(_kept, seen, (path, side))))
        yield found
    for path in paths:
        if (path, "q") in seen:
            heads: Any = getattr(model.get_submodule(path), "heads", None)
            found[path] = attention_of(seen[path, "q"], seen[path, "k"], heads)


def _last(attention: nn.Module, side: str) -> nn.Module:
    """What makes queries or keys ready: their norm, or else the layer itself."""
    norm = getattr(attention, f"norm_{side}", None)
    return norm if isinstance(norm, nn.Module) else attention.get_submodule(f"to_{side}")


def _kept(seen: dict[Any, Tensor], name: Any, _module: nn.Module, _args: Any, output: Tensor) -> None:
    seen[name] = output


def attention_of(query: Tensor, key: Tensor, heads: int | None) -> Tensor:
    """`(n, heads, cells, rows)` of queries `(n, cells, heads d)` and keys `(n, rows, heads d)`; float32.

    >>> attention_of(torch.zeros(1, 4, 6), torch.zeros(1, 2, 6), 3)[0, 0, 0].tolist()
    [0.5, 0.5]
    """
    if query.ndim == 3:  # else they come in heads already
        if not isinstance(heads, int):
            raise InputError("an attention of this denoiser does not say how many heads it has")
        query, key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    scores = query.float() @ key.float().mT / query.shape[-1] ** 0.5
    return scores.softmax(-1)


def grid_of(cells: int, latents: Tensor) -> tuple[int, int]:
    """Height and width of an attention's cells, in the proportions of latents `(n, channels, height, width)`.

    Raises:
        InputError: If these are no pictures, or it has another number of cells.

    >>> grid_of(32, torch.zeros(1, 4, 16, 32))
    (4, 8)
    """
    if latents.ndim != 4:
        raise InputError(
            f"latents have shape {tuple(latents.shape)}, and masks are of pictures (n, channels, height, width)"
        )
    height = round((cells * latents.shape[-2] / latents.shape[-1]) ** 0.5)
    if not height or cells % height:
        raise InputError(f"{cells} cells are no grid in the proportions of latents {tuple(latents.shape[-2:])}")
    return height, cells // height


def masks_of(maps: Maps, rows: Sequence[Sequence[int]], latents: Tensor, side: int, threshold: float) -> Tensor:
    """Where each of n pictures attends to rows of its text, `(n, height, width)` booleans.

    The mean over rows, heads and those layers whose grid is nearest to `side` cells a side, brought to least 0 and most
    1 in each picture: at least the threshold.

    Args:
        maps: The attention.
        rows: Of each of the n pictures.
        latents: (n, ...) as the denoiser is given them.
        side: As many cells a side.
        threshold: From 0 to 1.
    """
    sizes = {path: x.shape[2] for path, x in maps.items()}
    nearest = min(sizes.values(), key=lambda cells: (abs(cells**0.5 - side), -cells))
    chosen = torch.stack([maps[path] for path, cells in sizes.items() if cells == nearest]).mean((0, 2))
    mean = torch.stack([x[:, list(own)].mean(-1) for x, own in zip(chosen, rows, strict=True)])
    low, high = mean.amin(-1, keepdim=True), mean.amax(-1, keepdim=True)
    scaled = (mean - low) / (high - low).clamp_min(torch.finfo(mean.dtype).tiny)
    return (scaled >= threshold).view(len(mean), *grid_of(nearest, latents))


def resized(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks `(n, height, width)` on another grid, flat `(n, cells)`: each cell has the mask where it begins."""
    return F.interpolate(masks[:, None].float(), grid, mode="nearest")[:, 0].flatten(1) > 0.5


def word_rows(view: PipelineView, prompt: str, word: str) -> tuple[int, ...]:
    """Rows of a word of a prompt in the sequence, of all text encoders.

    Raises:
        InputError: If the word is not in the prompt.
    """
    found = view.token_rows(prompt, word)
    return tuple(sorted({row for rows in found.values() for row in rows.sequence}))
