"""What benchmarks of erasers on the shapes share: prompts, calibration, and pictures that are drawn once.

Gates are calibrated on captions of the training split (100 with the concept, 12 for each of the others of its factor),
never on what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface import Concept, Erasure, PipelineView, erase
from efface.core.run import Run
from efface.core.subjects import as_subject
from efface.diffusion.guidance.sld import NAME as SLD
from efface.diffusion.text.cgce.erasure import NAME as CGCE
from efface.diffusion.text.semantic_surgery.erasure import NAME as SURGERY
from efface.diffusion.text.semantic_surgery.erasure import SemanticSurgery
from efface.diffusion.text.semantic_surgery.feedback import look_again
from efface.pipelines.embedding import PromptEmbedding
from efface.stats.intervals import Interval, wilson_interval
from efface_worlds import shapes
from efface_worlds.shapes.concepts import FACTORS, concept
from efface_worlds.shapes.judge import Verdict
from efface_worlds.shapes.scenes import Scenes

OBJECTS = ("circle", "square", "diamond", "triangle", "star", "heart")
STYLES = ("striped", "dotted", "shaded")
_CALIBRATION_SEED, _PROMPT_SEED = 400, 900
_PRESENT, _ABSENT = 100, 12


def others_of(name: str) -> list[str]:
    """The other concepts of a concept's factor."""
    return [c.name for c in FACTORS[concept(name).factor] if c.name != name]


def prompts_of(name: str, n: int) -> list[str]:
    """Prompts that name every factor, this one by its name."""
    return shapes.prompts_for(name, n, seed=_PROMPT_SEED).texts


def paraphrases_of(name: str, n: int) -> list[str]:
    """Held-out templates in which the concept's synonyms, also those that the denoiser never read, stand for it."""
    texts = shapes.prompts_for(name, n, seed=_PROMPT_SEED + 1, templates="held_out").texts
    words = (*concept(name).synonyms, *concept(name).unread)
    return [text.replace(name, words[i % len(words)]) for i, text in enumerate(texts)]


def captions_of(name: str, n: int, seed: int) -> list[str]:
    """Captions of the training split that have a concept in them, by its name."""
    found: list[str] = []
    while len(found) < n:
        texts = shapes.prompts_for(name, 4 * n, seed=seed, templates="train").texts
        found += [t for t in texts if name in t.split() and t not in found]
        seed += 1
    return found[:n]


def fit(view: PipelineView, name: str, method: str) -> Erasure:
    """An erasure of one concept as a careful user would fit it: others named, the gate calibrated."""
    asked = Concept(name, preserve=others_of(name))
    method, _, variant = method.partition("@")
    if method == SURGERY:
        options = {"preset": "published"} if variant == "published" else {"score": variant or None}
        absent = [t for i, o in enumerate(asked.preserve) for t in captions_of(o, _ABSENT, _CALIBRATION_SEED + 50 * i)]
        bare = Concept(name) if variant == "published" else asked
        start = erase(view, bare, SURGERY, threshold=0.0, **options)
        return start.calibrate(view, captions_of(name, _PRESENT, _CALIBRATION_SEED + 7), absent)
    return erase(view, asked, method, **({"preset": variant} if method in (SLD, CGCE) and variant else {}))


def same_embedding(a: PromptEmbedding, b: PromptEmbedding) -> bool:
    """Whether two embeddings are equal bit for bit, in each of their tensors."""
    return all(torch.equal(a.tensors()[role], b.tensors()[role]) for role in a.tensors())


