"""One self-contained HTML page: styles and figures inside, nothing fetched."""

from __future__ import annotations

from importlib import resources
from typing import Any

from efface._lazy import require
from efface.audit.finding import Audit
from efface.report.figures import to_data_uri
from efface.report.overlays import legend, panels
from efface.report.rendering import render

_FOLDER = "templates"


def to_html(audit: Audit) -> str:
    """The audit as one page.

    Text from the audit is escaped; figures are `<img>` with the SVG inside and a text for those who do not see them;
    overlays are pictures side by side, each with its words.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = _with_images(render(audit), audit)
    return environment.get_template("page.html.j2").render(page=page, css=_template("style.css"))


def _with_images(page: dict[str, Any], audit: Audit) -> dict[str, Any]:
    for shown, figure in zip(page["figures"], audit.figures, strict=True):
        drawn = figure.kind != "overlays"
        shown |= {"image": to_data_uri(figure)} if drawn else {"panels": panels(figure)}
    page["legend"] = legend() if any("panels" in shown for shown in page["figures"]) else None
    for shown, part in zip(page["parts"], audit.parts, strict=True):
        _with_images(shown, part)
    return page


def _template(name: str) -> str:
    return (resources.files("efface.report") / _FOLDER / name).read_text(encoding="utf-8")
