"""Overlays: pictures with maps over them, in pages and out of JSON."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from efface import InputError
from efface.audit import Audit, Figure
from efface.audit.picture import Picture
from efface.report.overlays import legend, overlay, panels, sets


def grey(value: int = 200, height: int = 4, width: int = 6) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def ramp(height: int = 4, width: int = 6) -> Any:
    return np.linspace(0, 1, width)[None].repeat(height, 0)


def some_audit(**more: Any) -> Audit:
    pictures = (Picture("picture", ("says cat, 90%",), grey()), Picture("qfa", ("keeps 12% of it",), grey(), ramp()))
    return Audit("Cats", figures=(Figure("a/cat <1>.png", kind="overlays", pictures=pictures, **more),))


def read(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_nothing_important_is_the_dark_grey_picture_and_all_important_is_the_colour() -> None:
    colourful = grey()
    colourful[..., 0] = 40
    none = overlay(colourful, np.zeros((4, 6)))
    assert (none.max(-1) == none.min(-1)).all() and none.max() < 0.5 * colourful.max()
    whole = overlay(colourful, np.ones((4, 6))).reshape(-1, 3).astype(int)
    # The last colour of viridis is (253, 231, 37).
    assert (np.abs(whole - np.array([253, 231, 37])).max(-1) < 45).all()


def test_more_important_is_lighter_over_every_ground() -> None:
    for value in (0, 128, 255):
        light = overlay(grey(value, 1, 32), np.linspace(0.25, 1, 32)[None]) @ np.array([0.299, 0.587, 0.114])
        assert (np.diff(light[0]) > -1).all() and light[0, -1] > light[0, 0] + 40


def test_small_pictures_are_enlarged_pixel_by_pixel() -> None:
    pixels = grey()
    pixels[1, 2] = (10, 20, 30)
    drawn = read(Picture("a", (), pixels).png())
    factor = drawn.shape[0] // 4
    assert drawn.shape == (4 * factor, 6 * factor, 3) and max(drawn.shape) >= 256
    assert (drawn[::factor, ::factor] == pixels).all() and (drawn[factor - 1 :: factor, ::factor] == pixels).all()


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert Picture("a", (), grey(), ramp()).png() == Picture("b", (), grey(), ramp()).png()
    assert Picture("a", (), grey(), ramp()).png() != Picture("a", (), grey(), 1 - ramp()).png()


def test_a_page_has_each_picture_with_its_words_and_one_legend() -> None:
    page = some_audit().html()
    images = [part.partition('"')[0] for part in page.split('<img src="')[1:]]
    assert len(images) == 3 and images[0] == legend() and images[1] != images[2]
    assert all(base64.b64decode(address.partition(",")[2]).startswith(b"\x89PNG") for address in images)
    for words in ("says cat, 90%", "keeps 12% of it", "a/cat &lt;1&gt;.png"):
        assert words in page
    assert "legend" not in Audit("no pictures").html().partition("<body>")[2]


def test_json_has_the_words_and_no_pixels() -> None:
    text = some_audit().json()
    assert len(text) < 2000 and Audit.from_dict(json.loads(text)) == some_audit()
    again = Audit.from_dict(json.loads(text))
    page = again.html()
    assert "keeps 12% of it" in page and page.count("<img") == 0
    with pytest.raises(InputError, match="no pixels"):
        again.figures[0].pictures[1].png()


def test_markdown_says_what_is_seen() -> None:
    assert "picture: says cat, 90%. qfa: keeps 12% of it." in some_audit().markdown()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pixels": grey().astype(float)}, "expected uint8"),
        ({"pixels": grey()[..., 0]}, "expected uint8"),
        ({"pixels": grey(), "heat": ramp(3)}, "expected that of the pixels"),
        ({"heat": ramp()}, "expected that of the pixels"),
        ({"pixels": grey(), "heat": 2 * ramp()}, "outside"),
        ({"pixels": grey(), "heat": ramp() * np.nan}, "outside"),
    ],
)
def test_what_is_no_picture(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Picture("qfa", (), **given)


def test_pictures_are_no_drawing_and_drawings_no_pictures() -> None:
    with pytest.raises(InputError, match="row of pictures"):
        some_audit().figures[0].svg()
    with pytest.raises(InputError, match="only overlays"):
        panels(cast(Any, Figure("a").to_dict()))


def test_pictures_that_belong_together_are_not_parted() -> None:
    shown = [{"title": title} for title in ("base", "erased", "gold") * 2]
    assert [len(each) for each in sets(shown)] == [3, 3]
    assert [len(each) for each in sets(shown[:5])] == [1] * 5
    assert [len(each) for each in sets(shown[:3])] == [1] * 3
    assert sets([]) == []
