"""`efface erase`, `efface generate --with` and `efface export`: what is written, what it does, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

import efface
from efface import Concept, PipelineView
from efface.cli import main
from efface.core.method import get_method
from efface.core.weights import Add
from efface.diffusion import WeightErasure, select_anchors, select_for_each
from efface.diffusion.anchors import wordnet
from efface.diffusion.weights.erasure import delta_of
from efface_worlds.shapes import load_shapes_pipeline
from tests.cases import QUICK
from tests.integration.test_cli import fails
from tests.pipelines import build, tiny

DRAWN = ["--prompt", "a red star on a white background", "--seeds", "1", "--steps", "2"]
UCE = ["erase", "shapes", "--concept", "star", "--method", "uce", "-o", "erasure"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def loaded_once(shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The world's pipeline, which no command changes."""
    monkeypatch.setattr("efface_worlds.shapes.load_shapes_pipeline", lambda *given, **more: shapes, raising=False)


@pytest.fixture(scope="module")
def shapes() -> Any:
    return load_shapes_pipeline()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pipeline")
    build("sd1").save_pretrained(path)
    return str(path)


def same_weights(a: Any, b: Any) -> bool:
    theirs = dict(b.named_parameters())
    return all(torch.equal(value, theirs[name]) for name, value in a.named_parameters())


# What is saved


