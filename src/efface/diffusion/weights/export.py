"""Erasures of weights for those who have no efface: as a LoRA of diffusers, or as a pipeline with the weights in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import as_path, atomic_dir
from efface.core.doors import check_call
from efface.core.edits import OnWeights
from efface.core.subjects import as_subject
from efface.core.weights import Change, LowRank, nbytes_of
from efface.diffusion.weights.erasure import WeightErasure
from efface.pipelines.view import PipelineView

LORA = "pytorch_lora_weights.safetensors"
"""Name of the file that `pipe.load_lora_weights(folder)` looks for."""

_PREFIXES = ("unet", "transformer", "text_encoder", "text_encoder_2")
_EXACT = 1e-6
"""Singular values below it, relative to the largest, are under what adding to float32 weights rounds."""


def save_lora(
    erasure: WeightErasure,
    pipe: Any,
    folder: str | os.PathLike[str],
    *,
    rank: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a LoRA that plain `pipe.load_lora_weights(folder)` loads: `W + B A` for each matrix (arXiv:2106.09685).

    Changes of low rank are kept as they are, others are factored; all have one rank, as older versions of diffusers and
    peft scale those that differ.

    Args:
        erasure: The erasure.
        pipe: A pipeline that it suits, or a view of one; it is left as it is.
        folder: Where to.
        rank: Keep this rank of each change, which may lose some of it; None keeps all, and refuses a change whose
            factors would be no smaller than the matrix.
        overwrite: Write into a folder that has something in it.

    Returns:
        Plain data: `rank`, `nbytes`, and `kept`, the least share of a change's energy (its squared norm) that is kept.

    Raises:
        InputError: If the erasure does not suit the pipeline, changes what a LoRA cannot hold (a bias, a kernel, a
            switch), or has too high a rank.
    """
    check_call(save_lora, locals())
    if rank is not None and rank < 1:
        raise InputError(f"rank={rank}: write a whole number above 0, or None for all of it")
    view = _checked(erasure, pipe)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    kept = 1.0
    for part, delta in erasure.deltas.items():
        if part not in _PREFIXES:
            raise InputError(f"diffusers loads LoRAs of {', '.join(_PREFIXES)}, not of {part!r}: write save_pipeline")
        if delta.config:
            raise InputError(
                f"{part} gets switches ({', '.join(delta.config)}), which no LoRA has: write save_pipeline"
            )
        model = getattr(view.pipe, part)
        for name, changes in delta.changes.items():
            layer = _layer(model, part, name)
            up, down, share = _factored(f"{name} of {part}", model.get_parameter(name), changes, rank)
            factors[f"{part}.{layer}"] = (up, down)
            kept = min(kept, share)
    tensors = _named(factors)
    _write(folder, tensors, overwrite)
    nbytes = nbytes_of(tensors.values())
    return {"rank": max(up.shape[1] for up, _ in factors.values()), "nbytes": nbytes, "kept": kept}


def save_pipeline(erasure: WeightErasure, pipe: Any, folder: str | os.PathLike[str]) -> None:
    """Write the pipeline with the changed weights in it, by its own `save_pretrained`: it needs no efface.

    Args:
        erasure: The erasure.
        pipe: A pipeline that it suits, or a view of one; it is left as it is.
        folder: Where to; it must be new or empty.

    Raises:
        InputError: If the erasure does not suit the pipeline, or the folder has something in it.
    """
    check_call(save_pipeline, locals())
    _in_weights(erasure)
    view = _view(pipe)
    path = _room(folder)
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} has something in it: name another folder")
    with erasure.on(view), atomic_dir(path) as made:
        view.pipe.save_pretrained(made)


def _in_weights(erasure: WeightErasure) -> None:
    """Refuse a change that is not in the weights, but let in by each prompt."""
    if not all(isinstance(edit, OnWeights) for edit in erasure.edits):
        raise InputError(
            f"this {type(erasure).__name__} leaves weights alone, as each prompt lets in its share: what is on for "
            "every prompt can be exported, erasure.whole()"
        )


def _view(pipe: Any) -> PipelineView:
    subject = as_subject(pipe)
    if subject.kind != "pipeline":
        raise InputError(f"an erasure of weights is exported with its pipeline, not with {subject!r}")
    return subject.view


def _checked(erasure: WeightErasure, pipe: Any) -> PipelineView:
    """The view of a pipeline that an erasure goes on."""
    _in_weights(erasure)
    view = _view(pipe)
    erasure.on(view).undo()
    return view


def _layer(model: nn.Module, part: str, name: str) -> str:
    """The path of the linear layer whose weight a name is."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    if last != "weight" or not isinstance(module, nn.Linear):
        kind = f"{name} of {part} ({type(module).__name__})"
        raise InputError(f"a LoRA changes weights of linear layers, not {kind}: write save_pipeline")
    return path


def _factored(name: str, weight: Tensor, changes: tuple[Change, ...], rank: int | None) -> tuple[Tensor, Tensor, float]:
    """Factors of a change, and the share of its energy that they keep."""
    store = torch.promote_types(weight.dtype, torch.float32)
    if rank is None and (low := _low_rank(changes)) is not None:
        return low[0].to(store), low[1].to(store), 1.0
    before = weight.detach().double()
    after = before
    for change in changes:
        after = change.on(after)
    u, s, vh = torch.linalg.svd(after - before, full_matrices=False)
    full = int((s > s.max() * _EXACT).sum()) if len(s) else 0
    n, (out, width) = full if rank is None else min(rank, full), weight.shape
    energy = s.square()
    share = float(energy[:n].sum() / energy.sum()) if full else 1.0
    if rank is None and n * (out + width) >= out * width:
        half = out * width // (2 * (out + width))
        left = float(1 - energy[:half].sum() / energy.sum())
        raise InputError(
            f"the change of {name} has rank {n}, and as a LoRA it would be larger than the matrix: write rank=N for "
            f"the best of a lower rank (rank={half} loses {left:.2g} of its energy), or save_pipeline"
        )
    root = s[:n].sqrt()
    return (u[:, :n] * root).to(store), (root[:, None] * vh[:n]).to(store), share


def _low_rank(changes: tuple[Change, ...]) -> tuple[Tensor, Tensor] | None:
    """Factors of changes that have them."""
    if not all(isinstance(change, LowRank) and not change.turned for change in changes):
        return None
    lows = [change for change in changes if isinstance(change, LowRank)]
    return torch.cat([low.up for low in lows], 1), torch.cat([low.down for low in lows])


def _named(factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Tensors as diffusers names them, of one rank: what is missing is zeros."""
    if not factors:
        raise InputError("the erasure changes no weight: there is nothing to export")
    rank = max(1, *(up.shape[1] for up, _ in factors.values()))
    found = {}
    for path, (up, down) in factors.items():
        more = rank - up.shape[1]
        found[f"{path}.lora_B.weight"] = torch.nn.functional.pad(up, (0, more)).cpu().contiguous()
        found[f"{path}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, more)).cpu().contiguous()
    return found


def _room(folder: str | os.PathLike[str]) -> Path:
    path = as_path(folder)
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{path} is a file, and this writes a folder: name another one")
    return path


def _write(folder: str | os.PathLike[str], tensors: dict[str, Tensor], overwrite: bool) -> None:
    path = _room(folder)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} has something in it: name another folder, or write overwrite=True")
    with atomic_dir(path) as made:
        save_file(tensors, made / LORA, metadata={"format": "pt"})
