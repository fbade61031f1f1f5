"""SPM's two claims of transport: an adapter that prompts let in by nearness, and one that goes on another model.

python -m benchmarks.transport [--concepts circle heart] [--images 16] [--others 4] [--steps 15] [--tuned 100]
    [--fit anchor=sibling+...] [--cells FOLDER]

Fitted on seed2 of the shapes, whole (for every prompt) and let in by nearness (`transport="both"`), and put on

- "its own": seed2;
- "a descendant": seed2 trained so many steps further on pictures of the style --style, as SD 1.5 and community models
  come from SD 1.4;
- "another training": the shipped pipeline, from other first weights; its text encoder is the same.

Beside it: nothing, what is fitted on that model itself, and `uce` that was fitted on seed2, with a sibling as anchor.
ACC_e, ACC_g: pictures of its prompts and of its synonyms in held-out templates in which judge 2 sees the concept,
others: pictures of other objects in which it sees these; of all concepts together, with Wilson's intervals of pictures,
those of which it cannot say counted as not seen. Let in: the mean share that these prompts get. `check=False` puts an
erasure on weights that it was not fitted on, which is refused otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import table
from benchmarks._seen import Asked, Cells, Seen, drawn
from benchmarks._studio import Studio
from benchmarks.probes import case_of
from efface import Erasure, PipelineView
from efface.audit.pipelines.probes.conditions import asked as prompted
from efface.audit.pipelines.probes.latents import encoded
from efface.audit.pipelines.probes.panel import BASE
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.tuned import Tuned
from efface.diffusion.weights.permeable import PermeableErasure
from efface.stats.intervals import wilson_interval
from efface_worlds.registry import find_world

OWN, DESCENDANT, OTHER = "its own", "a descendant", "another training"
FIT = "anchor=sibling+rank=4+learning_rate=1e-2+keeping=10+steps=80+sampling_steps=8+keep=last"
_RATE, _BATCH, _PICTURES, _STREAM = 1e-4, 16, 96, 310


def trained_on(studio: Studio, style: str, steps: int) -> tuple[PipelineView, float]:
    """A copy of seed2, trained further on pictures of a style, and how far its weights are from it, in lengths."""
    view = PipelineView.of(studio.world.load_pipeline("seed2"))
    case = case_of(studio, Subject(BASE, view), style, _PICTURES, 0)
    found = case.need_pictures(_PICTURES)
    clean, tuned = encoded(view, found.concept), Tuned(view, _RATE)
    for step in range(steps):
        rows = torch.randperm(len(clean), generator=case.source(_STREAM, step))[:_BATCH]
        tuned.step(clean[rows], prompted(view, [found.texts[int(i)] for i in rows]), case, (_STREAM, step))
    own = dict(view.denoiser.named_parameters())
    moved = sum(float((tuned.weights[n] - p).detach().square().sum()) for n, p in own.items())
    before = sum(float(p.detach().square().sum()) for p in own.values())
    for name, value in own.items():
        value.data = tuned.weights[name].detach()
    return view, (moved / before) ** 0.5


def sampling(studio: Studio, view: PipelineView, erasure: Erasure | None) -> Callable[..., Any]:
    """Pictures of a model with an erasure on, whichever model that was fitted on."""

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        if erasure is None:
            return view.sample(list(prompts), list(seeds), **studio.options)
        with erasure.on(view, check=False):
            return view.sample(list(prompts), list(seeds), **studio.options)

    return sample


def contestants(studio: Studio, name: str, fit: str, models: dict[str, PipelineView]) -> Iterator[tuple[str, str, Any]]:
    """Model, what is put on it, and the erasure."""
    found: dict[str, Any] = {}
    for model, view in models.items():
        own = Studio(studio.world, **{k: v for k, v in studio.options.items() if k != "batch_size"})
        own.view = view
        found[model] = own.fit(name, f"spm@{fit}+transport=both")
        if model == OWN:
            uce = own.fit(name, "uce@anchor=sibling")
        yield model, "nothing", None
        yield model, "SPM of seed2, whole", found[OWN].whole()
        yield model, "SPM of seed2, by nearness", found[OWN]
        yield model, "UCE of seed2", uce
        if model != OWN:
            yield model, "SPM of its own, whole", found[model].whole()


def let_in(studio: Studio, erasure: Any, name: str, words: Asked) -> list[float]:
    """Mean share of the change that prompts, those in other words, and those of others get."""
    if not isinstance(erasure, PermeableErasure):
        return []
    others = [text for word in words.near for text in studio.prompts_of(word, 4)]
    texts = (studio.prompts_of(name, 8), studio.paraphrases_of(name, 8), others)
    return [float(erasure.permeability(studio.view.encode(each)).mean()) for each in texts]


def share(parts: Sequence[Any], images: int) -> str:
    """Shares of words' pictures, all together, in per cent."""
    n = images * sum(len(part) for part in parts)
    found = wilson_interval(round(images * sum(float(part.sum()) for part in parts)), n)
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="*", default=["circle", "heart"])
    for option, value in (("images", 16), ("others", 4), ("steps", 15), ("tuned", 100)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--style", default="striped")
    parser.add_argument("--fit", default=FIT)
    parser.add_argument("--cells", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = find_world("shapes", "pipeline")
    studio = Studio(world, steps=args.steps)
    shipped, studio.view = studio.view, PipelineView.of(world.load_pipeline("seed2"))
    descendant, moved = trained_on(studio, args.style, args.tuned)
    models = {OWN: studio.view, DESCENDANT: descendant, OTHER: shipped}
    print(f"the descendant's weights are {100 * moved:.1f} % of their length from seed2's")
    cells = Cells(args.cells, ("transport", args.fit, args.steps, args.images, args.style, args.tuned))
    found: dict[tuple[str, str], list[Seen]] = {}
    shares: dict[tuple[str, str], list[list[float]]] = {}
    for name in args.concepts:
        words = Asked([name], studio.others_of(name)[: args.others], [], [])
        for model, what, erasure in contestants(studio, name, args.fit, models):
            sample = sampling(studio, models[model], erasure)
            key = (name, model, what, words)
            seen = cells.seen(key, lambda s=sample, w=words: drawn(studio, s, w, args.images))
            found.setdefault((model, what), []).append(seen)
            shares.setdefault((model, what), []).append(let_in(studio, erasure, name, words))
    rows = []
    for key, each in found.items():
        parts = [[getattr(seen, part) for seen in each] for part in ("erased", "reworded", "near")]
        inside = [sum(column) / len(column) for column in zip(*shares[key], strict=True)]
        rows.append((*key, *(share(p, args.images) for p in parts), ", ".join(f"{x:.2f}" for x in inside)))
    header = ("model", "on it", "ACC_e", "ACC_g", "others", "let in: prompts, other words, others")
    table(f"{', '.join(args.concepts)}, per cent", header, rows)


if __name__ == "__main__":
    main()
