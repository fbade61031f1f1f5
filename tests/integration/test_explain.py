"""`efface explain` on models as users have them: a folder of transformers, a factory with weights, a world."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from efface import InputError
from efface.audit.audit import Audit
from efface.cli import classifiers, main
from efface.cli.image_files import find_images, read_images
from efface.cli.pretrained import load_pretrained

CLASSES = {0: "tabby, tabby cat", 1: "dog", 2: "fox"}
SOURCE = """
import torch
from torch import nn

class Corner(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        bright = self.scale * (x[:, :, :6, :6].mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)

def make():
    return Corner()

def grey():
    conv = nn.Conv2d(1, 2, 3)
    nn.init.dirac_(conv.weight)  # not by chance: two random numbers may sum to 1, which is refused
    nn.init.constant_(conv.bias, -0.3)
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2))

def many():
    return nn.Conv2d(4, 2, 3)

def needs(size):
    return nn.Linear(size, 2)

def number():
    return 3

constant = 3
"""


def vit_config() -> ViTConfig:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    labels: dict[str, Any] = {"id2label": CLASSES, "label2id": {v: k for k, v in CLASSES.items()}}
    return ViTConfig(**sizes, image_size=16, patch_size=4, **labels)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with its image processor, as `save_pretrained` leaves it."""
    path = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(vit_config()).save_pretrained(path)
    size = {"height": 16, "width": 16}
    ViTImageProcessorPil(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    (tmp_path / "own_nets.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("own_nets", None)


def photos(count: int = 6, sizes: tuple[tuple[int, int], ...] = ((20, 24), (16, 16)), folder: str = "photos") -> str:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = Path(folder, "dog" if i % 2 else "tabby", f"img {i}.{'png' if i % 3 else 'jpg'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(60, 200, (*sizes[i % len(sizes)], 3)).astype(np.uint8)
        pixels[:6, :6] = 250 if i % 2 else 5
        Image.fromarray(pixels).save(path)
    return folder


def explain(*arguments: object) -> int:
    return main(["explain", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail, and return the one line that says why."""
    capsys.readouterr()
    before = set(Path().rglob("*"))
    assert explain(*arguments) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("efface: error: ") and "Traceback" not in err
    left = {p for p in set(Path().rglob("*")) - before if "__pycache__" not in p.parts}
    assert not left, f"left behind: {left}"
    return err


# It does what it says


def test_a_folder_of_transformers(vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [vit, photos(), "--labels", "--method", "qfa", "--method", "gradient", "--steps", "10", "--show", 2]
    assert explain(*given, "-o", "report.html", "--maps", "maps") == 0
    out, err = capsys.readouterr()
    assert "report written to report.html" in out and "2 sizes are brought to 16 x 16" in err
    page = Path("report.html").read_text()
    for words in ("dog/img 1.png", "true: dog", "control: random", "control: edge", "Keep curve"):
        assert words in page
    assert page.count("data:image/png") == 1 + 3 * 3
    maps, index = load_file("maps/maps.safetensors"), json.loads(Path("maps/maps.json").read_text())
    assert {k: v.shape for k, v in maps.items()} == {"qfa": (6, 16, 16), "gradient": (6, 16, 16)}
    assert [row["image"] for row in index["images"]] == [
        f"dog/img {i}.{s}" for i, s in ((1, "png"), (3, "jpg"), (5, "png"))
    ] + [f"tabby/img {i}.{s}" for i, s in ((0, "jpg"), (2, "png"), (4, "png"))]
    for row in index["images"]:
        for name in row["overlays"].values():
            with Image.open(Path("maps", name)) as overlay:
                assert overlay.size == (256, 256)
    assert explain(*given, "-o", "again.html") == 0
    assert Path("again.html").read_text() == page.replace("-o report.html --maps maps", "-o again.html")


def test_pixels_are_normalised_as_the_image_processor_does(vit: Path) -> None:
    model, prepare, classes, channels = load_pretrained(vit)
    own = ViTForImageClassification.from_pretrained(vit).eval()
    with Image.open(next(Path(photos(1)).rglob("*.jpg"))) as image:
        image = image.convert("RGB")
        pixels = prepare(image)[None]
        wanted = ViTImageProcessorPil.from_pretrained(vit)(images=[image], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16) and float(pixels.min()) >= 0 and float(pixels.max()) <= 1
    torch.testing.assert_close(model(pixels), own(wanted).logits, rtol=1e-3, atol=1e-4)
    assert classes == tuple(CLASSES.values()) and channels == 3


def test_an_image_processor_that_crops(vit: Path, folder: Path) -> None:
    model = ViTForImageClassification.from_pretrained(vit)
    model.save_pretrained("crops")
    ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.8).save_pretrained("crops")
    assert load_pretrained(folder / "crops")[1](Image.new("RGB", (30, 50))).shape == (3, 16, 16)


def test_a_factory_with_weights_finds_its_corner() -> None:
    save_file({"scale": torch.tensor(12.0)}, "corner.safetensors")
    Path("names.txt").write_text("tabby\ndog\n\n")
    named = ["--classes", "names.txt", "--labels"]
    given = ["own_nets:make", photos(12, ((18, 18),)), "--weights", "corner.safetensors", "--cells", "6", *named]
    assert explain(*given, "--maps", "maps", "-o", "report.json") == 0
    values = load_file("maps/maps.safetensors")["qfa"]
    assert values.shape == (12, 18, 18) and values[:, :6, :6].mean() > 5 * values[:, 9:, 9:].mean()
    audit = Audit.from_dict(json.loads(Path("report.json").read_text()))
    assert audit.find("map", "qfa", "over the best control").verdict == "higher than the control"
    assert {row["class"] for row in json.loads(Path("maps/maps.json").read_text())["images"]} == {0, 1}
    assert audit.text[-1].startswith("The model says the label of 100.0%")


def test_diet_is_tuned_kept_and_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"scale": torch.tensor(12.0)}, "corner.safetensors")
    given = ["own_nets:make", photos(6, ((12, 12),)), "--weights", "corner.safetensors", "--method", "diet"]
    tuning = ["--train", "photos", "--student", "student", "--upsampling", 2, "--rate", 2e-4, "--least-agreement", 0.5]
    assert explain(*given, *tuning, "-o", "a.json") == 0
    settings = json.loads(Path("student/config.json").read_text())["report"]["settings"]
    assert (settings["rate"], settings["least_agreement"]) == (2e-4, 0.5)
    assert Path("student/model.safetensors").is_file() and not Path("student.unfinished").exists()
    assert explain(*given, "--student", "student", "-o", "b.json") == 0
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert (one["provenance"].pop("call"), one) != (two["provenance"].pop("call"), two) and one == two
    assert "tuning a copy" not in capsys.readouterr().err.partition("the tuned copy is in student")[2]
    assert "leave --removal" in fails(capsys, *given, "--student", "student", "--removal", "blur")
    assert "is tuned already" in fails(capsys, *given, "--student", "student", "--rate", 1e-3)


def test_a_world_needs_no_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("_TRAIN", 128), ("_TEST", 16), ("_EPOCHS", 1)):
        monkeypatch.setattr(classifiers, name, value)
    assert explain("digits", "--limit", 4, "--steps", 5, "--labels", "-o", "report.md") == 0
    assert "spurious digits" in capsys.readouterr().err
    assert "true: " in Path("report.md").read_text() and "image 3" in Path("report.md").read_text()


def test_one_image_grey_models_and_every_removal(capsys: pytest.CaptureFixture[str]) -> None:
    photos(3, ((14, 14),))
    for removal in (["constant"], ["blur"], ["blur", "--blur", 2.5]):
        assert explain("own_nets:grey", "photos/dog/img 1.png", "--removal", *removal, "--steps", 4) == 0
    assert explain("own_nets:grey", "photos", "--removal", "marginal", "--steps", 4) == 0
    assert "1 image is few" in capsys.readouterr().out


def test_a_sample_of_a_large_folder_is_drawn_by_seed() -> None:
    heard: list[str] = []
    photos(9)
    Path("photos/.hidden.png").write_bytes(b"no image")
    Path("photos/notes.txt").write_text("no image")
    whole = [f.name for f in find_images([Path("photos")], 64, 0, heard.append)]
    assert whole == sorted(whole) and len(whole) == 9 and not heard
    some = [f.name for f in find_images([Path("photos")], 4, 0, heard.append)]
    assert some == sorted(some) and len(some) == 4 and "4 of the 9 images" in heard[0]
    assert some == [f.name for f in find_images([Path("photos")], 4, 0, heard.append)]
    assert some != [f.name for f in find_images([Path("photos")], 4, 1, heard.append)]


def test_several_images_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    photos(4, ((14, 14),))
    assert explain("own_nets:grey", "photos/dog", "photos/tabby/img 0.jpg", "--steps", 4, "--maps", "maps") == 0
    names = [row["image"] for row in json.loads(Path("maps/maps.json").read_text())["images"]]
    assert names == ["img 1.png", "img 3.jpg", "img 0.jpg"]
    assert "without --weights the model is as own_nets:grey makes it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_pictures_of_16_bits_keep_their_greys(name: str) -> None:
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(name)
    for channels in (1, 3):
        files = find_images([Path(name)], 1, 0, print)
        pixels = read_images(files, channels=channels, size=None, prepare=None, say=print)[0, 0]
        assert float((pixels - torch.as_tensor(ramp)).abs().max()) < 1 / 255


def test_pictures_of_floats_have_no_known_white() -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save("float.tif")
    with pytest.raises(InputError, match=r"float\.tif holds floats, of which nobody says what is white"):
        read_images(find_images([Path("float.tif")], 1, 0, print), channels=1, size=None, prepare=None, say=print)


def test_pixels_are_those_of_the_file() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save("a.png")
    files = find_images([Path("a.png")], 1, 0, print)
    read = read_images(files, channels=3, size=None, prepare=None, say=print)
    assert (read[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).tolist() == pixels.tolist()
    held = Image.Exif()
    held[0x0112] = 6  # the camera was turned: rows of the file are columns of the picture, from the right
    Image.fromarray(pixels).save("held.png", exif=held)
    turned = read_images(find_images([Path("held.png")], 1, 0, print), channels=3, size=None, prepare=None, say=print)
    assert torch.equal(turned[0], read[0].rot90(-1, (1, 2)))
    heard: list[str] = []
    assert read_images(files, channels=1, size=(8, 6), prepare=None, say=heard.append).shape == (1, 1, 8, 6)
    assert "8 x 6" in heard[0]


# It says what is wrong, and leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "photos"], "no folder of a model and no package.module:factory, and no world of this kind"),
        (["digit"], "(did you mean 'digits'?): worlds with a classifier are digits, hard-digits"),
        (["emoji"], "a world of another kind (emoji by four designers"),
        (["net.pth", "photos"], "safetensors.torch.save_file"),
        (["net.pt2", "photos"], "pickled code"),
        (["net.safetensors", "photos"], "package.module:factory --weights net.safetensors"),
        (["photos", "photos"], "has no config.json"),
        (["no_such_module:make", "photos"], "no module 'no_such_module'"),
        (["own_nets:mke", "photos"], "has no attribute 'mke'"),
        (["own_nets:needs", "photos"], "without arguments"),
        (["own_nets:number", "photos"], "gives a int"),
        (["own_nets:constant", "photos"], "is a int"),
        (["own_nets:many", "photos"], "reads 4 channels"),
        (["own_nets:make", "photos"], "write the size that the model wants, e.g. --size 224"),
        (["own_nets:fixed", "photos", "--size", "14"], "cannot read images of shape (1, 3, 14, 14)"),
        (["own_nets:make", "photos", "--size", "big"], "--size 224x320 (height x width)"),
        (["own_nets:make", "photos", "--weights", "net.pth"], "expected .safetensors"),
        (["own_nets:make", "photos", "--weights", "wrong.safetensors"], "do not fit the model"),
        (["own_nets:make", "photos", "--weights", "broken.safetensors"], "truncated"),
        (["own_nets:make", "photos", "--mean", "0.5"], "--mean and --std go together"),
        (["own_nets:make", "photos", "--mean", "0.5", "--std", "0"], "--std 0: write 3 numbers"),
        (["digits", "--size", "32"], "goes with a model of package.module:factory"),
        (["digits", "--classes", "names.txt"], "goes with a model of package.module:factory"),
        (["own_nets:make", "photos", "--size", "12", "--classes", "gap.txt"], "line 2 is empty"),
        (["own_nets:make", "photos", "--size", "12", "--classes", "nowhere.txt"], "cannot be read as text"),
        (["own_nets:make", "photos", "--size", "12", "--classes", "one.txt"], "1 names of classes"),
        (  # before a copy is tuned
            [
                "own_nets:make",
                "photos",
                "--size",
                "12",
                "--classes",
                "one.txt",
                "--method",
                "diet",
                "--train",
                "photos",
            ],
            "1 names of classes",
        ),
        (["own_nets:make", "photos", "--size", "12", "--blur", "3"], "write that too"),
        (
            ["own_nets:make", "photos", "--size", "12", "--removal", "blur", "--blur", "0"],
            "write a number above 0",
        ),
        (["own_nets:make"], "has no images of its own"),
        (["own_nets:make", "nowhere"], "no such file or folder"),
        (["own_nets:make", "empty"], "has no images"),
        (["own_nets:make", "own_nets.py"], "expected an image"),
        (["own_nets:make", "broken"], "bad.png cannot be read as an image"),
        (["own_nets:make", "photos", "--method", "grad"], "write one of qfa, diet, gradient"),
        (["own_nets:make", "photos", "--method", "diet"], "write --train FOLDER"),
        (["own_nets:make", "photos", "--student", "s"], "--student goes with --method diet"),
        (["own_nets:make", "photos", "--rate", "0.1"], "--rate goes with --method diet"),
        (["own_nets:make", "photos", "--size", "12", "--cells", "13"], "--cells 13 on images of 12 x 12 pixels"),
        (["own_nets:make", "photos", "--size", "12", "--upsampling", "13"], "write 12 or less"),
        (["own_nets:make", "photos", "--size", "12", "--labels"], "'dog' is no class of the model"),
        (["own_nets:make", "photos/dog/img 1.png", "--removal", "marginal"], "draws pixels of other images"),
        (["own_nets:make", "photos", "--size", "12", "-o", "report.pdf"], ".html .json .md"),
        (["own_nets:make", "photos", "--maps", "own_nets.py"], "is a file: write a folder"),
        (["own_nets:make", "photos", "--size", "12"], "the model is constant"),
    ],
)
def test_what_cannot_be_explained(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    Path("empty").mkdir()
    photos(2, folder="broken")
    Path("broken/dog/bad.png").write_bytes(Path("photos/dog/img 1.png").read_bytes()[:200])
    Path("gap.txt").write_text("dog\n\ncat\n")
    Path("one.txt").write_text("dog\n")
    Path("broken.safetensors").write_bytes(b"nothing of the kind")
    save_file({"other": torch.zeros(2)}, "wrong.safetensors")
    more = [] if "-o" in arguments else ["-o", "report.html", "--maps", "out"]
    assert says in fails(capsys, *arguments, *(more if "--maps" not in arguments else []))


def test_an_unknown_folder_name_is_no_label(vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    Path("photos/dog").rename("photos/wolf")
    assert "'wolf' is no class of the model; expected one of 'tabby, tabby cat', 'dog'" in fails(
        capsys, vit, "photos", "--labels"
    )


def test_folders_that_hold_no_trained_image_classifier(vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos()
    small: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(**small, vocab_size=9)).save_pretrained("bert")
    assert "no image classifier" in fails(capsys, "bert", "photos")
    ViTModel(vit_config()).save_pretrained("headless")
    assert "no trained weights for classifier" in fails(capsys, "headless", "photos")
    ViTForImageClassification.from_pretrained(vit).save_pretrained("alone")
    assert "processor.save_pretrained('alone')" in fails(capsys, "alone", "photos")
    Path("alone/model.safetensors").unlink()
    assert "weights must be .safetensors" in fails(capsys, "alone", "photos")
