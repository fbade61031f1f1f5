"""Merging what parts gave along a binary tree, in the order of parts, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Tree:
    """Merges neighbours of one height, as a binary counter carries.

    So which parts are merged with which depends on their number alone, and the result has the same bits on one machine
    and on many. At most one whole of each height is held: of n parts, log2(n) and one.

    Args:
        merge: Of two neighbours, in their order; it may return at once, as tasks of an engine do.

    >>> tree = Tree(lambda a, b: f"({a}{b})")
    >>> for part in "abcde":
    ...     tree.add(part)
    >>> tree.whole()
    '(((ab)(cd))e)'
    """

    def __init__(self, merge: Callable[[Any, Any], Any]) -> None:
        self._merge = merge
        self._held: list[tuple[int, Any]] = []

    def add(self, part: Any) -> None:
        """Take in the next part."""
        height = 0
        while self._held and self._held[-1][0] == height:
            part, height = self._merge(self._held.pop()[1], part), height + 1
        self._held.append((height, part))

    def whole(self) -> Any:
        """All parts together; None if there was none."""
        whole = None
        while self._held:
            part = self._held.pop()[1]
            whole = part if whole is None else self._merge(part, whole)
        return whole


def merged(merge: Callable[[Any, Any], Any], parts: Iterable[Any]) -> Any:
    """All parts together, along the tree; None if there is none."""
    tree = Tree(merge)
    for part in parts:
        tree.add(part)
    return tree.whole()
