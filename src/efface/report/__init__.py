"""Reports: an audit as text, JSON, Markdown, one self-contained HTML page, a table or a drawing.

What is drawn is plain data (`data.AuditData`), so that nothing here knows how an audit is made, and an audit that was
read from JSON gives the same pages. `efface.audit.Audit` has all of it as methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface.report.html import to_fragment, to_html
    from efface.report.markdown import to_markdown, to_text
    from efface.report.numbers import format_value
    from efface.report.rendering import render
    from efface.report.saving import FORMATS, save, to_json

_NAMES = {
    "efface.report.html": ("to_fragment", "to_html"),
    "efface.report.markdown": ("to_markdown", "to_text"),
    "efface.report.numbers": ("format_value",),
    "efface.report.rendering": ("render",),
    "efface.report.saving": ("FORMATS", "save", "to_json"),
}

__all__ = ["FORMATS", "format_value", "render", "save", "to_fragment", "to_html", "to_json", "to_markdown", "to_text"]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
