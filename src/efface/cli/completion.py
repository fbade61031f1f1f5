"""What the shell completes after `--method` and `--set`, from an index, and worlds; nobody waits for torch.

`methods.json` beside this file is the index: `tools/make_docs.py` writes it from the registry. Where another
distribution registers methods too, the registry itself is asked.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from efface.cli.worlds import world_names

INDEX = Path(__file__).with_name("methods.json")
_FOREIGN = "efface.methods"

Found = list[tuple[str, str]]
"""What fits, each with its help."""


def make_index() -> dict[str, Any]:
    """Subject -> method -> its summary, and its options: name -> help and values."""
    from efface.core.method import methods
    from efface.core.subjects import KINDS
    from efface.explanation.mapping import SUMMARIES

    index: dict[str, Any] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for method in methods(kind):
            options = {o.name: {"help": o.help, "values": list(o.values)} for o in method.config.options()}
            index[kind][method.name] = {"summary": method.summary, "options": options}
    maps = {name: {"summary": text, "options": {}} for name, text in SUMMARIES.items()}
    return {**index, "explanations": maps | {"diet": index["classifier"]["diet"]}}


def _read_index() -> dict[str, Any]:
    if importlib.metadata.entry_points(group=_FOREIGN):
        return make_index()
    return json.loads(INDEX.read_text(encoding="utf-8"))


def complete_methods(subject: str | None) -> Callable[[str], Found]:
    """A completer of names of methods: for a kind of subject, for `"explanations"`, or of all."""

    def complete(incomplete: str) -> Found:
        chosen = [named for kind, named in _read_index().items() if subject in (None, kind)]
        found = {name: each["summary"] for named in chosen for name, each in named.items()}
        return [(name, text) for name, text in found.items() if name.startswith(incomplete)]

    return complete


def complete_settings(subject: str | None) -> Callable[[typer.Context, str], Found]:
    """A completer of `name=value`, for the options of the methods named before."""

    def complete(ctx: typer.Context, incomplete: str) -> Found:
        named, index = ctx.params.get("method") or "leace", _read_index()[subject or "rows"]
        found = [index.get(name, {}).get("options", {}) for name in ([named] if isinstance(named, str) else named)]
        texts = [(f"{n}={v}", o["help"]) for options in found for n, o in options.items() for v in o["values"]]
        return [(text, help) for text, help in texts if text.startswith(incomplete)]

    return complete


def complete_worlds(kind: str) -> Callable[[str], Found]:
    """A completer of names of worlds of a kind."""

    def complete(incomplete: str) -> Found:
        return [(name, text) for name, text in world_names(kind).items() if name.startswith(incomplete)]

    return complete
