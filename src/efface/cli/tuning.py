"""DiET's tuned copy for `efface explain`: tuned, resumed after an interruption, saved."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from efface._errors import InputError
from efface.attribution.fitted import DietErasure
from efface.attribution.maskers import Masker
from efface.attribution.removal import Removal
from efface.cli import Say
from efface.explanation.mapping import Setting, default_masker


def student_of(
    args: argparse.Namespace, model: nn.Module, train: Tensor | None, removal: Removal, masker: Masker | None, say: Say
) -> DietErasure:
    """A copy tuned on images; with `--student` it is saved there, and a tuning that was interrupted goes on.

    Raises:
        InputError: If there are no images to tune on.
    """
    if train is None:
        raise InputError("--method diet tunes a copy of the model: write --train FOLDER")
    setting = Setting(
        removal,
        masker or default_masker(train),
        args.outputs,
        steps=args.steps,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    say(f"tuning a copy of the model on {len(train)} images")
    unfinished = None if args.student is None else Path(f"{args.student}.unfinished")
    asked = {"rate": args.rate, "least_agreement": args.least_agreement}
    diet = replace(setting.diet(), **{name: value for name, value in asked.items() if value is not None})
    fitted = diet.fit(model, train, checkpoint=unfinished)
    if args.student is not None:
        fitted.save(args.student)
        say(f"the tuned copy is in {args.student}")
    return fitted
