"""Checkpoints, and the fits that go on from them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import efface
from efface.core import checkpoint
from efface.core.method import get_method
from efface.scrubbing.fitting import scrub
from tests import models, squares
from tests.fuzz import files


class Stop(BaseException):
    """Ends a fit on the way, as an interrupt does."""


def checkpoints(work: Path) -> list[files.Saved]:
    """A checkpoint of every kind of fit, on its way."""
    found = []
    for name, fit in (("scrub", _scrub), ("diet", _diet)):
        folder = work / f"checkpoint-{name}"
        _stopped(fit, folder)
        found.append(files.Saved(folder.name, folder, _resuming(fit)))
    return found


def _scrub(folder: Path) -> Any:
    tokens = models.tokens()
    options = {"sites": "norms", "batch_size": 1, "checkpoint": folder}
    return scrub(models.tiny("llama"), {"input_ids": tokens}, tokens % 3, **options)


def _diet(folder: Path) -> Any:
    from tests.cases import CASES

    data = CASES["classifier"].given(get_method("diet", "classifier"))
    data |= {"x": squares.squares(8)[0], "rounds": 2}
    given = {"checkpoint": folder, "checkpoint_seconds": 0.0}
    return efface.erase(squares.colour_net(), "distractors", method="diet", **data, **given)


def _stopped(fit: Callable[[Path], Any], folder: Path) -> None:
    """Let a fit write until it is well on its way."""
    real, left = checkpoint.Checkpoint.write, [4]

    def write(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        left[0] -= 1
        if not left[0]:
            raise Stop

    before, checkpoint.Checkpoint.write = checkpoint.SECONDS, write
    checkpoint.SECONDS = 0.0
    try:
        fit(folder)
    except Stop:
        return
    finally:
        checkpoint.Checkpoint.write, checkpoint.SECONDS = real, before
    raise AssertionError("the fit was over before it was stopped")


def _resuming(fit: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Go on from a copy, as the end of a fit removes its checkpoint."""

    def resume(folder: Path) -> Any:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as other:
            outside = Path(other) / "precious"
            outside.mkdir()
            (outside / "thesis.txt").write_text("ten years of work")
            shutil.copytree(folder, Path(other) / "fit")
            try:
                found = fit(Path(other) / "fit")
            finally:
                assert (outside / "thesis.txt").read_text() == "ten years of work"
            return found

    return resume
