"""`efface methods`, and what `--method help` and `--method NAME --help` say: from the registry."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from efface.cli.options import Methods
from efface.core.config import Option
from efface.core.method import Method, get_method, methods
from efface.explanation.mapping import SUMMARIES

_ABOUT = {
    "rows": "rows of arrays and tables: efface fit, apply, audit",
    "model": "hidden states of a model: efface.erase(model, ...)",
    "pipeline": "text-to-image and video pipelines: efface erase, generate",
    "classifier": "classifiers: efface.erase(model, ...)",
}
_EXPLANATIONS = "maps of what a classifier of images listens to: efface explain"
_WIDTH = 110


def run(args: Methods) -> None:
    """What `efface methods` prints."""
    print("\n".join(table_lines() if args.name is None else method_lines(args.name)))


def table_lines() -> list[str]:
    """All methods, subject by subject."""
    lines: list[str] = []
    for subject in (*_ABOUT, "explanations"):
        lines += [*subject_lines(subject), ""]
    return [*lines, "efface methods NAME says what a method guarantees, and what it can be told."]


def subject_lines(subject: str) -> list[str]:
    """The methods for one kind of subject, or for `"explanations"`."""
    if subject == "explanations":
        return [_EXPLANATIONS, *_entries(SUMMARIES)]
    return [_ABOUT[subject], *_entries({m.name: f"{m.summary} ({m.paper})" for m in methods(subject)})]


def _entries(named: dict[str, str]) -> list[str]:
    width = max(map(len, named)) + 2
    return [line for name, text in named.items() for line in _wrapped(f"  {name:{width}}", text)]


def _wrapped(start: str, text: str, *, more: int = 0) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * (len(start) + more))


def method_lines(name: str, subject: str | None = None) -> list[str]:
    """What is known of a method, for one kind of subject or for each that it is for.

    Raises:
        InputError: If there is none of that name; the text names what comes near.
    """
    kind: Any = "classifier" if subject == "explanations" else subject
    found = [m for m in methods(kind) if m.name == name]
    if not found and subject in (None, "explanations") and name in SUMMARIES:
        return _wrapped("", f"{name}: {SUMMARIES[name]}")
    parts = [list(_lines(m)) for m in found or [get_method(name, kind)]]
    return [line for part in parts for line in (*part, "")][:-1]


def _lines(method: Method) -> Iterator[str]:
    yield from _wrapped("", f"{method.name}, for {_ABOUT[method.subjects[0]].partition(':')[0]}: {method.summary}")
    for title, text in (
        ("paper", method.paper),
        ("needs", f"{', '.join(method.access)} for the fit, {', '.join(method.access_on)} to be put on"),
        ("guarantees", method.guarantee),
        ("does not guarantee", method.no_guarantee),
    ):
        yield from _wrapped("  ", f"{title}: {text}", more=2)
    options = method.config.options()
    yield "  options, as --set NAME=VALUE:" if options else "  no options"
    yield from (line for option in options for line in _wrapped("    ", option_text(option), more=4))


def option_text(option: Option) -> str:
    """An option in one line: name, type, default, and what it is for."""
    default = f"default {option.default_text}" if option.default_text else "must be given"
    return f"{option.name} ({option.type}; {default}): {option.help}"
