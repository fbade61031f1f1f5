"""Figures of audits by site: lines with bands, names that can be read, words for those who do not see them."""

from __future__ import annotations

import re
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import efface.audit
from efface.audit import Audit, Figure, Finding, Series
from efface.report import render
from efface.report.lines import draw_lines
from efface.report.ticks import site_ticks

BLOCKS = [f"model.layers.{i}.{part}" for i in range(32) for part in ("input_layernorm", "post_attention_layernorm")]


def lines(names: list[Any], **more: Any) -> Figure:
    y = np.linspace(0.5, 0.9, len(names))
    series = Series("before", tuple(names), tuple(y), tuple(y - 0.1), tuple(y + 0.1))
    return Figure("Seen", (series,), "lines", "site", "share", **{"unit": "share", "chance": 0.3, **more})


def as_data(audit: Audit) -> Any:
    return audit.to_dict()


def drawn(figure: Figure) -> Any:
    """The axes, as matplotlib lays them out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(5.2, 3.2), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    draw_lines(axes, cast(Any, figure.to_dict()))
    drawing.canvas.draw()
    return axes


def boxes(axes: Any) -> list[Any]:
    return [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]


class TestTicks:
    @pytest.mark.parametrize(
        "names",
        [
            [*BLOCKS[:12], "model.norm"],
            [*BLOCKS, "model.norm"],
            ["gpt_neox.embed_in", *BLOCKS, "gpt_neox.final_layer_norm"],
            [f"h.{i}" for i in range(120)],
            [f"encoder.{a}.{b}_projection" for a in ("text", "image", "audio") for b in ("key", "query", "value")],
            [f"odd{i}x.conv_with_a_long_name" for i in range(65)],
            ["text.key", "text.query"],
            ["only.0"],
        ],
        ids=["13", "65", "66", "120", "words", "odd", "two", "one"],
    )
    def test_labels_do_not_touch_and_stay_on_the_figure(self, names: list[str]) -> None:
        axes = drawn(lines(names))
        found = boxes(axes)
        assert found and all(a.x1 < b.x0 for a, b in zip(found, found[1:], strict=False))
        whole = axes.get_figure().bbox
        assert found[0].x0 >= whole.x0 and found[-1].x1 <= whole.x1

    def test_blocks_are_numbered_at_their_first_site(self) -> None:
        ticks = site_ticks([*BLOCKS[:6], "model.norm"])
        assert dict(zip(ticks.positions, ticks.labels, strict=True)) == {0: "0", 2: "1", 4: "2", 6: "norm"}
        assert ticks.blocks and not ticks.upright

    def test_many_blocks_are_thinned_evenly(self) -> None:
        numbers = [int(label) for label in site_ticks(BLOCKS).labels]
        assert len(set(np.diff(numbers))) == 1 and 5 <= len(numbers) <= 20

    def test_names_without_blocks_lose_what_they_share(self) -> None:
        assert site_ticks(["a.b.key", "a.b.query"]).labels == ("key", "query")
        assert site_ticks(["same", "same.more"]).labels == ("same", "same.more")

    @given(st.lists(st.from_regex(r"\A[a-z]{1,12}(\.[a-z0-9_]{1,30}){0,4}\Z"), min_size=1, max_size=80, unique=True))
    def test_any_names_will_do(self, names: list[str]) -> None:
        ticks = site_ticks(names)
        assert ticks.count == len(names) and 1 <= len(ticks.labels) == len(ticks.positions) <= len(names)
        assert list(ticks.positions) == sorted(set(ticks.positions)) and max(ticks.positions) < len(names)
        assert max(map(len, ticks.labels)) <= 22


class TestDrawing:
    def test_lines_bands_and_chance_stand_where_the_data_say(self) -> None:
        axes = drawn(lines(["a.0", "a.1", "a.2"]))
        line, chance = axes.get_lines()
        np.testing.assert_allclose(line.get_xydata(), [[0, 0.5], [1, 0.7], [2, 0.9]])
        assert set(chance.get_ydata()) == {0.3}
        band = axes.collections[0].get_paths()[0].get_extents()
        np.testing.assert_allclose([band.y0, band.y1], [0.4, 1.0])
        assert axes.get_ylim()[0] <= 0.0 and axes.get_ylim()[1] >= 1.0

    def test_one_site_keeps_its_interval(self) -> None:
        (segment,) = drawn(lines(["a.0"])).collections[0].get_segments()
        np.testing.assert_allclose(segment, [[0, 0.4], [0, 0.6]])

    def test_numbers_stand_at_their_place(self) -> None:
        figure = lines([1000, 2000, 64000], unit="MiB", chance=None)
        assert drawn(figure).get_lines()[0].get_xdata().tolist() == [1000, 2000, 64000]
        tokens = tuple(np.array([1000, 2000]))
        assert drawn(Figure("m", (Series("a", tokens, (1.0, 2.0)),), "lines")).get_lines()[0].get_xdata()[1] == 2000

    @pytest.mark.parametrize("from_zero", [False, True])
    def test_the_axis_begins_at_zero_if_asked(self, from_zero: bool) -> None:
        series = Series("a", (1, 2), (100.0, 101.0))
        bottom = drawn(Figure("m", (series,), "lines", unit="MiB", from_zero=from_zero)).get_ylim()[0]
        assert bool(bottom == 0.0) is from_zero

    def test_legend_is_above_the_data(self) -> None:
        axes = drawn(lines(["a.0", "a.1"]))
        assert axes.figure.legends[0].get_window_extent().y0 >= axes.get_window_extent().y1 - 1
        assert {t.get_text() for t in axes.figure.legends[0].get_texts()} == {"before", "chance"}

    def test_the_line_of_reference_has_its_name(self) -> None:
        axes = drawn(lines(["a.0", "a.1"], reference="unscrubbed"))
        assert {t.get_text() for t in axes.figure.legends[0].get_texts()} == {"before", "unscrubbed"}

    def test_upright_names_make_the_figure_taller_not_the_axes_flat(self) -> None:
        plain, upright = (_height(lines(n).svg()) for n in (["a.0", "a.1"], [f"odd{i}x.long_name" for i in range(40)]))
        assert upright > plain + 40
        assert lines(["a.0"]).svg() == lines(["a.0"]).svg()


def _height(svg: str) -> float:
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    match = re.search(r'height="([\d.]+)pt"', svg)
    assert match
    return float(match[1])


class TestPage:
    def test_an_audit_by_site_shows_its_figures_and_numbers_everywhere(self) -> None:
        rng = np.random.default_rng(0)
        z = rng.integers(0, 2, 100)
        x = {f"h.{i}": rng.normal(size=(100, 3)) + 3 * z[:, None] for i in range(2)}
        audit = efface.audit.sites(x, {site: 0 * rows for site, rows in x.items()}, z, control=np.arange(100) % 20)
        assert [s.label for s in audit.figures[0].series] == ["before", "after", "control task", "control task, after"]
        page = audit.html()
        assert page.count("data:image/svg+xml") == 1 and "linear probe: h.1" in page and "selectivity: h.1" in page
        alt = render(as_data(audit))["figures"][0]["alt"]
        assert "before: from " in alt and "at h.0" in alt and "Chance: " in alt and alt in audit.markdown()

    def test_losses_show_their_figures_and_say_a_long_unit_once_a_row(self) -> None:
        plain = np.arange(10.0)
        sites = {"leace": {"h.0": plain + 1.5}, "random": {"h.0": plain}}
        audit = efface.audit.losses(plain, sites, {"leace": plain + 2}, unit="bits per byte")
        assert audit.html().count("data:image/svg+xml") == 2
        row = render(as_data(audit))["parts"][1]["rows"][0]
        assert row["what"] == "leace: h.0, bits per byte"
        assert [c["value"] for c in row["cells"]] == ["1.500", "0.000", "1.500"]
        assert "chance" not in audit.markdown() and ">Chance<" not in audit.html()
        assert "Unscrubbed: 0.000 bits per byte" in audit.markdown()

    def test_alt_text_of_a_line_gives_its_course(self) -> None:
        series = Series("leace", ("a", "b", "c"), (0.2, 0.9, 0.4))
        cost = Figure("Cost", (series,), "lines", unit="bits")
        alt = render(as_data(Audit("x", figures=(cost,))))["figures"][0]["alt"]
        assert alt == (
            "Cost. leace: from 0.200 bits at a, to 0.400 bits at c, lowest 0.200 bits at a, highest 0.900 bits at b."
        )

    @pytest.mark.parametrize("rows", [3, 13])
    def test_figures_go_before_many_numbers(self, rows: int) -> None:
        findings = tuple(Finding(f"h.{i}", 0.5, "linear probe") for i in range(rows))
        page = Audit("x", findings=findings, figures=(lines(["h.0", "h.1"]),)).html()
        assert (page.index('<div class="figures">') < page.index('<table class="numbers"')) is (rows > 10)
        assert page.count('<div class="figures">') == 1
