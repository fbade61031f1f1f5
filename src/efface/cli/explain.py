"""`efface explain`: which part of each image a classifier listens to, and what the maps that say so are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import one_line
from efface._validate import did_you_mean
from efface.attribution.fitted import DietErasure
from efface.attribution.maskers import Grid, Masker
from efface.attribution.removal import Marginal, Removal
from efface.attribution.removal_images import Blur, ConstantColour
from efface.cli.classifiers import Classifier, is_factory, load_classifier
from efface.cli.image_files import ImageFile, find_images, read_images
from efface.cli.map_files import check_maps_folder, write_maps
from efface.cli.options import Explain
from efface.cli.outputs import check_report, made_by, teller, write_report
from efface.cli.settings import parsed
from efface.core.method import get_method
from efface.core.subjects import device_of
from efface.explanation.explaining import check_class_names, explain
from efface.explanation.mapping import METHODS, Setting, default_masker

_BLUR = 8
_FLAGS = ("outputs", "steps", "batch_size", "seed", "rate", "least_agreement")
"""Options of DiET that have flags of their own."""

_say = teller("explain")


@dataclass(frozen=True)
class Images:
    """What is explained: pixels `(n, channels, h, w)`, names, folders (or none), and labels of a world."""

    pixels: Tensor
    names: list[str]
    folders: list[str] | None = None
    labels: Tensor | None = None


def run(args: Explain) -> None:
    """Explain images, print what follows, write the report and the maps.

    Raises:
        InputError: If the model, an image or an option cannot be used.
    """
    read = [args.model, *args.images, args.train, args.weights, args.classes, args.student]
    check_report(args.output, force=args.force, read=read)
    check_maps_folder(args.maps, force=args.force, read=read)
    methods = _methods(args)
    files = find_images(args.images, args.limit, args.seed, _say) if args.images else None
    classifier = load_classifier(args, _say)
    images = _images(args, classifier, files)
    train = _train(args, classifier, images.pixels)
    labels = _labels(images, classifier) if args.labels else None
    model = classifier.model.to("cuda") if torch.cuda.is_available() else classifier.model
    _check_reads(classifier, images.pixels)
    saved = _saved_student(args, classifier)
    removal, masker = _removal(args, train, images.pixels), _masker(args, images.pixels)
    found = explain(
        model,
        images.pixels,
        methods=methods,
        removal=removal if saved is None else None,
        masker=masker if saved is None else None,
        fitted=saved or (lambda: _tuned_student(args, model, train, removal, masker)),
        classes=classifier.classes,
        labels=labels,
        names=images.names,
        outputs=args.outputs,
        steps=args.steps,
        show=args.show,
        batch_size=args.batch_size,
        seed=args.seed,
        title=f"What does {Path(args.model).name or args.model} need to see?",
    )
    write_report(made_by(args, found.audit, seed=args.seed), args.output)
    if args.maps is not None:
        write_maps(args.maps, found, images.pixels, images.names, classifier.classes)
        print(f"maps written to {args.maps}")


def _methods(args: Explain) -> list[str]:
    methods = list(dict.fromkeys(args.method or ["qfa"]))
    strange = [name for name in methods if name not in METHODS]
    if strange:
        hint = did_you_mean(strange[0], METHODS)
        raise InputError(f"--method {strange[0]}: there is no such method{hint}, write one of {', '.join(METHODS)}")
    own = not Path(args.model).exists() and not is_factory(args.model)  # a world, which has images to tune on
    ready = args.student is not None and args.student.exists()
    if "diet" in methods and args.train is None and not ready and not own:
        raise InputError(
            "--method diet tunes a copy of the model: write --train FOLDER, images like those that the model was "
            "trained on (no labels needed), or --student FOLDER, a copy that was tuned before"
        )
    given = {"student": args.student, "rate": args.rate, "least-agreement": args.least_agreement}
    for flag in [*(flag for flag, value in given.items() if value is not None), *(["set"] if args.settings else [])]:
        if "diet" not in methods:
            raise InputError(f"--{flag} goes with --method diet")
    _asked(args)
    return methods


def _images(args: Explain, classifier: Classifier, files: Sequence[ImageFile] | None) -> Images:
    if files is None:
        if classifier.own is None:
            raise InputError(f"{args.model} has no images of its own: write a file or a folder of images after it")
        own, n = classifier.own, min(args.limit, len(classifier.own.test))
        return Images(own.test[:n], [f"image {i}" for i in range(n)], None, own.labels[:n])
    pixels = _read(files, classifier)
    return Images(pixels, [file.name for file in files], [file.folder for file in files])


def _read(files: Sequence[ImageFile], classifier: Classifier) -> Tensor:
    return read_images(files, channels=classifier.channels, size=classifier.size, prepare=classifier.prepare, say=_say)


def _train(args: Explain, classifier: Classifier, pixels: Tensor) -> Tensor | None:
    if args.train is None:
        return None if classifier.own is None else classifier.own.train[: args.train_limit]
    found = _read(find_images([args.train], args.train_limit, args.seed, _say), classifier)
    if found.shape[1:] != pixels.shape[1:]:
        raise InputError(
            f"images of --train are {tuple(found.shape[2:])} and those to explain {tuple(pixels.shape[2:])} pixels: "
            "write the size that the model wants, e.g. --size 224"
        )
    return found


def _labels(images: Images, classifier: Classifier) -> Tensor:
    """True classes by the folder of each image."""
    if images.labels is not None:
        return images.labels
    folders = images.folders or []
    known: dict[str, int] = {}
    for k, names in enumerate(classifier.classes or ()):
        for name in (names, *names.split(",")):
            known.setdefault(name.strip().lower(), k)
    numbers = classifier.classes is None
    found = [int(f) if numbers and f.isdecimal() else known.get(f.strip().lower(), -1) for f in folders]
    strange = sorted({folder for folder, k in zip(folders, found, strict=True) if k < 0})
    if strange:
        listed = ", ".join(repr(name) for name in (classifier.classes or ())[:8])
        wanted = "numbers of classes, since this model has no names" if numbers else f"one of {listed}"
        raise InputError(f"--labels: folder {strange[0]!r} is no class of the model; expected {wanted}")
    return torch.tensor(found)


@torch.no_grad()
def _check_reads(classifier: Classifier, pixels: Tensor) -> None:
    """Refuse images that the model cannot read, and names that are not its classes', before anything long starts."""
    one = pixels[:1].to(device_of(classifier.model) or pixels.device)
    try:
        said = classifier.model(one)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the model cannot read images of shape {tuple(one.shape)}: {one_line(error)}; if it wants another "
            "size, write e.g. --size 224"
        ) from error
    if isinstance(said, Tensor) and said.ndim == 2:  # else `explain` says what is wrong
        check_class_names(classifier.classes, said)


