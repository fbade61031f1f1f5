"""`efface export`: a saved erasure of weights for those who have no efface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface.cli.erasing import ON_ANOTHER, in_shell
from efface.cli.outputs import check_free
from efface.cli.pipeline_options import Export
from efface.cli.pipelines import files_of, open_view, world_of
from efface.core.erasure import Erasure
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.export import LORA, save_lora, save_pipeline

_IN_SHELL = ON_ANOTHER | {
    "write rank=N for": "write --rank N for",
    "(rank=": "(--rank ",
    "or save_pipeline": "or --pipeline DIR",
    "write save_pipeline": "write --pipeline DIR",
}


def run(args: Export) -> None:
    """Export; prints what was written."""
    _check(args)
    erasure = _weights(args.erasure)
    world = world_of(args.base)
    view = open_view(args.base, world)
    with in_shell(_IN_SHELL):
        print(_lora(args, args.lora, erasure, view) if args.lora is not None else _whole(args, erasure, view))


def _check(args: Export) -> None:
    """Refuse what could not be written."""
    if args.lora is None and args.pipeline is None:
        raise InputError("say what to write: --lora DIR, or --pipeline DIR")
    if args.rank is not None and args.lora is None:
        raise InputError("--rank is of a LoRA: it goes with --lora DIR")
    name, path = ("--lora", args.lora) if args.lora is not None else ("--pipeline", args.pipeline)
    path = Path(path or "")
    if path.exists() and not path.is_dir():
        raise InputError(f"{name} {path} is a file, expected the name of a folder")
    read = [args.erasure, *files_of(args.base)]
    if args.lora is not None:
        check_free([path, path / LORA], name, force=args.force, read=read)
    elif path.is_dir() and any(path.iterdir()):
        raise InputError(f"--pipeline {path} has something in it: name another folder, as files of two would mix")


def _weights(folder: Path) -> WeightErasure:
    """The erasure of weights in a folder.

    Raises:
        InputError: If it is of another kind.
        FormatError: If there is none, or it is damaged.
    """
    found = Erasure.load(folder)
    if not isinstance(found, WeightErasure):
        raise InputError(
            f"{folder} holds an erasure by {found.method}, which changes no weights: only what does can leave efface; "
            "put it on with  efface generate --with"
        )
    return found


def _lora(args: Export, folder: Path, erasure: WeightErasure, view: Any) -> str:
    found = save_lora(erasure, view, folder, rank=args.rank, overwrite=args.force)
    size = f"rank {found['rank']}, {found['nbytes'] / 2**20:.2f} MiB"
    lost = f"; at least {found['kept']:.2%} of each change's energy is in it" if found["kept"] < 1 else ""
    return f"LoRA of {size}{lost}, for pipe.load_lora_weights, in {folder}"


def _whole(args: Export, erasure: WeightErasure, view: Any) -> str:
    save_pipeline(erasure, view, args.pipeline or "")
    return f"pipeline with the changed weights, which needs no efface, in {args.pipeline}"