def test_what_is_saved_is_what_the_call_gives(shapes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--anchor", "circle", "--preserve", "ring", "--synonym", "sparkle", "--template", "a {}"]
    argv = [*UCE, *given, "--set", "key_span=last", "--set", "in_templates=true"]
    assert main(argv) == 0
    assert "erasure saved in erasure" in capsys.readouterr().out
    concept = Concept("star", synonyms=["sparkle"], anchor="circle", preserve=["ring"], templates=["a {}"])
    saved = efface.load("erasure")
    assert saved == efface.erase(shapes, concept, "uce", key_span="last", in_templates=True)
    assert saved.provenance["call"] == "efface " + " ".join(argv).replace("a {}", "'a {}'")


@pytest.mark.parametrize("method", [method.name for method in efface.methods("pipeline")])
@pytest.mark.filterwarnings("default")
def test_every_method_is_saved_and_put_on(tiny_folder: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"seed": 3} if method == "cgce" else {}
    given = [f"--set={name}={value}" for name, value in (options | QUICK.get(method, {})).items()]
    words = [f"--preserve={word}" for word in ("square", "star", "ring")] + ["--template={}", "--template=a {}"]
    pipe = build("sd1")
    monkeypatch.setattr("efface.cli.pipelines._load_pipeline", lambda folder: pipe)
    assert main(["erase", tiny_folder, "--concept", "circle", "--method", method, *words, *given, "-o", "e"]) == 0
    assert efface.load("e").method == method
    drawn = ["--prompt", "a red circle", "--seeds", "1", "--steps", "1", "--guidance", "3", "-o", "a.png"]
    assert main(["generate", tiny_folder, "--with", "e", *drawn]) == 0
    assert Path("a.png").is_file()


def test_several_concepts_at_once(shapes: Any) -> None:
    assert main([*UCE, "--concept", "heart", "--anchor", "circle", "--preserve", "ring"]) == 0
    concepts = [Concept(name, anchor="circle", preserve=["ring"]) for name in ("star", "heart")]
    assert efface.load("erasure") == efface.erase(shapes, concepts, "uce")


def test_siblings_are_preserved_where_nobody_says_what() -> None:
    assert main(UCE) == 0
    assert efface.load("erasure").concepts == (Concept("star", preserve=["triangle"]),)


def test_a_tuned_method_goes_on_from_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*UCE, "--checkpoint", "state"]
    assert "--checkpoint: uce is not tuned and keeps no state; those that do are adv-unlearn, concept-abl" in fails(
        capsys, *argv
    )
    seen: dict[str, Any] = {}

    def fit(view: Any, concepts: Any, config: Any, *, checkpoint: Any = None) -> Any:
        seen["checkpoint"] = checkpoint
        raise KeyboardInterrupt

    method = get_method("esd", "pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(method), "fit", fit)
        assert main(["esd" if word == "uce" else word for word in argv]) == 130
    assert seen == {"checkpoint": "state"} and not Path("erasure").exists()


# Anchors


def test_an_anchor_is_chosen_of_siblings_and_said(shapes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["erase", "shapes", "--concept", "circle", "--method", "uce", "--anchor", "select", "-o", "erasure"]
    assert main(argv) == 0
    anchors = select_anchors(shapes, "circle", ["ellipse", "ring"])
    assert str(anchors) in capsys.readouterr().out
    saved = efface.load("erasure")
    assert saved.concepts == (anchors.fill("circle"),)
    assert saved.provenance["anchors"]["circle"]["how"] == anchors.how


def test_candidates_of_ones_own(shapes: Any) -> None:
    words = ["cross", "heart", "square", "ring"]
    given = ["--anchor", "select", "--candidates", ", ".join(words), "--preserve", "ring"]
    assert main([*UCE, *given]) == 0
    star = Concept("star", preserve=["ring"])
    assert efface.load("erasure").concepts == (select_anchors(shapes, star, words).fill(star),)


def test_candidates_from_the_vocabulary(shapes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*UCE, "--anchor", "select", "--candidates", "vocabulary"]) == 0
    said = capsys.readouterr().out
    anchors = select_anchors(shapes, "star", "vocabulary")
    assert f"star -> {anchors.anchor!r}; boundary: {', '.join(anchors.boundary)}" in said
    assert "more candidates, neither anchor nor boundary" in said and len(said.splitlines()) < 20


def test_anchors_of_several_go_together(shapes: Any) -> None:
    """The anchor of one is not preserved by another, which erasers of weights refuse."""
    argv = [*UCE, "--concept", "heart", "--concept", "ring", "--anchor", "select"]
    assert main(argv) == 0
    concepts = efface.load("erasure").concepts
    anchors = {concept.anchor for concept in concepts}
    assert None not in anchors and not anchors & {word for concept in concepts for word in concept.preserve}
    words = ["circle", "square", "diamond", "ellipse", "cross"]
    chosen = select_for_each(shapes, ["heart", "ring"], words)
    assert not {each.anchor for each in chosen} & {word for each in chosen for word in each.boundary}
    efface.erase(shapes, [each.fill(each.concept) for each in chosen], "uce")


def test_generate_chooses_too(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "shapes", *DRAWN, "--erase", "star", "--method", "uce", "--anchor", "select", "-o", "a.png"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "star -> 'triangle'" in said.err and said.out == "a.png\n"


def test_without_wordnet_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wordnet, "DEBIAN", Path("nowhere"))
    monkeypatch.setattr(wordnet, "_named_places", list)
    monkeypatch.setattr(wordnet, "_places_of_nltk", list)
    said = fails(capsys, *UCE, "--anchor", "select", "--candidates", "wordnet")
    assert "pip install 'efface[anchors]'" in said and "--candidates word,word" in said and "=[" not in said
    assert not Path("erasure").exists()


# What is put on


def test_what_was_saved_is_drawn_with(shapes: Any) -> None:
    assert main(UCE) == 0
    assert main(["generate", "shapes", "--with", "erasure", *DRAWN, "-o", "a.png"]) == 0
    assert main(["generate", "shapes", "--erase", "star", "--method", "uce", *DRAWN, "-o", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_several_are_put_on_together(shapes: Any) -> None:
    assert main(UCE) == 0
    heart = ["erase", "shapes", "--concept", "heart", "--method", "semantic-surgery", "-o", "heart"]
    assert main(heart) == 0
    assert main(["generate", "shapes", "--with", "erasure", "--with", "heart", *DRAWN, "-o", "a.png"]) == 0
    with (efface.load("erasure") & efface.load("heart")).on(shapes):
        image = PipelineView.of(shapes).sample([DRAWN[1]], [0], steps=2, guidance=_guidance())[0]
    with Image.open("a.png") as sheet:
        found = np.asarray(sheet)[168 : 168 + 128 : 4, 4 : 4 + 128 : 4].astype(float)
    assert np.abs(found - (image.permute(1, 2, 0).numpy() * 255).round()).max() <= 1


def _guidance() -> float:
    from efface_worlds.registry import WORLDS

    return WORLDS["shapes"].sampling["guidance"]  # type: ignore[union-attr]


def test_another_base_is_refused_before_anything_is_drawn(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("efface.cli.pipelines._load_pipeline", lambda folder: tiny("sd1"))
    for method in ("uce", "semantic-surgery"):
        argv = ["erase", "shapes", "--concept", "star", "--method", method, "-o", method]
        assert main(argv) == 0
        monkeypatch.setattr(PipelineView, "sample", None)
        said = fails(capsys, "generate", tiny_folder, "--with", method, *DRAWN, "-o", "a.png")
        assert "on this one" in said and "check=False" not in said
    said = fails(capsys, "export", "uce", tiny_folder, "--lora", "lora")
    assert "on this one" in said and "check=False" not in said
    assert not Path("a.png").exists() and not Path("lora").exists()


# What is exported


def test_a_lora_is_exported(shapes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(UCE) == 0
    assert main(["export", "erasure", "shapes", "--lora", "lora"]) == 0
    assert "LoRA of rank" in capsys.readouterr().out
    efface.diffusion.save_lora(efface.load("erasure"), shapes, "expected")
    name = "pytorch_lora_weights.safetensors"
    assert Path("lora", name).read_bytes() == Path("expected", name).read_bytes()
    assert main(["export", "erasure", "shapes", "--lora", "lora", "--rank", "1", "--force"]) == 0
    said = capsys.readouterr().out
    assert "rank 1" in said and "energy" in said


def test_a_pipeline_is_exported(shapes: Any) -> None:
    assert main(UCE) == 0
    assert main(["export", "erasure", "shapes", "--pipeline", "whole"]) == 0
    plain = DiffusionPipeline.from_pretrained("whole", local_files_only=True)
    assert not same_weights(plain.unet, shapes.unet)
    with efface.load("erasure").on(shapes):
        assert same_weights(plain.unet, shapes.unet)
    assert main(["generate", "whole", *DRAWN, "-o", "a.png"]) == 0


def test_what_no_lora_holds_is_said_in_words_of_the_shell(shapes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = "conv_in.weight"
    delta = delta_of(shapes.unet, {kernel: Add(torch.ones_like(shapes.unet.get_parameter(kernel)))})
    WeightErasure({"unet": delta}, method="uce").save("erasure")
    assert "write --pipeline DIR" in fails(capsys, "export", "erasure", "shapes", "--lora", "lora")


# What is refused


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--anchor", "star"], "the anchor 'star' is what is to be erased"),
        (["--anchor", "Circle", "--preserve", "circle"], "the anchor 'Circle' is also to be preserved"),
        (["--preserve", "star"], "'star' is to be erased and preserved"),
        (["--concept", "heart", "--anchor", "heart"], "the anchor 'heart' is what is to be erased"),
        (["--concept", "Star"], "erased twice"),
        (["--concept", "heart", "--synonym", "love"], "--synonym is about one concept"),
        (["--anchor", ""], None),
        (
            ["--anchor", "select", "--candidates", "red"],
            "'red' (no sibling: 0.06 < 0.2). Write others",
        ),
        (["--anchor", "select", "--candidates", "star"], "says 'star', which is erased"),
        (["--anchor", "select", "--candidates", ","], "--candidates has an empty word"),
        (["--anchor", "select", "--candidates", "wordnett"], "did you mean 'wordnet'?): write wordnet or vocabulary"),
        (["--anchor", "select", "--candidates", "a,b", "--synset", "star.n.05"], "goes with --candidates wordnet"),
        (["--candidates", "a,b"], "--candidates is about the choice of an anchor: it goes with --anchor select"),
        (["--synset", "star.n.05"], "it goes with --anchor select"),
        (["--method", "uec"], "did you mean 'uce'?"),
        (["--method", "leace"], "method 'leace' erases from"),
        (["--set", "ridg=1"], "did you mean 'ridge'?"),
        (["--set", "ridge=-1"], "ridge=-1.0"),
        (["--template", "a"], "must have {} once"),
    ],
)
def test_what_cannot_be_erased(more: list[str], says: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if says is None:
        assert main([*UCE, *more]) == 0
        return
    given = [word for word in UCE if "--method" not in more or word not in ("--method", "uce")]
    said = fails(capsys, *given, *more)
    assert says in said and said.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize("method", [method.name for method in efface.methods("pipeline")])
@pytest.mark.parametrize("more", [["--concept", "zebra"], ["--concept", "circle", "--preserve", "zebra"]])
def test_words_that_the_pipeline_does_not_know(
    method: str, more: list[str], tiny_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("efface.cli.pipelines._load_pipeline", lambda folder: tiny("pixart-alpha"))
    assert "does not know 'zebra'" in fails(capsys, "erase", tiny_folder, *more, "--method", method, "-o", "erasure")
    chosen = ["--anchor", "select", "--candidates", "star,zebra"]
    assert "does not know 'zebra'" in fails(capsys, "erase", tiny_folder, *more, *chosen, "--method", method, "-o", "e")
    assert not list(Path().iterdir())


def test_nothing_is_replaced_unasked(tiny_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(UCE) == 0
    kept = Path("erasure/model.safetensors").read_bytes()
    assert "write --force" in fails(capsys, *UCE, "--anchor", "circle")
    assert Path("erasure/model.safetensors").read_bytes() == kept
    assert main([*UCE, "--anchor", "circle", "--force"]) == 0
    assert Path("erasure/model.safetensors").read_bytes() != kept
    export = ["export", "erasure", "shapes"]
    for flag in ("--lora", "--pipeline"):
        assert "name another" in fails(capsys, *export, flag, "erasure", "--force")
        assert "is a file" in fails(capsys, *export, flag, "erasure/config.json", "--force")
    assert main([*export, "--lora", "lora"]) == 0
    assert "write --force" in fails(capsys, *export, "--lora", "lora")
    assert "name another folder" in fails(capsys, *export, "--pipeline", "lora", "--force")


@pytest.mark.parametrize("place", ["", "unet", "unet/../unet"])
def test_a_pipeline_is_not_written_into(place: str, tiny_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{tiny_folder}/{place}"
    before = {path: path.stat().st_mtime_ns for path in Path(tiny_folder).rglob("*")}
    argv = ["erase", tiny_folder, "--concept", "circle", "--method", "uce", "-o", output, "--force"]
    assert "read" in fails(capsys, *argv)
    assert {path: path.stat().st_mtime_ns for path in Path(tiny_folder).rglob("*")} == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["export", "erasure", "shapes"], "say what to write: --lora DIR, or --pipeline DIR"),
        (["export", "erasure", "shapes", "--lora", "a", "--pipeline", "b"], "--lora and --pipeline do not go together"),
        (["export", "erasure", "shapes", "--pipeline", "a", "--rank", "2"], "--rank is of a LoRA"),
        (["export", "erasure", "shapes", "--lora", "a", "--rank", "0"], "--rank 0: write at least 1"),
        (["export", "nowhere", "shapes", "--lora", "a"], "nowhere"),
        (["export", "prompts", "shapes", "--lora", "a"], "an erasure by semantic-surgery, which changes no weights"),
        (["export", "erasure", "shape", "--lora", "a"], "did you mean 'shapes'?"),
        (["generate", "shapes", *DRAWN, "--with", "nowhere", "-o", "a.png"], "nowhere"),
        (["generate", "shapes", *DRAWN, "--with", "a", "--erase", "b", "-o", "a.png"], "--erase and --with do not go"),
        (
            ["generate", "shapes", *DRAWN, "--with", "a", "--preserve", "b", "-o", "a.png"],
            "--preserve goes with --erase",
        ),
        (["erase", "nowhere", "--concept", "a", "--method", "uce", "-o", "e"], "no folder with a model_index.json"),
    ],
)
def test_what_does_not_go_together(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    if argv[0] == "export" and argv[1] != "nowhere":
        method = "semantic-surgery" if argv[1] == "prompts" else "uce"
        assert main(["erase", "shapes", "--concept", "star", "--method", method, "-o", argv[1]]) == 0
    before = set(Path().iterdir())
    said = fails(capsys, *argv)
    assert says in said and said.count("\n") == 1
    assert set(Path().iterdir()) == before
