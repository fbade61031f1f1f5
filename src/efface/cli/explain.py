"""`efface explain`: which part of each image a classifier listens to, and what the maps that say so are worth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from efface.cli import add_command
from efface.cli.fit import at_least_one

_HELP = "show which part of each image a classifier listens to, next to controls"
_DESCRIPTION = """Show which part of each image a classifier listens to, and measure the maps that say so.

  efface explain digits -o report.html
  efface explain my-vit/ photos/ --method qfa --method gradient -o report.html
  efface explain mypackage.models:make_net photos/ --weights net.safetensors --size 224 -o report.html
  efface explain my-vit/ photos/ --method diet --train training-photos/ --student student/ -o report.html

MODEL is a folder that transformers can load as an image classifier (with its image processor), or
package.module:factory, a function without arguments that returns a torch module, or a world of efface-worlds:
"digits" (a classifier trained where a corner patch goes with the class), "hard-digits", "block-digits", "shape-pairs".
IMAGES is an image or a folder of them, in any depth; a world has images of its own. Pickled files are not read.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(subparsers, run, help=_HELP, description=_DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="folder of transformers, package.module:factory, or a world")
    parser.add_argument("images", metavar="IMAGES", nargs="?", type=Path, help="an image, or a folder of images")
    parser.add_argument("-o", "--output", metavar="FILE", help="report to write: .html, .json or .md")
    parser.add_argument("--maps", type=Path, metavar="DIR", help="write maps (safetensors) and overlays (PNG) here")
    parser.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="qfa (default), diet, gradient, ...; may be given several times",
    )
    _add_model(parser)
    _add_masks(parser)
    parser.add_argument(
        "--labels", action="store_true", help="names of folders are true classes: tell them in the report"
    )
    limit = "explain a random sample of so many images of a larger folder (default: 64)"
    parser.add_argument("--limit", type=at_least_one, default=64, metavar="N", help=limit)
    parser.add_argument("--show", type=at_least_one, default=8, metavar="N", help="pictures in the report (default: 8)")
    parser.add_argument("--batch-size", type=at_least_one, default=32, metavar="N", help="images at once (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model of package.module:factory")
    group.add_argument("--weights", type=Path, metavar="FILE", help="its weights: .safetensors")
    group.add_argument("--size", metavar="HxW", help="size of its images, e.g. 224 or 224x320 (default: theirs)")
    group.add_argument("--mean", metavar="M,M,M", help="what it subtracts from pixels in [0, 1] (default: nothing)")
    group.add_argument("--std", metavar="S,S,S", help="what it divides by")
    group.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of its classes, one a line, in the order of its outputs"
    )
    group.add_argument("--outputs", choices=("logits", "probabilities"), default="logits", help="default: logits")


def _add_masks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("masks")
    group.add_argument(
        "--removal", choices=("constant", "blur", "marginal"), help="what stands where something is removed"
    )
    group.add_argument(
        "--blur", type=float, metavar="PIXELS", help="spread of --removal blur (default: an eighth of the shorter side)"
    )
    cells = group.add_mutually_exclusive_group()
    cells.add_argument("--cells", type=at_least_one, metavar="N", help="N x N cells (default: about 16 x 16)")
    cells.add_argument("--upsampling", type=at_least_one, metavar="N", help="cells of N x N pixels")
    group.add_argument("--steps", type=at_least_one, default=30, metavar="N", help="passes of the search (default: 30)")
    group.add_argument(
        "--train", type=Path, metavar="DIR", help="images that diet tunes on, and that removal draws from"
    )
    group.add_argument(
        "--train-limit", type=at_least_one, default=800, metavar="N", help="so many of them at most (default: 800)"
    )
    group.add_argument("--rate", type=float, metavar="R", help="diet's learning rate (default: 0.0001)")
    group.add_argument(
        "--least-agreement",
        type=float,
        metavar="S",
        help="share of the images tuned on of which diet's copy must say the same as the model (default: 0.97)",
    )
    group.add_argument(
        "--student", type=Path, metavar="DIR", help="diet's tuned copy: read from here, or tuned and written here"
    )


def run(args: argparse.Namespace) -> None:
    """Explain and report."""
    from efface.cli.explaining import explain_images

    explain_images(args)
