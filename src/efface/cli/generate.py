"""`efface generate`: look at what a pipeline draws, and at what it draws with an erasure on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface._io import atomic_path
from efface._lazy import require
from efface.cli.options import Generate
from efface.cli.outputs import check_free
from efface.cli.settings import parsed
from efface.cli.worlds import find_world
from efface.core.concept import Concept
from efface.core.erasure import Erasure
from efface.core.method import erase, get_method, methods
from efface.pipelines.view import PipelineView

SUFFIXES = (".png", ".jpg", ".jpeg")
_SMALLEST, _GAP, _LINE = 128, 4, 16
_FILM = 5
_OTHERWISE = "no folder with a model_index.json, as diffusers saves a pipeline"
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
    world = None if _is_pipeline(args.pipeline) else find_world(args.pipeline, "pipeline", _OTHERWISE)
    if concept is not None and world is not None:
        concept = _with_defaults(args, concept, world)
    view = PipelineView.of(load_pipeline(args.pipeline) if world is None else world.load_pipeline())
    erasure = _erasure(args, view, concept)
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


def _with_defaults(args: Generate, concept: Concept, world: Any) -> Concept:
    """The concept, with siblings to be preserved where the user names neither these nor an anchor.

    Raises:
        InputError: If the method needs them, and the world does not know the concept.
    """
    if concept.preserve or concept.anchor or args.method is None:
        return concept
    method = get_method(args.method, "pipeline")
    config, data = method.configured(parsed(method, args.settings))
    reads = "preserve" not in method.unread(Concept(concept.name, preserve=[f"not {concept.name}"]), config, data)
    try:
        near = world.preserve(concept.name)
    except InputError as error:
        if reads:
            raise InputError(f"{error}; any other word goes with --preserve WORD, what has to stay") from error
        warnings.warn(f"{error}; it is erased as it is written", EffaceWarning, stacklevel=2)
        return concept
    erased = {word.casefold() for word in concept.words}
    stays = [word for word in near if word.casefold() not in erased]
    return replace(concept, preserve=stays) if reads else concept


def _is_pipeline(name: str) -> bool:
    return (Path(name) / "model_index.json").is_file()


def load_pipeline(folder: str) -> Any:
    """The pipeline of a folder; the network is not used."""
    load = require("diffusers", extra="diffusion").DiffusionPipeline.from_pretrained
    pipe = load(folder, local_files_only=True, use_safetensors=True)
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


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
