"""Reports: the same numbers in every form, escaped, self-contained, written whole or not at all."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest

from efface import InputError
from efface.audit import Audit, Figure, Finding, Series, Table
from efface.audit.picture import Picture
from efface.report import FORMATS
from efface.report import render as render_data
from efface.report.data import AuditData

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would fetch, the images, the text, and whether tags close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.text, self._open = "", list[str]()
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.addresses += [values[k] for k in ("src", "href", "srcset", "data") if k in values]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def pair(name: str = "accuracy", family: str = "linear probe", unit: str = "share") -> Iterator[Finding]:
    for condition, value in (("before", 0.91234), ("after", 0.51234)):
        low, high = value - 0.05, value + 0.05
        yield Finding(name, value, family, condition, low, high, method="Wilson", n=1234, seed=0, chance=0.5, unit=unit)


def dots(kind: Any = "intervals", **more: Any) -> Figure:
    y = (0.25, 0.75)
    series = Series("after", ("a", "b") if kind == "intervals" else (0.0, 1.0), y, (0.2, 0.7), (0.3, 0.8))
    return Figure("Seen", (series,), kind, "share", "rows", unit="share", caption="Dots.", **more)


def some_audit(**more: Any) -> Audit:
    part = Audit(
        "Part",
        text=("How.",),
        conclusions=("NOT erased: it is there.", "Fine."),
        findings=(*pair(), *pair("information", unit="bits"), Finding("size", 0.061, "edit", "after", unit="share")),
        tables=(Table("T", ("who", "how many"), (("x", 2.5),)),),
        figures=(dots(chance=0.5), dots("histogram")),
        caveats=("But.",),
        settings={"seed": 0, "probes": ["linear"]},
    )
    return Audit("Whole", parts=(part,), **more)


def render(audit: Audit) -> dict[str, Any]:
    return render_data(cast(AuditData, audit.to_dict()))


def test_render_says_each_number_once_in_order() -> None:
    part = render(some_audit())["parts"][0]
    assert part["columns"] == ["before", "after"]
    assert [row["what"] for row in part["rows"]] == [
        "linear probe: accuracy",
        "linear probe: information",
        "edit: size",
    ]
    first = part["rows"][0]
    assert first["cells"][1] == {"value": "51.2%", "interval": "46.2% to 56.2%"}
    assert (first["chance"], first["verdict"], first["tone"]) == ("50.0%", "at chance", "ok")
    assert part["rows"][2]["cells"] == [{"value": "–", "interval": ""}, {"value": "6.1%", "interval": ""}]


def test_render_is_plain_data() -> None:
    assert json.loads(json.dumps(render(some_audit()))) == render(some_audit())


def test_a_leak_is_marked() -> None:
    leak = Finding("accuracy", 0.9, "MLP probe", "after", 0.8, 1.0, chance=0.5)
    assert render(Audit("a", findings=(leak,)))["rows"][0]["tone"] == "warn"


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
def test_every_warning_of_every_part_comes_first(form: str) -> None:
    said = [f"NOT erased: leak {i}." for i in range(3)]
    inner = Audit("Inner", conclusions=("Fine.", said[2]), findings=tuple(pair()))
    whole = Audit(
        "Whole",
        text=("How it was done.",),
        conclusions=("All is well.", "WARNING: rows of the fit."),
        findings=tuple(pair()),
        parts=(Audit("One", conclusions=(said[0],)), Audit("Two", conclusions=("Fine.", said[1]), parts=(inner,))),
    )
    shown = {"text": str, "markdown": Audit.markdown, "html": Audit.html, "json": Audit.json}[form](whole)
    at = [shown.index(line) for line in ("WARNING: rows", *said)]
    later = [shown.index(w) for w in ("All is well", "How it was", "91.2%", '"value": 0.91') if w in shown]
    assert at == sorted(at) and max(at) < min(later)
    assert shown.index("(Inner)") < shown.index("All is well")
    assert Audit.from_dict(json.loads(whole.json())) == whole


@pytest.mark.parametrize(
    ("low", "high", "caution", "tone"),
    [
        (0.4, 0.6, "", "ok"),
        (0.1, 0.3, "", "warn"),
        (0.4, 0.6, "too weak to judge", ""),
        (0.4, 0.6, "rows of the fit?", "warn"),
    ],
)
def test_only_a_plain_success_is_green(low: float, high: float, caution: str, tone: str) -> None:
    f = Finding("accuracy", (low + high) / 2, "linear probe", "after", low, high, chance=0.5, caution=caution)
    row = render(Audit("a", findings=(f,)))["rows"][0]
    assert row["tone"] == tone and (not caution or row["verdict"] == caution)


def test_a_page_of_several_parts_has_a_list_of_them() -> None:
    page = Audit("Whole", parts=(Audit("One", parts=(Audit("Within"),)), Audit("Two"))).html()
    for part, title in (("part-1", "One"), ("part-1.1", "Within"), ("part-2", "Two")):
        assert f'<a href="#{part}">{title}</a>' in page and page.count(f'<section id="{part}">') == 1
    assert "<nav" not in some_audit().html()


def test_pages_have_a_dark_side_and_print_everything() -> None:
    css = some_audit().html().partition("<style>")[2].partition("</style>")[0]
    dark, printed = css.partition("prefers-color-scheme: dark")[2], css.partition("@media print")[2]
    assert "--paper: #16191d" in dark and "--paper: #ffffff" in printed
    assert "details::details-content { content-visibility: visible" in printed


def test_small_print_is_kept_apart() -> None:
    audit = Audit("a", findings=(Finding("x", 1.0), Finding("y", 2.0, detail=True)))
    assert ([r["what"] for r in render(audit)["rows"]], [r["what"] for r in render(audit)["details"]]) == (["x"], ["y"])


def test_json_gives_the_audit_back() -> None:
    assert Audit.from_dict(json.loads(some_audit().json())) == some_audit()


def test_page_fetches_nothing_and_closes_its_tags() -> None:
    page = Page(some_audit().html())
    assert page.addresses and all(a.startswith("data:image/svg+xml;base64,") for a in page.addresses)
    assert not re.search(r"@import|url\(|<script|<link", some_audit().html())


def test_page_holds_the_numbers_of_every_form() -> None:
    page = Page(some_audit().html()).text
    for number in ("91.2%", "51.2%", "46.2% to 56.2%", "0.512 bits", "6.1%", "at chance", "1,234", "Wilson", "2.500"):
        assert number in page
    for number in ("91.2%", "51.2%", "46.2% to 56.2%", "at chance"):
        assert number in some_audit().markdown() and number in str(some_audit())


def test_text_of_an_audit_is_escaped() -> None:
    nasty = "<script>alert('x')</script> & | `code`"
    figure = Figure(nasty, (Series(nasty, (nasty,), (0.5,)),), caption=nasty)
    audit = Audit(nasty, (nasty,), (nasty,), (Finding(nasty, 1.0, note=nasty),), figures=(figure,), caveats=(nasty,))
    page = audit.html()
    assert "<script" not in page and nasty in Page(page).text
    assert "<script" not in audit.markdown().replace("\\<", "")
    assert "\\|" in audit.markdown()


def test_figures_have_words_axes_and_chance() -> None:
    images = Page(some_audit().html()).images
    assert images[0]["alt"] == "Seen: a, after: 25.0%; b, after: 75.0%. Chance: 50.0%."
    assert images[1]["alt"].startswith("Seen. Histograms of after.")
    svg = base64.b64decode(images[0]["src"].partition(",")[2])
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_are_the_same_bytes_again() -> None:
    assert dots(chance=0.5).svg() == dots(chance=0.5).svg()
    assert dots(chance=0.5).svg() != dots(chance=0.4).svg()


def test_chance_may_differ_from_row_to_row() -> None:
    ticks = Series("chance", ("a", "b"), (0.5, 0.1))
    figure = dots()
    assert Figure(figure.title, (*figure.series, ticks)).svg() != Figure(figure.title, figure.series).svg()


def test_unknown_kind_of_figure() -> None:
    with pytest.raises(InputError, match="kind='pie': write one of 'intervals', 'histogram'"):
        dots("pie")
    with pytest.raises(InputError, match="choose one of intervals, histogram"):
        broken().svg()


def broken() -> Figure:
    """A figure of another version, that cannot be drawn."""
    figure = dots()
    object.__setattr__(figure, "kind", "pie")
    return figure


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_file(tmp_path: Path, suffix: str) -> None:
    (path,) = some_audit().save(tmp_path / f"new/report{suffix}")
    assert path == tmp_path / f"new/report{suffix}" and path.stat().st_size > 100
    assert some_audit().save(path) == (path,)


def test_a_folder_gets_page_and_data(tmp_path: Path) -> None:
    paths = some_audit().save(tmp_path / "out")
    assert [p.name for p in paths] == ["report.html", "report.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_a_failed_report_leaves_nothing(tmp_path: Path) -> None:
    audit = Audit("a", figures=(broken(),))
    with pytest.raises(InputError):
        audit.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in one of \.html"):
        some_audit().save(tmp_path / "report.pdf")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        some_audit().save(tmp_path / "notes")


def test_an_empty_audit_is_a_page_too() -> None:
    assert "Nothing yet" in Page(Audit("Nothing yet").html()).text
    assert Audit("Nothing yet").markdown() == "# Nothing yet\n"


def rules(css: str) -> Iterator[str]:
    """Selectors of a style sheet, at any depth of @media."""
    for head in re.findall(r"([^{}]+)\{", css):
        if not head.strip().startswith("@"):
            yield from (selector.strip() for selector in head.split(","))


def test_a_notebook_shows_the_page_in_one_element_that_closes() -> None:
    piece = some_audit()._repr_html_()
    assert piece and piece.startswith('<div class="efface-audit">') and piece.count("<style>") == 1
    whole, shown = Page(some_audit().html()), Page(piece)
    assert [i["src"] for i in shown.images] == [i["src"] for i in whole.images]
    assert "At chance" in shown.text and "51.2%" in shown.text
    assert not re.search(r"<html|<head>|<body|<script|@import|url\(", piece)


def test_styles_of_a_notebook_reach_nothing_outside() -> None:
    piece = some_audit()._repr_html_()
    assert piece
    css = piece.partition("<style>")[2].partition("</style>")[0]
    found = list(rules(css))
    assert len(found) > 60 and found.count(".efface-audit") >= 2
    assert all(selector.split()[0] == ".efface-audit" for selector in found)
    assert not re.search(r":root|\bbody\b", css)
    own = some_audit().html().partition("<style>")[2].partition("</style>")[0]
    assert len(found) == len(list(rules(own))) and css.count("{") == own.count("{") == css.count("}")


def test_a_notebook_without_the_packages_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert some_audit()._repr_html_() is None


def test_a_table_has_a_row_for_each_finding_also_of_parts() -> None:
    frame = some_audit(findings=(Finding.without("x", "not run", "no time"),)).to_frame()
    assert frame["part"].tolist() == ["Whole", *["Whole / Part"] * 5]
    assert frame["value"].notna().tolist() == [False, *[True] * 5]
    assert frame["verdict"].tolist()[:3] == ["not run", "above chance", "at chance"]


@pytest.mark.parametrize("which", [0, "Seen", 1, -1])
def test_a_figure_is_drawn_by_its_place_or_title(which: int | str) -> None:
    (axes,) = some_audit().plot(which).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("share", "rows")
    assert bool(axes.containers) is (which in (0, "Seen"))  # whiskers, or else a histogram


def test_pictures_are_drawn_in_a_row() -> None:
    pixels = np.full((4, 6, 3), 90, np.uint8)
    pictures = (Picture("a", (), pixels, np.ones((4, 6))), Picture("b"))
    drawing = Figure("Row", kind="overlays", pictures=pictures).plot()
    assert [axes.get_title() for axes in drawing.axes] == ["a", "b"]
    assert [len(axes.images) for axes in drawing.axes] == [1, 0]


@pytest.mark.parametrize("which", [2, "Unseen"])
def test_no_such_figure(which: int | str) -> None:
    with pytest.raises(InputError, match="0: 'Seen', 1: 'Seen'"):
        some_audit().plot(which)


@pytest.mark.parametrize("status", ["not run", "not applicable"])
def test_what_is_not_scored_is_said_everywhere_and_is_no_pass(status: Any) -> None:
    missing = Finding.without("accuracy", status, "no gradients", "MLP probe", condition="after", access="gradients")
    audit = Audit("a", findings=(*pair(), missing))
    row = render(audit)["rows"][1]
    assert (row["cells"][1]["value"], row["verdict"], row["tone"]) == (status, status, "")
    assert render(audit)["methods"][2]["made"] == f"{status}: no gradients; access: gradients"
    for form in (Page(audit.html()).text, audit.markdown(), str(audit)):
        assert status in form


def test_what_is_known_of_a_probe_is_in_the_small_print() -> None:
    finding = Finding(
        *("recovered", 0.25),
        **{"probe": "textual inversion", "access": "gradients", "budget": {"steps": 50, "prompts": 3}},
        **{"judge": "resnet", "floor": 0.02, "evidence": ("0123456789abcdef",), "unit": "share"},
    )
    (made,) = (m["made"] for m in render(Audit("a", findings=(finding,)))["methods"])
    assert made == (
        "no interval; probe: textual inversion; access: gradients; budget: 50 steps, 3 prompts; judge: resnet; "
        "floor: 2.0%; evidence: 0123456789ab…"
    )


def test_provenance_is_in_every_form_and_said_once() -> None:
    origin = {"efface": "0.1.0", "date": "2026-01-02T03:04:05Z", "libraries": {"torch": "2.6"}}
    data = [{"name": "x", "sha256": "f" * 64}]
    part = Audit("Part", provenance={**origin, "date": "2026-01-02T03:04:06Z", "data": data})
    audit = Audit("Whole", parts=(part,), provenance=origin)
    assert render(audit)["provenance"] == {**origin, "libraries": "torch 2.6"}
    assert render(audit)["parts"][0]["provenance"] == {"data": f"x (sha256 {'f' * 12}…)"}
    page = audit.html()
    for form in (page, audit.markdown(), audit._repr_html_() or ""):
        assert form.count("2026-01-02T03:04:05Z") == 1 and "torch 2.6" in form and "ffffffffffff…" in form
    # Browsers print what is folded up only if it was opened.
    assert "2026-01-02" not in "".join(re.findall(r"<details>.*?</details>", page, re.S))
    assert json.loads(audit.json())["provenance"] == origin
