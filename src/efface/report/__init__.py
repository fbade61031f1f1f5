"""Reports: an audit as a plain dict, as text, as JSON, as Markdown, and as one self-contained HTML page."""

from __future__ import annotations

from efface.report.html import to_html
from efface.report.markdown import to_markdown, to_text
from efface.report.rendering import render
from efface.report.saving import FORMATS, save, to_json, write_report

__all__ = ["FORMATS", "render", "save", "to_html", "to_json", "to_markdown", "to_text", "write_report"]
