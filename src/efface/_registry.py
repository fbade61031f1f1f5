"""The registry of methods: a method registers itself in its own file, everything else iterates.

The shared test-suite, the command line and the tables of the docs read this registry, so that adding a
method is adding a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from efface._errors import InputError


@dataclass(frozen=True)
class Method:
    """One way to erase a concept, and what it needs.

    Attributes:
        name: The name users type, e.g. `"leace"`.
        kind: What is edited: `"vector"` (rows of an array) or `"diffusion"` (a text-to-image or video pipeline).
        paper: Where it comes from, e.g. `"arXiv:2306.03819"`.
        summary: One line for tables and `--help`.
        fitter: Class that gathers statistics by `update(x, z)` and yields `.eraser`.
        eraser: Class of the fitted value.
        needs: What applying takes: `("x",)`, or `("x", "z")` if labels are needed at apply time.
        concepts: Which kinds of concept it takes: `"categorical"`, `"continuous"`.
    """

    name: str
    kind: str
    paper: str
    summary: str
    fitter: type
    eraser: type
    needs: tuple[str, ...] = ("x",)
    concepts: tuple[str, ...] = ("categorical", "continuous")

    @property
    def labels_at_apply(self) -> bool:
        """Whether the fitted eraser is called as `eraser(x, z)`."""
        return "z" in self.needs


_METHODS: dict[tuple[str, str], Method] = {}


def register(method: Method) -> Method:
    """Add a method; a second method of the same kind and name is an error."""
    known = _METHODS.setdefault((method.kind, method.name), method)
    if known is not method:
        raise InputError(f"a method named {method.name!r} is already registered: {known.fitter}")
    return method


def get_method(name: str, kind: str = "vector") -> Method:
    """The registered method of that name and kind.

    Raises:
        InputError: If there is none; the text lists those there are.
    """
    if (kind, name) not in _METHODS:
        raise InputError(f"unknown method {name!r}: choose one of {', '.join(m.name for m in methods(kind))}")
    return _METHODS[kind, name]


def methods(kind: str | None = None) -> Iterator[Method]:
    """All registered methods, or those of one kind, in order of name."""
    return (m for m in sorted(_METHODS.values(), key=lambda m: (m.name, m.kind)) if kind is None or m.kind == kind)
