"""`efface generate`: look at what a pipeline draws, and at what it draws with an erasure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._io import atomic_path
from efface._lazy import require
from efface.cli.erasing import FIELDS, fitted, loaded, read_concepts
from efface.cli.outputs import check_free, teller
from efface.cli.pipeline_options import Generate
from efface.cli.pipelines import files_of, open_view, world_of
from efface.core.concept import Concept
from efface.core.erasure import Erasure
from efface.core.method import methods
from efface.pipelines.view import PipelineView

SUFFIXES = (".png", ".jpg", ".jpeg")
_SMALLEST, _GAP, _LINE = 128, 4, 16
_FILM = 5


def run(args: Generate) -> None:
    """Sample every prompt at every seed; prints the path written."""
    if args.output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{args.output}: expected a file that ends in one of {', '.join(SUFFIXES)}")
    check_free([args.output], "-o", force=args.force, read=[*files_of(args.pipeline), *args.erasures])
    concepts = _concepts(args)
    world = world_of(args.pipeline)
    view = open_view(args.pipeline, world)
    erasure = _erasure(args, view, concepts, world)
    sampling = _sampling(args, world)
    rows = []
    for prompt in args.prompt:
        for on in [None] if erasure is None else [None, erasure]:
            with nullcontext() if on is None else on.on(view):
                images = _sampled(view, prompt, args.seeds, sampling)
            erased = "" if on is None else f"   [{on.method}: {', '.join(on.names)}]"
            rows.append((prompt + erased, images))
    write_picture(args.output, rows)
    print(args.output)


def _concepts(args: Generate) -> tuple[Concept, ...]:
    """What is to be erased, if anything is.

    Raises:
        InputError: If flags do not go together.
    """
    if args.erase is None:
        named = ("method", "candidates", "synset", *FIELDS)
        flags = [f"--{flag.replace('_', '-')}" for flag in named if getattr(args, flag) not in (None, [])]
        flags += ["--set"] if args.settings else []
        if flags:
            raise InputError(f"{flags[0]} goes with --erase CONCEPT")
        return ()
    if args.method is None:
        raise InputError(f"--erase needs --method: one of {', '.join(m.name for m in methods('pipeline'))}")
    return read_concepts([args.erase], args)


def _erasure(args: Generate, view: PipelineView, concepts: Sequence[Concept], world: Any) -> Erasure | None:
    """What was fitted or saved, which the pipeline takes.

    Raises:
        InputError: If it was fitted to another pipeline.
    """
    if concepts:
        return fitted(args, concepts, view, world, teller("generate"))
    return loaded(args.erasures, view)


def _sampling(args: Generate, world: Any) -> dict[str, Any]:
    """Options of `PipelineView.sample`: what was given, else the world's."""
    given = {"steps": args.steps, "guidance": args.guidance, "negative": args.negative}
    own = {} if world is None else world.sampling
    return own | {name: value for name, value in given.items() if value is not None}


def _sampled(view: PipelineView, prompt: str, n: int, sampling: Mapping[str, Any]) -> Tensor:
    seeds = list(range(n))
    images = view.sample([prompt] * n, seeds, **sampling)
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
