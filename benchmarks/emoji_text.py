"""The text encoder of the emoji world: which row tells of a concept, what gates make of it, edits told where to act.

python -m benchmarks.emoji_text [presence near gates drawn removal] [--concepts 20] [--images 20] [--steps 20]

Prompts are in held-out templates: by a concept's name, by synonyms that captions of the training split use ("read"),
and by synonyms that none uses. A concept is told by its name and the synonyms that are read. Without it are prompts for
four siblings (and, for presence, for all the other concepts); a gate is told these siblings, and is asked for others,
too. Controls of presence must find nothing: areas of .5. `near` takes all concepts. `drawn` (by which wordings the
pipeline draws a concept) and `removal` need the weights that ship.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import table
from efface import Concept, InputError, PipelineView, erase
from efface.core.run import Run
from efface.core.subjects import as_subject
from efface.diffusion.text.semantic_surgery.erasure import SemanticSurgery
from efface.pipelines.embedding import PromptEmbedding
from efface.stats.intervals import wilson_interval
from efface_worlds import emoji
from efface_worlds.emoji import acceptance
from efface_worlds.emoji.shipped import build_pipeline
from efface_worlds.emoji.text import load_text_encoder
from efface_worlds.emoji.training.autoencoder import build_autoencoder
from efface_worlds.emoji.training.denoiser import build_denoiser, build_scheduler

SIBLINGS, READ = 4, 2


def percent(hits: Tensor) -> str:
    """A share in per cent with Wilson's interval."""
    i = wilson_interval(float(hits.sum()), len(hits))
    return f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]"


def presence_table(names: Sequence[str]) -> None:
    """AUROC of every row, as it is and centred; and of one row under the controls."""
    encoder = load_text_encoder()
    header = ("row", "", *(f"{w}: {a}" for w in ("name", "read", "unread") for a in ("others", "siblings")))
    found = acceptance.presence(*encoder, names)
    rows = [(row, "centred" if centred else "raw", *areas(each)) for (row, centred), each in found.items()]
    for control in get_args(acceptance.Control):
        each = acceptance.presence(*encoder, names, control=control)["first", True]
        rows.append(("first", f"centred, other {control}", *areas(each)))
    table(f"Presence of {len(names)} concepts, AUROC: mean (least)", header, rows)


def areas(found: Mapping[str, Mapping[acceptance.Wording, acceptance.Presence]]) -> list[str]:
    """Means of areas over concepts, and the least ones."""
    cells = []
    for wording in get_args(acceptance.Wording):
        for against in acceptance.Presence._fields:
            each = [getattr(of[wording], against) for of in found.values()]
            cells.append(f"{np.mean(each):.3f} ({min(each):.2f})")
    return cells


def near_table() -> None:
    """Siblings and strangers of all concepts, as directions of the first row."""
    names = [each.name for each in emoji.CONCEPTS if emoji.siblings(each.name)]
    found = acceptance.nearness(*load_text_encoder(), names)
    rows = []
    for kind in ("thing", "person"):
        each = [found[name] for name in names if bool(emoji.concept(name).profession) == (kind == "person")]
        nearer = torch.tensor([near > far for near, far in each])
        near, far = np.mean(each, 0)
        rows.append((kind, len(each), f"{near:.3f}", f"{far:.3f}", percent(nearer)))
    table("Cosine of directions", ("concepts", "n", "siblings", "strangers", "siblings nearer, %"), rows)
    print("\nStrangers nearer:", ", ".join(name for name, (near, far) in found.items() if near <= far))


def told(name: str) -> Concept:
    """A concept as a user would tell it."""
    found = emoji.concept(name)
    return Concept(name, synonyms=found.synonyms[:READ], preserve=emoji.siblings(name)[:SIBLINGS])


def gates_table(names: Sequence[str], scores: Sequence[str | None]) -> None:
    """Misses and false alarms of gates of every score, by wording."""
    parts = build_denoiser((8, 16, 16)).eval(), build_autoencoder().eval(), build_scheduler()
    view = PipelineView.of(build_pipeline(*parts))  # untrained: gates read text alone
    fired: dict[str | None, dict[str, list[Tensor]]] = {score: {} for score in scores}
    picked: dict[str, int] = {}
    refused = dict.fromkeys(scores, 0)
    for name in names:
        of, near, far = emoji.concept(name), emoji.siblings(name), emoji.strangers(name)[::40]
        kinds = {
            "name": acceptance.said(name, name, 6),
            "read": [t for word in of.synonyms[:READ] for t in acceptance.said(name, word, 3)],
            "unread": [t for word in of.unread[:READ] for t in acceptance.said(name, word, 3)],
            "told": [t for other in near[:SIBLINGS] for t in acceptance.said(other, other, 3)],
            "siblings": [t for other in near[SIBLINGS : 2 * SIBLINGS] for t in acceptance.said(other, other, 3)],
            "strangers": [t for other in far for t in acceptance.said(other, other, 1)],
        }
        encoded = {kind: view.encode(texts, allow_unknown=True) for kind, texts in kinds.items() if texts}
        for score in scores:
            try:
                erasure = erase(view, told(name), method="semantic-surgery", score=score)
            except InputError:  # its calibration does not separate
                refused[score] += 1
                continue
            for kind, embedding in encoded.items():
                fired[score].setdefault(kind, []).append(erasure.reading(embedding)[:, 0] > 0)
            if score is None:
                for (gate,) in erasure.gates:
                    picked[gate.score] = picked.get(gate.score, 0) + 1
    rows = []
    for score, found in fired.items():
        hits = {kind: torch.cat(each) for kind, each in found.items()}
        misses = [percent(~hits[kind]) for kind in ("name", "read", "unread")]
        rows.append(
            (
                score or "chosen",
                *misses,
                *(percent(hits[kind]) for kind in ("told", "siblings", "strangers")),
                refused[score],
            )
        )
    header = ("score", "name", "read", "unread", "siblings told", "other siblings", "strangers", "concepts refused")
    table(f"Gates of {len(names)} concepts, per cent missed, and false alarms; chosen: {picked}", header, rows)


