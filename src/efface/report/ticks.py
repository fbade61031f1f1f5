"""Names of sites along an axis: blocks by their number where names have one, else shortened names, thinned to fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCK = re.compile(r"(?:^|\.)(\d+)(?=[.:\[]|$)")
_ROOM = 56  # characters of the size of the labels side by side along the axis
_GAP = 1.2
_UPRIGHT_AT_MOST = 26
_LONGEST, _LONGEST_ALONE = 22, 10
_MOST_WITH_NUMBERS = 0.5


@dataclass(frozen=True)
class Ticks:
    """Labels along an axis of `count` names.

    Attributes:
        count: How many names there are.
        positions: Which of them are labelled.
        labels: With what.
        upright: Whether the labels are turned by a quarter.
        blocks: Whether numbers among the labels are numbers of blocks.
    """

    count: int
    positions: tuple[int, ...]
    labels: tuple[str, ...]
    upright: bool = False
    blocks: bool = False


def site_ticks(names: Sequence[str]) -> Ticks:
    """Labels that can be read side by side, for any number of sites.

    >>> names = ["embed", *(f"model.layers.{i}.{part}" for i in range(2) for part in ("attn", "mlp")), "model.norm"]
    >>> ticks = site_ticks(names)
    >>> dict(zip(ticks.positions, ticks.labels))
    {0: 'embed', 1: '0', 3: '1', 5: 'norm'}
    >>> site_ticks(["text.key", "text.query"]).labels
    ('key', 'query')
    """
    numbers = [match and match[1] for match in map(_BLOCK.search, names)]
    if sum(n is not None for n in numbers) > _MOST_WITH_NUMBERS * len(names):
        return _block_ticks(names, numbers)
    short = _shortened(names)
    if _fits(list(enumerate(short)), len(names)):
        return Ticks(len(names), tuple(range(len(names))), tuple(short))
    step = -(-len(names) // _UPRIGHT_AT_MOST)
    return Ticks(len(names), tuple(range(0, len(names), step)), tuple(short[::step]), upright=True)


def _block_ticks(names: Sequence[str], numbers: Sequence[str | None]) -> Ticks:
    """The number at the first site of each block, and names of sites outside of blocks where there is room."""
    first = [i for i, n in enumerate(numbers) if n is not None and (i == 0 or numbers[i - 1] != n)]
    alone = [i for i, n in enumerate(numbers) if n is None]
    labels = {i: _last_word(names[i]) for i in alone}
    kept: dict[int, str] = {}
    for i in alone:
        if all(_apart(i, j, labels[i], kept[j], len(names)) for j in kept):
            kept[i] = labels[i]
    step = next(s for s in (1, 2, 4, 5, 8, 10, 16, 20, 32, 64, len(first)) if _fits_by(first[::s], numbers))
    for i in first[::step]:
        text = str(numbers[i])
        if all(_apart(i, j, text, kept[j], len(names)) for j in kept):
            kept[i] = text
    positions = tuple(sorted(kept))
    return Ticks(len(names), positions, tuple(kept[i] for i in positions), blocks=True)


def _last_word(name: str) -> str:
    """What a site outside of the blocks is called.

    >>> _last_word("model.norm"), _last_word("gpt_neox.final_layer_norm")
    ('norm', 'norm')
    """
    last = name.split(".")[-1]
    return last if len(last) <= _LONGEST_ALONE else _cut(last.split("_")[-1], _LONGEST_ALONE)


def _fits_by(places: Sequence[int], numbers: Sequence[str | None]) -> bool:
    return len(places) < 2 or _fits([(i, str(numbers[i])) for i in places], len(numbers))


def _fits(labels: Sequence[tuple[int, str]], count: int) -> bool:
    pairs = zip(labels, labels[1:], strict=False)
    return all(_apart(i, j, one, other, count) for (i, one), (j, other) in pairs)


def _apart(i: int, j: int, one: str, other: str, count: int) -> bool:
    return abs(i - j) * _ROOM / count >= (len(one) + len(other)) / 2 + _GAP


def _shortened(names: Sequence[str]) -> list[str]:
    """Names without the dotted beginning that all share, the middle cut out of long ones."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return [_cut(".".join(p[shared:]), _LONGEST) for p in parts]


def _cut(text: str, longest: int) -> str:
    """At most so many characters: the beginning and the end.

    >>> _cut("post_attention_layernorm", 11)
    'post_…norm'
    """
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half + 1 :]}"
