"""The stages in order; each reads what those before it left in the work folder, and leaves its own there.

A stage that is finished has a `training.json` and is not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import load_folder, reading, save_folder, write_json
from efface._lazy import require
from efface_worlds.emoji.networks import NETWORKS, JudgeNetwork
from efface_worlds.emoji.training.judges import train_judge
from efface_worlds.loading import quiet_transformers

STAGES = ("judge", "judge2")


def run_stage(name: str, work: Path, **options: Any) -> None:
    """Run one stage, or go on with it.

    Args:
        name: One of `STAGES`.
        work: The folder that all stages share.
        options: For the training loop.

    Raises:
        InputError: If there is no such stage, or an earlier one has not been run.
    """
    if name not in STAGES:
        raise InputError(f"{name!r} is no stage: write one of {', '.join(STAGES)}")
    folder = work / name
    if _finished(folder):
        print(f"{name}: finished, see {folder / 'training.json'}")
        return
    with quiet_transformers():
        facts = _STAGES[name](work, folder, name, options)
    write_json(folder / "training.json", facts)


def _judge(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    which = 2 if name.endswith("2") else 1
    net, facts = train_judge(which, folder, vae=autoencoder(work), **options)
    save_folder(folder, {"type": "EmojiJudge", "which": which}, net.state_dict())
    return facts


_STAGES = {"judge": _judge, "judge2": _judge}


def autoencoder(work: Path) -> Any:
    """The autoencoder that was trained in a work folder."""
    kl = require("diffusers", extra="diffusion").AutoencoderKL
    return kl.from_pretrained(_before(work, "vae")).float().eval().requires_grad_(False)


def _before(work: Path, name: str) -> Path:
    if not _finished(work / name):
        raise InputError(f"{work / name} is not finished: run  python -m efface_worlds.emoji.training {name}  first")
    return work / name


def read_judge(folder: Path) -> JudgeNetwork:
    """A judge from its folder."""
    config, tensors = load_folder(folder, expect="EmojiJudge")
    with reading(folder):
        net = NETWORKS[config["which"]]()
        net.load_state_dict(tensors)
    return net.eval()


def ship(work: Path, weights: Path) -> None:
    """Copy what is finished, in half precision, to where the package reads it."""
    path = weights / "training.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, folder in (("judge", "judge1"), ("judge2", "judge2")):
        if _finished(work / name):
            config, tensors = load_folder(work / name, expect="EmojiJudge")
            half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
            save_folder(weights / folder, {"type": config["type"], "which": config["which"]}, half)
            facts[name] = _facts(work / name)
            facts.pop("measured", None)  # it was of others
    write_json(path, facts)


def _finished(folder: Path) -> bool:
    return (folder / "training.json").is_file()


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))
