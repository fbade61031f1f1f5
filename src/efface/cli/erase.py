"""`efface erase`: fit an erasure to a pipeline, and save it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import CARD, CONFIG, TENSORS
from efface.cli.erasing import fitted, read_concepts
from efface.cli.outputs import check_free
from efface.cli.pipeline_options import Erase
from efface.cli.pipelines import files_of, open_view, world_of
from efface.cli.settings import configured
from efface.core.method import Method, get_method, methods


def run(args: Erase) -> None:
    """Fit and save; prints which anchors were chosen and why, what was fitted, and where it lies."""
    method = get_method(args.method, "pipeline")
    configured(method, args.settings)
    concepts = read_concepts(args.concept, args)
    _check_output(args)
    data = _data(args, method)
    world = world_of(args.pipeline)
    found = fitted(args, concepts, open_view(args.pipeline, world), world, print, **data)
    if args.command_line:
        found = replace(found, provenance={**found.provenance, "call": args.command_line})
    found.save(args.output, overwrite=args.force)
    print(f"{method.name}: {found!r}")
    print(f"erasure saved in {args.output}")


def _check_output(args: Erase) -> None:
    path = Path(args.output)
    if path.exists() and not path.is_dir():
        raise InputError(f"-o {args.output} is a file, expected the name of a folder for the erasure")
    written = [path / name for name in (CONFIG, TENSORS, CARD)]
    check_free([path, *written], "-o", force=args.force, read=files_of(args.pipeline))


def _data(args: Erase, method: Method) -> dict[str, Any]:
    """What goes to the fit beside options.

    Raises:
        InputError: If the method cannot go on from a checkpoint, or it is a file.
    """
    if args.checkpoint is None:
        return {}
    if "checkpoint" not in method.data:
        others = ", ".join(m.name for m in methods("pipeline") if "checkpoint" in m.data)
        raise InputError(f"--checkpoint: {method.name} is not tuned and keeps no state; those that do are {others}")
    if Path(args.checkpoint).is_file():
        raise InputError(f"--checkpoint {args.checkpoint} is a file, expected the name of a folder")
    return {"checkpoint": args.checkpoint}
