"""What an anchor does to the erasers that take one, and what many concepts at once do to them: images judged.

python -m benchmarks.anchor_effects [choice many reached] [--world emoji] [--methods uce speed oce]
    [--concepts 12 --images 4] [--counts 100 30 10 3 1 --anchors parent SELECT] [--soft] [--cells FOLDER]

"choice": each concept is erased alone, with each anchor: nothing (""), its parent, a random sibling, the word that AGE
finds ("--soft"; two rounds, its erasure is UCE's), SELECT's, and SELECT's with its boundary as words to preserve.
Beside that all preserve the same strangers. ACC_e: share of images of its prompts in which judge 2 sees it; ACC_g: the
same of its synonyms in templates that nothing was trained on; near: siblings that no choice names; boundary: one
word of SELECT's boundary; far: strangers that nobody preserves, each seen at its prompts. H: harmonic mean of
1 - ACC_e, 1 - ACC_g and the mean of near and far, an interval over concepts. "leaves": where the concept is asked for,
the share of images in which judge 2 sees it or cannot say what it sees. Last, SELECT less each other anchor,
concepts resampled alike for both. FID, KID: of judge 1's features of what is kept, from what is drawn at
other seeds without an erasure. What is drawn without one has such distances, too: FID's depends on n, KID's is below
0, as both sides have the same words: read either less that.

"many": the first n of the world's concepts, in an order by seed, at once, with their parents as anchors and with
SELECT's and its boundary (or what --anchors names); all preserve the same strangers. Some of them are drawn, and
siblings and strangers that no choice names. Seconds are of the processor, choice of anchors and fit apart. With --last
it is the last n of that order: others, as long as n is under half of them.

"reached": of the same, by each way in which SPEED can hold what is retained, how far the concepts' keys move of how far
they would, and how far the values of words' own last rows move, in lengths of these values. Nothing is drawn.

With --ablate also the anchors that one stage of SELECT alone would choose, the nearest, and the farthest that passes.
With --cells each cell is written as soon as it is drawn, with its pictures: the same command goes on where it was
interrupted, and pictures of a table are written beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks._anchor_choice import ALONE, FEW, SELECT, choice, family
from benchmarks._anchor_many import KINDS, PARENT, crowds, many, reached
from benchmarks._seen import Cells
from benchmarks._studio import Studio, add_world


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["choice", "many"], help="choice, many (default: both), reached")
    add_world(parser)
    parser.add_argument("--methods", nargs="*", default=["uce", "rece", "speed", "oce", "mace@adapters=false"])
    parser.add_argument("--concepts", type=int, default=12)
    parser.add_argument(
        "--names", nargs="*", help="these concepts; several processes may draw some each into one folder"
    )
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--counts", nargs="*", type=int, default=[100, 30, 10, 3, 1])
    parser.add_argument("--anchors", nargs="*", choices=KINDS, default=[PARENT, SELECT], help="of many: which anchors")
    parser.add_argument("--last", action="store_true", help="of many: the last n of the order, to choose by")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--each", type=int, default=2, help="of choice: how many siblings and strangers are drawn")
    parser.add_argument("--distance", action=argparse.BooleanOptionalAction, default=True, help="FID, KID")
    parser.add_argument("--soft", action="store_true")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--cells", type=Path)
    args = parser.parse_args()
    studio = Studio.of(args, steps=args.steps)
    cells = Cells(args.cells, (args.world, str(args.pipeline), sorted(studio.options.items()), args.images))
    things = [n for n in studio.world.shown if studio.world.concept(n).factor == _factor(studio)]
    things = [n for n in things if not getattr(studio.world.concept(n), "profession", None)]
    things = [n for n in things if len(family(studio, n)) > FEW]
    if "choice" in args.sections:
        things = args.names or things[: args.concepts]
        more = (args.soft, args.ablate, args.each, args.distance)
        choice(studio, cells, args.methods, things, args.images, *more)
    if {"many", "reached"} & {*args.sections}:
        of = crowds(studio, cells, args.counts, args.last, bool({ALONE, SELECT} & {*args.anchors}))
        if "many" in args.sections:
            many(studio, cells, args.methods, args.anchors, of, args.images, args.distance)
        if "reached" in args.sections:
            reached(studio, args.anchors, of)


def _factor(studio: Studio) -> str:
    return studio.world.concept(studio.world.shown[0]).factor


if __name__ == "__main__":
    main()
