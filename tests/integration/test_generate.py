"""`efface generate` and the one-call API on a tiny pipeline: what is drawn, what is written, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView
from efface.cli import main
from efface.cli.generate import write_picture
from efface.core.installer import handles_on
from efface_worlds import emoji
from efface_worlds.shapes import generate as draw
from efface_worlds.shapes import load_shapes_pipeline
from tests.emoji_world import tiny_emoji
from tests.pipelines import build, small, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pipeline")
    build("sd1").save_pretrained(path)
    return str(path)


def generate(*arguments: str) -> int:
    return main(["generate", *arguments])


def pixels(path: Path, row: int, column: int) -> np.ndarray:
    """One picture of the sheet; 32 pixels are enlarged four times."""
    top, left = row * (128 + 4 + 16) + 4 + 16, column * (128 + 4) + 4
    with Image.open(path) as sheet:
        return np.asarray(sheet)[top : top + 128 : 4, left : left + 128 : 4].astype(float)


def test_rows_are_prompts_and_columns_seeds(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "grid.png"
    prompts = ["a red circle", "a blue star"]
    given = [f"--prompt={prompt}" for prompt in prompts]
    assert generate(folder, *given, "--seeds", "2", "--steps", "2", "--guidance", "3", "-o", str(out)) == 0
    assert capsys.readouterr().out.strip() == str(out)
    for row, prompt in enumerate(prompts):
        images = PipelineView.of(tiny("sd1")).sample([prompt] * 2, [0, 1], steps=2, guidance=3.0)
        for column, image in enumerate(images):
            expected = (image.permute(1, 2, 0).numpy() * 255).round()
            assert np.abs(pixels(out, row, column) - expected).max() <= 1


def test_an_erasure_has_a_row_of_its_own(folder: str, tmp_path: Path) -> None:
    plain, both, saved = (tmp_path / f"{name}.png" for name in ("plain", "both", "saved"))
    given = [folder, "--prompt", "a red circle", "--seeds", "1", "--steps", "2", "--guidance", "3"]
    assert generate(*given, "-o", str(plain)) == 0
    assert generate(*given, "--erase", "circle", "--method", "negative-prompt", "-o", str(both)) == 0
    assert (pixels(both, 0, 0) == pixels(plain, 0, 0)).all()
    assert (pixels(both, 1, 0) != pixels(plain, 0, 0)).any()
    efface.erase(tiny("sd1"), "circle", method="negative-prompt").save(tmp_path / "erasure")
    assert generate(*given, "--with", str(tmp_path / "erasure"), "-o", str(saved)) == 0
    assert saved.read_bytes() == both.read_bytes()


def test_the_pipeline_that_comes_with_efface(tmp_path: Path) -> None:
    prompt, out = "a red flat circle on a white background", tmp_path / "a.png"
    assert generate("shapes", "--prompt", prompt, "--seeds", "1", "-o", str(out)) == 0
    image = draw(load_shapes_pipeline(), [prompt])[0]
    assert np.abs(pixels(out, 0, 0) - (image.permute(1, 2, 0).numpy() * 255).round()).max() <= 1


class TestWorlds:
    """Pipelines by name, and what a world says where the user does not."""

    @pytest.fixture(autouse=True)
    def untrained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "efface_worlds.emoji.load_emoji_pipeline", lambda *given, **more: tiny_emoji(), raising=False
        )

    @staticmethod
    def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> Concept:
        """The concept that `efface generate emoji` erases."""
        seen: list[Concept] = []

        def fit(view: Any, concept: Concept, **options: Any) -> Any:
            seen.append(concept)
            return efface.erase(view, concept.name, method="negative-prompt")

        monkeypatch.setattr("efface.cli.erasing.erase", fit)
        given = ["--prompt", "a cat", "--seeds", "1", "--steps", "1", "-o", str(tmp_path / "a.png"), *arguments]
        assert generate("emoji", *given) == 0
        return seen[0]

    def test_a_pipeline_by_name(self, tmp_path: Path) -> None:
        out = tmp_path / "a.png"
        assert generate("emoji", "--prompt", "a cat", "--seeds", "1", "-o", str(out)) == 0
        image = emoji.generate(tiny_emoji(), ["a cat"])[0]
        with Image.open(out) as sheet:
            top, left = 4 + 16, 4
            found = np.asarray(sheet)[top : top + 144 : 3, left : left + 144 : 3].astype(float)
        assert np.abs(found - (image.permute(1, 2, 0).numpy() * 255).round()).max() <= 1

    def test_siblings_are_preserved(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked = ("--erase", "cat", "--method", "semantic-surgery")
        assert self.fitted(monkeypatch, tmp_path, *asked).preserve == emoji.siblings("cat")
        without = self.fitted(monkeypatch, tmp_path, *asked, "--synonym", "lion", "--force").preserve
        assert set(emoji.siblings("cat")) - set(without) == {"lion"}
        assert self.fitted(monkeypatch, tmp_path, *asked, "--preserve", "owl", "--force").preserve == ("owl",)
        assert self.fitted(monkeypatch, tmp_path, *asked, "--anchor", "dog", "--force").preserve == ()

    def test_methods_that_do_not_read_them_are_not_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert self.fitted(monkeypatch, tmp_path, "--erase", "cat", "--method", "sld").preserve == ()

    @pytest.mark.filterwarnings("default")
    def test_a_word_that_nothing_is_called(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["emoji", "--prompt", "a cat", "--erase", "girafe", "-o", str(tmp_path / "a.png"), "--method"]
        assert generate(*given, "semantic-surgery") == 2
        said = capsys.readouterr().err
        assert "did you mean 'giraffe'" in said
        assert "--preserve WORD" in said
        assert self.fitted(monkeypatch, tmp_path, "--erase", "girafe", "--method", "sld").name == "girafe"
        assert "did you mean 'giraffe'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "-o", "a.png"], "no folder with a model_index.json"),
        (["emojis", "-o", "a.png"], "(did you mean 'emoji'?): worlds with a pipeline are shapes, emoji"),
        (["digits", "-o", "a.png"], "a world of another kind (digits with"),
        (["nowhere", "-o", "a.gif"], ".png, .jpg"),
        (["nowhere", "-o", "a.png", "--seeds", "0"], "--seeds 0: write at least 1"),
        (["nowhere", "-o", "a.png", "--erase", "circle"], "--erase needs --method: one of adavd, adv-unlearn, cgce, "),
        (["nowhere", "-o", "a.png", "--method", "uce"], "--method goes with --erase"),
        (["nowhere", "-o", "a.png", "--erase", "c", "--with", "d"], "give one of the two"),
    ],
)
def test_what_cannot_be_drawn(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(*arguments, "--prompt", "a circle") == 2
    assert says in capsys.readouterr().err
    assert not Path("a.png").exists()


def test_a_picture_of_unequal_rows(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", [("one", torch.zeros(1, 3, 200, 300)), ("three", torch.ones(3, 3, 200, 300))])
    with Image.open(tmp_path / "a.jpg") as sheet:
        assert sheet.size == (3 * 304 + 4, 2 * 220 + 4)


# ------------------------------------------------------------------------------------------------------- in one call


def bright(images: Tensor, concept: str) -> Tensor:
    """A judge of nothing in particular."""
    return images.mean((1, 2, 3)) > {"circle": 0.5, "star": 0.45}[concept]


def audited(**changes: Any) -> Any:
    spec = Concept("circle", preserve=["star"], templates=["a {}", "a photo of a {}"])
    options: dict[str, Any] = {"judge": bright, "seeds": 3, "steps": 2, "guidance": 3.0, **small("sd1")}
    return efface.audit.pipeline(tiny("sd1"), changes.pop("concept", spec), **options | changes)


def test_an_audit_counts_what_the_judge_sees() -> None:
    audit = audited()
    images = PipelineView.of(tiny("sd1")).sample(
        ["a circle"] * 3 + ["a photo of a circle"] * 3, [0, 1, 2] * 2, steps=2, guidance=3.0, **small("sd1")
    )
    found = audit.find("seen by the judge", "circle", "before")
    assert found.value == pytest.approx(float(bright(images, "circle").float().mean())) and found.n == 6
    assert audit.find("seen by the judge", "star", "before").n == 6


def test_an_audit_before_and_after_an_erasure_leaves_the_pipeline_alone() -> None:
    erasure = efface.erase(tiny("sd1"), "circle", method="negative-prompt")
    audit = audited(erasure=erasure)
    assert audit.find("images of other prompts", "pixels moved", "change").value > 0
    assert audit.find("seen by the judge", "circle", "before") == audited().find(
        "seen by the judge", "circle", "before"
    )
    assert handles_on(tiny("sd1")) == ()


def test_of_films_the_middle_frame_is_judged() -> None:
    shapes: list[tuple[int, ...]] = []

    def judge(images: Tensor, concept: str) -> Sequence[bool]:
        shapes.append(tuple(images.shape))
        return [True] * len(images)

    spec = Concept("circle", templates=["a {}"])
    efface.audit.pipeline(tiny("wan"), spec, judge=judge, seeds=1, steps=2, **small("wan"))
    assert shapes == [(1, 3, 32, 32)]


def test_others_must_be_a_list() -> None:
    with pytest.raises(InputError, match="others=\\['star'\\]"):
        audited(others="star")
    assert audited(others=["star"]).find("seen by the judge", "star", "before").n == 6
