"""Train the shapes world: `python -m efface_worlds.shapes.training STAGE [STAGE ...] --work FOLDER`.

Stages: vae, judge, judge2, text, latents, unet, seed2, gold:NAME, all; where only the judges are trained anew `judge
judge2 tower`. Whatever comes before a stage and was not trained in the folder is what ships (autoencoder and text
encoder). gold:NAME@SEED is a gold model of another seed, for who wants a second one: it is not shipped. `ship` copies
what is finished to where the package reads it, and `measure` adds what it is worth to `training.json`. Interrupted or
killed, a stage goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from efface_worlds.shapes.training.measuring import measure
from efface_worlds.shapes.training.stages import STAGES, run_stage, ship

_WEIGHTS = Path(__file__).parents[1] / "weights"
_GOLD = Path(__file__).parents[1] / "gold"


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", metavar="STAGE", help=f"{', '.join(STAGES)}, all, ship or measure")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    names = [name for stage in args.stages for name in ((*STAGES, "ship", "measure") if stage == "all" else (stage,))]
    for name in names:
        if name == "ship":
            ship(args.work, _WEIGHTS, _GOLD)
        elif name == "measure":
            measure(_WEIGHTS)
        else:
            run_stage(name, args.work, device=args.device)


if __name__ == "__main__":
    sys.exit(main())