def removal_table(names: Sequence[str], images: int, steps: int) -> None:
    """Edits that are told that every prompt has the concept."""
    pipeline, judge = emoji.load_emoji_pipeline(), emoji.load_judge(2)
    encoder = (pipeline.text_encoder, pipeline.tokenizer)
    kinds = {"subtraction": lambda name: acceptance.subtracted(*encoder, name), "to the anchor": Told(pipeline)}
    rows = []
    for kind, edit_of in kinds.items():
        before, after = {}, {}
        for i, name in enumerate(names):
            sides = acceptance.removal(pipeline, judge, name, edit_of(name), images, seed=7 + 1000 * i, steps=steps)
            for total, side in zip((before, after), sides, strict=True):
                for factor, hits in side.items():
                    total.setdefault(factor, []).append(hits)
        cells = [f"{percent(torch.cat(before[f]))} -> {percent(torch.cat(after[f]))}" for f in before]
        rows.append((kind, *cells))
    table(f"Told where to act, {images} pictures of {len(names)} concepts: per cent seen", ("edit", *before), rows)


def drawn_table(names: Sequence[str], images: int, steps: int) -> None:
    """Pictures in which judge 2 sees the concept that was asked for, by wording."""
    pipeline, judge = emoji.load_emoji_pipeline(), emoji.load_judge(2)
    found: dict[str, list[Tensor]] = {}
    for i, name in enumerate(names):
        asked = emoji.prompts_for(name, images, seed=i)
        one = emoji.concept(name)
        words = {"name": one.name, "synonym, read": one.synonyms[0], "synonym, unread": one.unread[0]}
        texts = {kind: plain_by(asked.scenes, word) for kind, word in words.items()}
        texts["name, in held-out templates"] = emoji.prompts_for(name, images, seed=i, templates="held_out").texts
        for kind, told in texts.items():
            drawn = emoji.generate(pipeline, told, seed=1000 * i, steps=steps)
            found.setdefault(kind, []).append(judge.judge(drawn).shows(name) == 1)
    rows = [(kind, len(each), percent(torch.cat(each))) for kind, each in found.items()]
    table(f"Drawn as asked, {images} pictures a concept and wording", ("wording", "concepts", "seen, per cent"), rows)


def plain_by(scenes: emoji.Scenes, word: str) -> list[str]:
    """Plain prompts by another word for what scenes show, in their styles and on their grounds."""
    styles, grounds = ([each.name for each in emoji.FACTORS[factor]] for factor in ("style", "background"))
    told = zip(scenes.style.tolist(), scenes.background.tolist(), strict=True)
    return [emoji.prompt(word, style=styles[s], background=grounds[b]) for s, b in told]


class Told:
    """Semantic Surgery without its gate: every prompt has the concept.

    Args:
        pipeline: The pipeline.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline, self.view = pipeline, PipelineView.of(pipeline)

    def __call__(self, name: str) -> acceptance.Edit:
        """The edit of one concept."""
        erasure = erase(self.view, told(name), method="semantic-surgery")
        assert isinstance(erasure, SemanticSurgery)

        def edit(prompts: list[str], embedded: Tensor) -> Tensor:
            whole = PromptEmbedding(embedded, layout=self.view.text.layout, prompts=tuple(prompts))
            share = torch.ones(len(prompts), len(erasure.words))
            run = Run(as_subject(self.pipeline), repr(erasure), None)
            return erasure.operated(run.view, whole, [(name,)] * len(prompts), share).sequence

        return edit


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ("presence", "near", "gates", "drawn", "removal")
    parser.add_argument("sections", nargs="*", default=sections[:3], metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--images", type=int, default=20, help="of each concept (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = acceptance.examples(args.concepts)
    jobs = {
        "presence": lambda: presence_table(names),
        "near": near_table,
        "gates": lambda: gates_table(names, ("last", "centred first", "word", None)),
        "drawn": lambda: drawn_table(names, args.images, args.steps),
        "removal": lambda: removal_table(names, args.images, args.steps),
    }
    for section in args.sections:
        jobs[section]()


if __name__ == "__main__":
    main()