class Studio:
    """Samples of one pipeline, each drawn once; after an erasure of prompts, only of prompts that it changed."""

    def __init__(self, view: PipelineView, steps: int, guidance: float) -> None:
        self.view = view
        self.options: dict[str, Any] = {"steps": steps, "guidance": guidance, "batch_size": 32}
        self.kept: dict[tuple[str, int], Tensor] = {}

    def plain(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The pipeline as it is."""
        jobs = list(zip(prompts, seeds, strict=True))
        missing = [job for job in dict.fromkeys(jobs) if job not in self.kept]
        if missing:
            texts, numbers = zip(*missing, strict=True)
            self.kept |= dict(zip(missing, self.view.sample(list(texts), list(numbers), **self.options), strict=True))
        return torch.stack([self.kept[job] for job in jobs])

    def erased(self, erasure: Erasure, feedback: bool = False) -> Any:
        """The pipeline with an erasure on, each sample drawn once; with feedback, judge 1 looks at what was drawn."""
        kept: dict[tuple[str, int], Tensor] = {}

        def once(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
            jobs = list(zip(prompts, seeds, strict=True))
            if not all(job in kept for job in jobs):
                kept.update(zip(jobs, sample(prompts, seeds), strict=True))
            return torch.stack([kept[job] for job in jobs])

        def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
            before = self.view.encode(list(prompts), allow_unknown=True)
            with erasure.on(self.view):
                after = self.view.encode(list(prompts), allow_unknown=True)
                changed = [i for i in range(len(prompts)) if not same_embedding(before[i], after[i])]
                if erasure.method in GATED and len(changed) < len(prompts):
                    images = self.plain(prompts, seeds).clone()
                else:
                    images, changed = torch.empty(len(prompts), 3, 32, 32), list(range(len(prompts)))
                if changed:
                    part, numbers = [prompts[i] for i in changed], [seeds[i] for i in changed]
                    images[changed] = self.view.sample(part, numbers, allow_unknown=True, **self.options)
            if feedback and isinstance(erasure, SemanticSurgery):
                run = Run(as_subject(self.view))
                return look_again(erasure, run, prompts, seeds, images, shapes.load_judge(1), **self.options)
            return images

        return once


FEEDBACK = "+feedback"
VARIANTS = (
    "semantic-surgery@published",
    "semantic-surgery@published+feedback",
    "cgce@published",
    "sld@weak",
    "sld@strong",
    "sld@max",
)
GATED = ("semantic-surgery", "cgce")
"""Methods that do all they do to the prompt's embedding: where that is left alone, so is the image, bit for bit."""


def sampler(studio: Studio, name: str, method: str) -> tuple[Erasure | None, Any]:
    """An erasure of a concept, and the pipeline with it on; of the method "none" the pipeline as it is."""
    if method == "none":
        return None, studio.plain
    erasure = fit(studio.view, name, method.removesuffix(FEEDBACK))
    return erasure, studio.erased(erasure, feedback=method.endswith(FEEDBACK))


def looked_at(sample: Any, name: str, n: int, seeds: Sequence[int]) -> tuple[Verdict, Scenes]:
    """What judge 2 says of images of a concept's n prompts, and what these ask for."""
    asked = shapes.prompts_for(name, n, seed=_PROMPT_SEED)
    rows, numbers = zip(*((i, seed) for i in range(n) for seed in seeds), strict=True)
    said = shapes.load_judge(2).judge(sample([asked.texts[i] for i in rows], numbers))
    return said, asked.scenes[torch.tensor(rows)]


def rest_kept(sample: Any, name: str, n: int, seeds: Sequence[int]) -> float:
    """Share of images of a concept's n prompts that for sure still show the prompt's other factors, mean over these."""
    return kept_by(*looked_at(sample, name, n, seeds), name)


def kept_by(said: Verdict, scenes: Scenes, name: str) -> float:
    """The same of a verdict."""
    agrees = said.agrees(scenes)
    return sum(float(hits.float().mean()) for f, hits in agrees.items() if f != concept(name).factor) / 3


def seen(answers: Tensor) -> Interval | None:
    """Share of images in which a judge sees a concept, of those of which it can say; None where there are none."""
    said = answers[~answers.isnan()]
    return wilson_interval(float(said.sum()), len(said)) if len(said) else None
