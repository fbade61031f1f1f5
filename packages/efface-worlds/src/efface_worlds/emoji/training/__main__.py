"""Train the emoji world: `python -m efface_worlds.emoji.training STAGE [STAGE ...] --work FOLDER`.

Stages: vae, decoder, judge, judge2, latents, unet, gold, seed2, gold:NAME, all. `ship` copies what is finished to
where the package reads it, `measure` adds what the judges are worth to `training.json`, and `quality` writes what the
pipeline draws of each concept to `quality.json`. Interrupted or killed, a stage goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from efface_worlds.emoji.networks import NETWORKS
from efface_worlds.emoji.shipped import load_emoji_pipeline, load_judge
from efface_worlds.emoji.training.measuring import measure
from efface_worlds.emoji.training.quality import measure_quality
from efface_worlds.emoji.training.stages import STAGES, autoencoder, run_stage, ship

_WEIGHTS = Path(__file__).parents[1] / "weights"
_GOLD = Path(__file__).parents[1] / "gold"


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stages", nargs="+", metavar="STAGE", help=f"{', '.join(STAGES)}, all, ship, measure or quality"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    everything = (*STAGES, "ship", "measure", "quality")
    for name in [name for stage in args.stages for name in (everything if stage == "all" else (stage,))]:
        if name == "ship":
            ship(args.work, _WEIGHTS, _GOLD)
        elif name == "measure":
            measure(_WEIGHTS, autoencoder(args.work))
        elif name == "quality":
            judges = {f"judge{which}": load_judge(which) for which in NETWORKS if (_WEIGHTS / f"judge{which}").is_dir()}
            measure_quality(load_emoji_pipeline(), judges, _WEIGHTS / "quality.json")
        else:
            run_stage(name, args.work, device=args.device)


if __name__ == "__main__":
    sys.exit(main())
