"""Reading and replacing the hidden states at sites, by hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn

from efface.core.hooks import StateEdit as Edit
from efface.core.hooks import edit_states
from efface.core.site import Site


def install(model: nn.Module, edits: Mapping[Site, Edit]) -> ExitStack:
    """Call `edits[site]` with the hidden states of every site in each forward pass, until the stack is closed.

    If anything goes wrong on the way, no hook stays.
    """
    with ExitStack() as stack:
        for site, edit in edits.items():
            module = model.get_submodule(site.path)
            stack.callback(edit_states(module, edit, where=site.where, index=site.index, name=site))
        return stack.pop_all()


@contextmanager
def hooked(model: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """`install` for the length of a `with` block."""
    with install(model, edits):
        yield
