"""Reports: the same numbers in every form, escaped, self-contained, written whole or not at all."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from efface import InputError
from efface.audit import Audit, Figure, Finding, Series, Table
from efface.report import FORMATS, render, save, to_html, to_json, to_markdown, to_text, write_report
from efface.report.figures import to_svg

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


def test_small_print_is_kept_apart() -> None:
    audit = Audit("a", findings=(Finding("x", 1.0), Finding("y", 2.0, detail=True)))
    assert ([r["what"] for r in render(audit)["rows"]], [r["what"] for r in render(audit)["details"]]) == (["x"], ["y"])


def test_json_gives_the_audit_back() -> None:
    assert Audit.from_dict(json.loads(to_json(some_audit()))) == some_audit()


def test_page_fetches_nothing_and_closes_its_tags() -> None:
    page = Page(to_html(some_audit()))
    assert page.addresses and all(a.startswith("data:image/svg+xml;base64,") for a in page.addresses)
    assert not re.search(r"@import|url\(|<script|<link", to_html(some_audit()))


def test_page_holds_the_numbers_of_every_form() -> None:
    page = Page(to_html(some_audit())).text
    for number in ("91.2%", "51.2%", "46.2% to 56.2%", "0.512 bits", "6.1%", "at chance", "1,234", "Wilson", "2.500"):
        assert number in page
    for number in ("91.2%", "51.2%", "46.2% to 56.2%", "at chance"):
        assert number in to_markdown(some_audit()) and number in to_text(some_audit())


def test_text_of_an_audit_is_escaped() -> None:
    nasty = "<script>alert('x')</script> & | `code`"
    figure = Figure(nasty, (Series(nasty, (nasty,), (0.5,)),), caption=nasty)
    audit = Audit(nasty, (nasty,), (nasty,), (Finding(nasty, 1.0, note=nasty),), figures=(figure,), caveats=(nasty,))
    page = to_html(audit)
    assert "<script" not in page and nasty in Page(page).text
    assert "<script" not in to_markdown(audit).replace("\\<", "")
    assert "\\|" in to_markdown(audit)


def test_figures_have_words_axes_and_chance() -> None:
    images = Page(to_html(some_audit())).images
    assert images[0]["alt"] == "Seen: a, after: 25.0%; b, after: 75.0%. Chance: 50.0%."
    assert images[1]["alt"].startswith("Seen. Histograms of after.")
    svg = base64.b64decode(images[0]["src"].partition(",")[2])
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_are_the_same_bytes_again() -> None:
    assert to_svg(dots(chance=0.5)) == to_svg(dots(chance=0.5))
    assert to_svg(dots(chance=0.5)) != to_svg(dots(chance=0.4))


def test_chance_may_differ_from_row_to_row() -> None:
    ticks = Series("chance", ("a", "b"), (0.5, 0.1))
    figure = dots()
    assert to_svg(Figure(figure.title, (*figure.series, ticks))) != to_svg(Figure(figure.title, figure.series))


def test_unknown_kind_of_figure() -> None:
    with pytest.raises(InputError, match="choose one of intervals, histogram"):
        to_svg(dots("pie"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_file(tmp_path: Path, suffix: str) -> None:
    path = write_report(some_audit(), tmp_path / f"new/report{suffix}")
    assert path.stat().st_size > 100
    assert save(some_audit(), path) == (path,)


def test_a_folder_gets_page_and_data(tmp_path: Path) -> None:
    paths = save(some_audit(), tmp_path / "out")
    assert [p.name for p in paths] == ["report.html", "report.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_a_failed_report_leaves_nothing(tmp_path: Path) -> None:
    broken = Audit("a", figures=(dots("pie"),))
    with pytest.raises(InputError):
        save(broken, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in one of \.html"):
        write_report(some_audit(), tmp_path / "report.pdf")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        save(some_audit(), tmp_path / "notes")


def test_an_empty_audit_is_a_page_too() -> None:
    assert "Nothing yet" in Page(to_html(Audit("Nothing yet"))).text
    assert to_markdown(Audit("Nothing yet")) == "# Nothing yet\n"
