"""Pipelines by folder or by world, as commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from efface._lazy import require
from efface.cli.worlds import find_world
from efface.pipelines.view import PipelineView

_OTHERWISE = "no folder with a model_index.json, as diffusers saves a pipeline"


def is_folder(name: str) -> bool:
    """Whether a pipeline lies in a folder of that name; else it is the name of a world."""
    return (Path(name) / "model_index.json").is_file()


def files_of(name: str) -> list[str]:
    """What is read where a pipeline is named so, for `check_free`."""
    return [name] if is_folder(name) else []


def world_of(name: str) -> Any:
    """The world of that name; None where a folder is called so.

    Raises:
        InputError: If it is neither.
        MissingExtraError: If it could be a world, and efface-worlds is not installed.
    """
    return None if is_folder(name) else find_world(name, "pipeline", _OTHERWISE)


def open_view(name: str, world: Any) -> PipelineView:
    """A view of the pipeline in a folder, or of a world's; the network is not used."""
    return PipelineView.of(_load_pipeline(name) if world is None else world.load_pipeline())


def _load_pipeline(folder: str) -> Any:
    load = require("diffusers", extra="diffusion").DiffusionPipeline.from_pretrained
    pipe = load(folder, local_files_only=True, use_safetensors=True)
    return pipe.to("cuda") if torch.cuda.is_available() else pipe
