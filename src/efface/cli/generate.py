"""`efface generate`: look at what a pipeline draws, and at what it draws with an erasure on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._io import atomic_path
from efface._lazy import require
from efface.cli.options import Generate
from efface.cli.outputs import check_free
from efface.cli.settings import parsed
from efface.core.concept import Concept
from efface.core.erasure import Erasure
from efface.core.method import erase, get_method, methods
from efface.pipelines.view import PipelineView

SHAPES = "shapes"
SUFFIXES = (".png", ".jpg", ".jpeg")
_SMALLEST, _GAP, _LINE = 128, 4, 16
_FILM = 5
_FIELDS = {
    "synonym": "synonyms",
    "preserve": "preserve",
    "template": "templates",
    "anchor": "anchor",
    "erase_from": "erase_from",
}
"""Flag -> field of the concept."""


def run(args: Generate) -> None:
    """Sample every prompt at every seed; prints the path written."""
    if args.output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{args.output}: expected a file that ends in one of {', '.join(SUFFIXES)}")
    check_free([args.output], "-o", force=args.force, read=[args.pipeline, args.erasure])
    concept = _concept(args)
    view = PipelineView.of(load_pipeline(args.pipeline))
    erasure = _erasure(args, view, concept)
    rows = []
    for prompt in args.prompt:
        for on in [None] if erasure is None else [None, erasure]:
            with nullcontext() if on is None else on.on(view):
                images = _sampled(view, prompt, args)
            erased = "" if on is None else f"   [{on.method}: {', '.join(on.names)}]"
            rows.append((prompt + erased, images))
    write_picture(args.output, rows)
    print(args.output)


def _concept(args: Generate) -> Concept | None:
    """What is to be erased, if anything is.

    Raises:
        InputError: If flags do not go together.
    """
    given = {field: getattr(args, flag) for flag, field in _FIELDS.items() if getattr(args, flag)}
    if args.erase is None:
        flags = [f"--{flag.replace('_', '-')}" for flag in ("method", *_FIELDS) if getattr(args, flag)]
        flags += ["--set"] if args.settings else []
        if flags:
            raise InputError(f"{flags[0]} goes with --erase CONCEPT")
        return None
    if args.method is None:
        raise InputError(f"--erase needs --method: one of {', '.join(m.name for m in methods('pipeline'))}")
    return Concept(args.erase, **given)


def _erasure(args: Generate, view: PipelineView, concept: Concept | None) -> Any:
    if concept is None or args.method is None:
        return None if args.erasure is None else Erasure.load(args.erasure)
    options = parsed(get_method(args.method, "pipeline"), args.settings)
    return erase(view, concept, method=args.method, **options)


def load_pipeline(name: str) -> Any:
    """The pipeline of a folder, or that of efface-worlds; the network is not used.

    Raises:
        InputError: If there is no such folder, or it holds no pipeline.
        MissingExtraError: If it is the one of efface-worlds, which is not installed.
    """
    if name == SHAPES:
        return require("efface_worlds.shapes", extra="worlds").load_shapes_pipeline()
    if not (Path(name) / "model_index.json").is_file():
        raise InputError(
            f"{name} is no folder with a model_index.json: give the folder of a pipeline that diffusers saved, or "
            f'"{SHAPES}"'
        )
    load = require("diffusers", extra="diffusion").DiffusionPipeline.from_pretrained
    pipe = load(name, local_files_only=True, use_safetensors=True)
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def _sampled(view: PipelineView, prompt: str, args: Generate) -> Tensor:
    seeds = list(range(args.seeds))
    options = {"steps": args.steps, "guidance": args.guidance}
    if args.pipeline == SHAPES:
        own = require("efface_worlds.shapes.generation", extra="worlds")
        options["steps"] = args.steps or own.STEPS
        options["guidance"] = own.GUIDANCE if args.guidance is None else args.guidance
    images = view.sample([prompt] * len(seeds), seeds, negative=args.negative, **options)
    return images[:, images.shape[1] // 2] if images.ndim == _FILM else images


def write_picture(path: Path, rows: Sequence[tuple[str, Tensor]]) -> None:
    """Rows of images `(n, 3, h, w)` in [0, 1] below one another, each under its text; small ones are enlarged."""
    image, draw = require("PIL.Image", extra="diffusion"), require("PIL.ImageDraw", extra="diffusion")
    height, width = (side * _scale(rows[0][1]) for side in rows[0][1].shape[-2:])
    columns = max(len(images) for _, images in rows)
    size = (columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP + _LINE) + _GAP)
    sheet = image.new("RGB", size, "white")
    pen = draw.Draw(sheet)
    for i, (text, images) in enumerate(rows):
        top = i * (height + _GAP + _LINE) + _GAP
        pen.text((_GAP, top), text, fill="black")
        for j, one in enumerate(images):
            pixels = (one.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            picture = image.fromarray(pixels).resize((width, height), image.Resampling.NEAREST)
            sheet.paste(picture, (j * (width + _GAP) + _GAP, top + _LINE))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG" if path.suffix.lower() == ".png" else "JPEG")


def _scale(images: Tensor) -> int:
    """How many times small images are enlarged."""
    return max(1, -(-_SMALLEST // min(images.shape[-2:])))
