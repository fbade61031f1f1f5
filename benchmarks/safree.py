"""SAFREE on a world, taken apart: which of its parts holds it back, and which rows hold the concept.

python -m benchmarks.safree [--world shapes] [--concepts star circle dotted] [--templates 5 --seeds 4 --steps 30]

SAFREE projects the rows of a prompt's trigger words, and its self-validating filter decides for how many steps. The
first rows take the filter away (`self_validating=False`), then project other rows in the same way for all steps: all of
the prompt's words, all rows behind them (the end of text and the padding, which the denoiser reads too), and both. The
last rows change no direction: they put the rows of a prompt that names another concept in place of the same rows, which
tells where the concept is to be read. Shares are judge 2's of the concept's own prompts, with Wilson's interval over
images of all concepts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world, kept_by, looked_at, seen
from efface import PipelineView, erase
from efface.diffusion.text.safree.erasure import Safree
from efface.diffusion.text.safree.masking import masked_prompt
from efface.pipelines.embedding import PromptEmbedding

Rows = Callable[[PipelineView, str, int], Tensor]
"""View, prompt, number of rows -> which of them, `(rows,)`."""


def words(view: PipelineView, prompt: str, n: int) -> Tensor:
    """The rows of the prompt's words."""
    (masked,) = masked_prompt(view, prompt).values()
    return torch.isin(torch.arange(n), masked.rows)


def behind(view: PipelineView, prompt: str, n: int) -> Tensor:
    """The rows behind the words: the end of text and the padding."""
    (masked,) = masked_prompt(view, prompt).values()
    return torch.arange(n) > masked.rows.max()


def both(view: PipelineView, prompt: str, n: int) -> Tensor:
    """All rows but the start of text."""
    return words(view, prompt, n) | behind(view, prompt, n)


_CONCEPTS = {"shapes": ["star", "circle", "dotted"], "emoji": ["cat", "banana", "twemoji"]}
ROWS: dict[str, Rows] = {"word rows": words, "rows behind them": behind, "all rows": both}


def projected(view: PipelineView, erasure: Safree, rows: Rows) -> Callable[[PromptEmbedding], PromptEmbedding]:
    """An edit that projects these rows of every prompt as SAFREE does those of triggers."""
    (part,) = erasure.bases

    def edit(embedding: PromptEmbedding) -> PromptEmbedding:
        sequence = embedding.sequence.clone()
        for i, prompt in enumerate(embedding.prompts):
            at = rows(view, prompt, sequence.shape[1])
            moved = erasure.project(sequence[i], part, masked_prompt(view, prompt)[part])
            sequence[i, at] = moved[at].to(sequence.dtype)
        return embedding.replace(sequence=sequence)

    return edit


def exchanged(studio: Studio, name: str, rows: Rows) -> Callable[[PromptEmbedding], PromptEmbedding]:
    """An edit that puts the rows of the same prompt with another concept of its kind in place of these rows."""
    view, embedded = studio.view, studio.world.of_room("embed_prompts")
    other, encoder = studio.others_of(name)[-1], (view.pipe.text_encoder, view.pipe.tokenizer)

    def edit(embedding: PromptEmbedding) -> PromptEmbedding:
        sequence = embedding.sequence.clone()
        instead = embedded(*encoder, [prompt.replace(name, other) for prompt in embedding.prompts])
        for i, prompt in enumerate(embedding.prompts):
            at = rows(view, prompt, sequence.shape[1])
            sequence[i, at] = instead[i, at]
        return embedding.replace(sequence=sequence)

    return edit


def ways(studio: Studio, name: str) -> dict[str, Any]:
    """Label -> what is put on the pipeline while it samples, made anew each time."""
    view = studio.view
    erasure, unfiltered = (cast(Safree, erase(view, name, "safree", self_validating=f)) for f in (True, False))
    return {
        "nothing": nullcontext,
        "SAFREE as released": lambda: erasure.on(view),
        "without its filter: trigger rows, all steps": lambda: unfiltered.on(view),
        **{f"{label} projected, all steps": _edited(view, projected(view, erasure, r)) for label, r in ROWS.items()},
        **{
            f"{label} of another concept's prompt": _edited(view, exchanged(studio, name, r))
            for label, r in ROWS.items()
        },
    }


def _edited(view: PipelineView, edit: Callable[[PromptEmbedding], PromptEmbedding]) -> Callable[[], Any]:
    return lambda: view.edited(edit)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", help="default: three of the world's tables")
    for option, value in (("templates", 5), ("seeds", 4), ("steps", None)):
        parser.add_argument(f"--{option}", type=int, default=value)
    args = parser.parse_args()
    studio = Studio.of(args, steps=args.steps)
    concepts = studio.concepts(args.concepts or _CONCEPTS[args.world])
    answers: dict[str, list[Tensor]] = {}
    kept: dict[str, list[float]] = {}
    for name in concepts:
        for label, put_on in ways(studio, name).items():

            def sample(prompts: Sequence[str], seeds: Sequence[int], put_on: Any = put_on) -> Tensor:
                with put_on():
                    return studio.view.sample(list(prompts), list(seeds), **studio.options)

            said, scenes = looked_at(studio, sample, name, args.templates, range(args.seeds))
            answers.setdefault(label, []).append(said.shows(name))
            kept.setdefault(label, []).append(kept_by(studio.world, said, scenes, name))
    rows = []
    for label, found in answers.items():
        each = [seen(a) for a in found]
        whole, unsaid = seen(torch.cat(found)), torch.cat(found).isnan().double().mean()
        shown = "-" if whole is None else f"{100 * whole.value:.0f} [{100 * whole.low:.0f}, {100 * whole.high:.0f}]"
        per = ", ".join("-" if i is None else f"{100 * i.value:.0f}" for i in each)
        rest = 100 * sum(kept[label]) / len(kept[label])
        rows.append((label, shown, per, f"{100 * unsaid:.0f}", f"{rest:.0f}"))
    header = ("on", "still seen, per cent", ", ".join(concepts), "cannot say", "rest kept")
    table(f"SAFREE taken apart, {args.templates * args.seeds} images a concept", header, rows)


if __name__ == "__main__":
    main()
