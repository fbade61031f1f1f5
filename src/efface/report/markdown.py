"""Reports for places without pictures: Markdown, and plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from efface.report.data import AuditData
from efface.report.numbers import DASH
from efface.report.rendering import render

_TERMINAL = 100


def to_markdown(audit: AuditData) -> str:
    """The audit as Markdown: what it says, its tables, its figures in words."""
    return "\n\n".join(_markdown(render(audit), depth=1)) + "\n"


def to_text(audit: AuditData) -> str:
    """The audit for a terminal: headline numbers and what follows from them."""
    return "\n".join(_text(render(audit))) + "\n"


def _markdown(page: dict[str, Any], depth: int) -> Iterator[str]:
    yield f"{'#' * depth} {_escape(page['title'])}"
    if page["warnings"]:
        yield "\n".join(f"- **{_escape(text)}**" for text in page["warnings"])
    if page["conclusions"]:
        yield "\n".join(f"- {_escape(c['text'])}" for c in page["conclusions"])
    yield from map(_escape, page["text"])
    for rows in (page["rows"], page["details"]):
        if rows:
            yield _pipes(*_cells(page["columns"], rows))
    for table in page["tables"]:
        yield f"**{_escape(table['title'])}**\n\n{_pipes(table['header'], table['rows'])}"
    yield from (f"*Figure.* {_escape(f['alt'])}" for f in page["figures"])
    if page["caveats"]:
        yield "What these numbers do not show:\n\n" + "\n".join(f"- {_escape(c)}" for c in page["caveats"])
    if page["provenance"]:
        yield "Provenance:\n\n" + "\n".join(
            f"- {_escape(f'{key}: {text}')}" for key, text in page["provenance"].items()
        )
    for part in page["parts"]:
        yield from _markdown(part, depth + 1)


def _text(page: dict[str, Any]) -> Iterator[str]:
    yield from (page["title"], "=" * len(page["title"]))
    yield from map(_item, page["warnings"])
    if page["rows"]:
        yield from _aligned(*_cells(page["columns"], page["rows"]))
    yield from (_item(line["text"]) for line in page["conclusions"])
    for part in page["parts"]:
        if any(part[key] for key in ("rows", "conclusions", "parts")):
            yield ""
            yield from _text(part)


def _item(text: str) -> str:
    return textwrap.fill(text, _TERMINAL, initial_indent="* ", subsequent_indent="  ")


def _cells(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    last = ("chance", "verdict") if any(r["chance"] != DASH for r in rows) else ("verdict",)
    header = ["measure", *columns, *("in words" if key == "verdict" else key for key in last)]
    return header, [[r["what"], *map(_cell, r["cells"]), *(r[key] for key in last)] for r in rows]


def _cell(cell: dict[str, str]) -> str:
    return f"{cell['value']} ({cell['interval']})" if cell["interval"] else cell["value"]


def _aligned(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * w for w in widths]
    for row in (header, rule, *rows):
        yield "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()


def _pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(text: str) -> str:
    text = " ".join(text.splitlines())
    for sign in ("\\", "|", "<", "*", "`", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return text
