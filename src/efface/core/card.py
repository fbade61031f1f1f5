"""The model card of a saved erasure: what it is, what it does not promise, and how to put it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface._errors import InputError
from efface._text import visible
from efface.core.edits import OnRows, OnWeights
from efface.core.method import Method, get_method
from efface.core.subjects import Kind

_LONGEST = 300
_USE = {
    "rows": "erased = erasure(x)",
    "model": "with erasure.on(model):\n    model(**inputs)",
    "classifier": "with erasure.on(model):\n    model(images)",
    "pipeline": "with erasure.on(pipe):\n    pipe(prompt)",
}


def model_card(erasure: Any) -> str:
    """Markdown for the `README.md` beside a saved erasure."""
    found = erasure.describe()
    kind = _kind(erasure)
    method = _method(erasure.method, kind)
    names = _plain(", ".join(erasure.names)) or "the concept of its labels"
    lines = [f"# {names}, erased by {erasure.method or type(erasure).__name__}", ""]
    if method is not None:
        lines += [f"{method.summary[:1].upper()}{method.summary[1:]} ({method.paper}).", ""]
    use = ("import efface", "", 'erasure = efface.load("this folder")', _USE[kind])
    lines += ["```python", *use, "```", ""]
    if method is not None and method.guarantee:
        lines += [f"**Guarantees**: {method.guarantee}", ""]
    if method is not None and method.no_guarantee:
        lines += [f"**Does not guarantee**: {method.no_guarantee}", ""]
    for concept in erasure.concepts:
        lines += _section(f"Concept {_plain(concept.name)}", _own_fields(concept))
    lines += _section("Options", found["config"]) + _section("Fit", found["report"])
    lines += _section("Provenance", found["provenance"])
    return "\n".join([*lines, f"SHA-256 of the content: `{found['sha256']}`", ""])


def _own_fields(concept: Any) -> dict[str, Any]:
    """What a concept says beyond its name."""
    plain = type(concept)(concept.name).to_dict()
    return {name: value for name, value in concept.to_dict().items() if value != plain[name]}


def _kind(erasure: Any) -> Kind:
    """What it is put on; what edits rows is called."""
    try:
        edit = next(iter(erasure.edits))
    except (InputError, TypeError, StopIteration):
        return "rows"
    if isinstance(edit, OnRows):
        return "rows"
    return "pipeline" if isinstance(edit, OnWeights) and edit.part else edit.needs[0]


def _method(name: str, kind: Kind) -> Method | None:
    for subject in (kind, None):
        try:
            return get_method(name, subject)
        except InputError:
            continue
    return None


def _section(title: str, data: Any) -> list[str]:
    data = data if isinstance(data, Mapping) else {title.lower(): data}
    items = [
        f"- `{_plain(str(key))}`: {_cell(value)}" for key, value in data.items() if value not in (None, "", [], {}, ())
    ]
    return [f"## {title}", "", *items, ""] if items else []


def _plain(text: str) -> str:
    """A name from data inside Markdown: one line, without effect."""
    text = visible(" ".join(text.split()))
    for sign in ("\\", "|", "<", "*", "`", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_cell(each)}" for key, each in value.items() if each not in (None, "", []))
    else:
        text = ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
    text = _plain(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
