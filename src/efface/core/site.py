"""Addresses of places inside a model where hidden states pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

from efface._errors import InputError
from efface.core.doors import check_call, check_fields
from efface.core.hooks import Where

_ADDRESS = re.compile(r"^(?P<path>[^:\[\]]*(?:\[[^\]:]*\][^:\[\]]*)*?)(?::(?P<where>\w+)(?:\[(?P<index>\w+)\])?)?$")


@dataclass(frozen=True, order=True)
class Site:
    """One place in a model where hidden states pass.

    Attributes:
        path: Dotted path of the module, as in `model.named_modules()`.
        where: `"output"`: what the module gives; `"input"`: what it is given.
        index: Which of several: a position, or the name of a field or keyword. None takes the hidden states, that is
            the tensor itself, the first of a tuple or of the fields of a ModelOutput; of the inputs, the first
            argument or the keyword `hidden_states` (or else the first tensor).

    >>> str(Site("h.0.attn", "output", 0)), str(Site("h.0"))
    ('h.0.attn:output[0]', 'h.0')
    """

    path: str
    where: Where = "output"
    index: int | str | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        return self.path if self.where == "output" and not index else f"{self.path}:{self.where}{index}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `str(site)` wrote.

        Raises:
            InputError: If the text is no address.

        >>> Site.parse("h.0.attn:input[hidden_states]")
        Site(path='h.0.attn', where='input', index='hidden_states')
        """
        check_call(Site.parse, locals())
        match = _ADDRESS.match(text)
        where = match and (match["where"] or "output")
        if match is None or where not in ("input", "output"):
            raise InputError(f"{text!r} is no site: write 'path', 'path:input', 'path:output' or 'path:output[1]'")
        index = match["index"]
        return cls(match["path"], where, int(index) if index is not None and index.isdigit() else index)  # type: ignore[arg-type]
