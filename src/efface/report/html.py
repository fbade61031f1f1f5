"""One self-contained HTML page, or a piece of one for a notebook: styles and figures inside, nothing fetched."""

from __future__ import annotations

from importlib import resources
from typing import Any

from efface._lazy import require
from efface.report.css import scoped
from efface.report.data import AuditData
from efface.report.figures import to_data_uri
from efface.report.overlays import legend, panels, sets
from efface.report.rendering import render

CLASS = "efface-audit"
"""Class of the element around a piece of a page; every rule of its style sheet stands under it."""
_FOLDER = "templates"


def to_html(audit: AuditData) -> str:
    """The audit as one page.

    Text from the audit is escaped; figures are `<img>` with the SVG inside and a text for those who do not see them;
    overlays are pictures side by side, each with its words.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    return _filled("page.html.j2", audit, css=_template("style.css"))


def to_fragment(audit: AuditData) -> str:
    """The same within another page: one `<div>` whose styles reach nothing outside of it.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    return _filled("fragment.html.j2", audit, css=scoped(_template("style.css"), f".{CLASS}"), box=CLASS)


def _filled(template: str, audit: AuditData, **more: str) -> str:
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(page=_with_images(render(audit), audit), **more)


def _with_images(page: dict[str, Any], audit: AuditData) -> dict[str, Any]:
    for shown, figure in zip(page["figures"], audit["figures"], strict=True):
        drawn = figure["kind"] != "overlays"
        shown |= {"image": to_data_uri(figure)} if drawn else {"sets": sets(panels(figure))}
    pictures = (picture for figure in audit["figures"] for picture in figure["pictures"])
    page["legend"] = legend() if any(picture.get("heat") is not None for picture in pictures) else None
    for shown, part in zip(page["parts"], audit["parts"], strict=True):
        _with_images(shown, part)
    return page


def _template(name: str) -> str:
    return (resources.files("efface.report") / _FOLDER / name).read_text(encoding="utf-8")