def _saved_student(args: Explain, classifier: Classifier) -> DietErasure | None:
    if args.student is None or not args.student.exists():
        return None
    if any(getattr(args, name) is not None for name in ("removal", "blur", "cells", "upsampling")):
        raise InputError(
            f"{args.student} was tuned with its own removal and cells, which serve all methods: leave --removal, "
            "--blur, --cells and --upsampling out"
        )
    if _asked(args):
        raise InputError(
            f"{args.student} is tuned already: leave --rate, --least-agreement and --set out, or name a new folder"
        )
    return DietErasure.load(args.student)


def _tuned_student(
    args: Explain, model: nn.Module, train: Tensor | None, removal: Removal, masker: Masker | None
) -> DietErasure:
    """A copy tuned on images; with `--student` it is saved there, and a tuning that was interrupted goes on.

    Raises:
        InputError: If there are no images to tune on.
    """
    if train is None:
        raise InputError("--method diet tunes a copy of the model: write --train FOLDER")
    setting = Setting(
        removal, masker or default_masker(train), args.outputs, args.steps, batch_size=args.batch_size, seed=args.seed
    )
    _say(f"tuning a copy of the model on {len(train)} images")
    unfinished = None if args.student is None else Path(f"{args.student}.unfinished")
    fitted = replace(setting.diet(), **_asked(args)).fit(model, train, checkpoint=unfinished)
    if args.student is not None:
        fitted.save(args.student)
        _say(f"the tuned copy is in {args.student}")
    return fitted


def _asked(args: Explain) -> dict[str, Any]:
    """Options of DiET that were given."""
    flags = {"rate": args.rate, "least_agreement": args.least_agreement}
    options = parsed(get_method("diet", "classifier"), args.settings, flags=_FLAGS)
    return options | {name: value for name, value in flags.items() if value is not None}


def _removal(args: Explain, train: Tensor | None, pixels: Tensor) -> Removal:
    reference = pixels if train is None else train
    if args.removal == "blur":
        return Blur(max(1.0, min(pixels.shape[2:]) / _BLUR) if args.blur is None else args.blur)
    if args.blur is not None:
        raise InputError("--blur is the spread of --removal blur: write that too")
    if args.removal == "marginal":
        if len(reference) < 2:
            raise InputError(
                "--removal marginal draws pixels of other images: write --train FOLDER, or explain several"
            )
        return Marginal(reference, low=0.0, high=1.0)
    return ConstantColour.of(reference)


def _masker(args: Explain, pixels: Tensor) -> Masker | None:
    height, width = pixels.shape[2:]
    most = min(height, width)
    for name in ("cells", "upsampling"):
        value = getattr(args, name)
        if value is not None and value > most:
            raise InputError(f"--{name} {value} on images of {height} x {width} pixels: write {most} or less")
    if args.cells is not None:
        return Grid(cells=(args.cells, args.cells))
    return None if args.upsampling is None else Grid(args.upsampling)
