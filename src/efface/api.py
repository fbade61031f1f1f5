"""Calls that join the rooms: an audit of a pipeline knows neither erasers nor views, so here it is handed both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from efface._errors import InputError
from efface.audit.audit import Audit
from efface.audit.pipelines import Judge, Readings, Sampler, audit_detection, audit_presence
from efface.diffusion.erasure import Erasure, GatedErasure
from efface.diffusion.spec import ErasureSpec
from efface.pipelines.view import PipelineView

_FILM = 5


def audit_pipeline(
    pipe: Any,
    concept: str | ErasureSpec | Mapping[str, Any],
    *,
    judge: Judge,
    erasure: Erasure | None = None,
    paraphrases: Sequence[str] = (),
    others: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    seeds: int | Sequence[int] = 8,
    batch_size: int = 8,
    title: str = "",
    **sampling: Any,
) -> Audit:
    """Is a concept to be seen in what a pipeline generates, and with an erasure, what else went? Also `efface.audit()`.

    The prompts are the spec's templates with the target and its synonyms; of a film the middle frame is judged.

    Args:
        pipe: A diffusers pipeline, with or without erasures on it.
        concept: A word, or a spec.
        judge: Called with images `(n, 3, h, w)` in [0, 1] and the name of a concept; gives for each image whether it is
            there, as booleans or probabilities `(n,)`. For the world of shapes `efface_worlds.shapes.load_judge()`.
        erasure: Measured before and after, at equal seeds. It must not be on the pipeline yet.
        paraphrases: Prompts that ask for the concept in words that the erasure was not fitted on.
        others: Concepts that should stay: names, which go into the spec's templates, or names with prompts of their
            own. None takes the spec's `preserve`.
        seeds: How many seeds a prompt, or which.
        batch_size: Images at a time.
        title: Title of the audit.
        **sampling: Further arguments of `PipelineView.sample`: `steps`, `guidance`, `height`, ...

    Raises:
        InputError: If a prompt or an argument does not suit the pipeline, or the judge returns something else.

    Does not guarantee: what `audit_presence` does not.
    """
    view, spec = PipelineView.of(pipe), ErasureSpec.of(concept)
    spec.check(view)
    asked = spec.preserve if others is None else others
    if isinstance(asked, str):
        raise InputError(f"others is one string: write a list, others=[{asked!r}]")
    prompts = asked if isinstance(asked, Mapping) else {name: spec.prompts(name) for name in asked}

    def sampler(on: Erasure | None) -> Sampler:
        def sample(texts: Sequence[str], numbers: Sequence[int]) -> Tensor:
            with nullcontext() if on is None else on.applied(view):
                images = view.sample(list(texts), list(numbers), batch_size=batch_size, **sampling)
            return images[:, images.shape[1] // 2] if images.ndim == _FILM else images

        return sample

    return audit_presence(
        sampler(None),
        judge,
        spec.target,
        prompts=spec.prompts(),
        paraphrases=paraphrases,
        others=prompts,
        erased=None if erasure is None else sampler(erasure),
        seeds=seeds,
        batch_size=batch_size,
        title=title,
    )


def audit_gate(
    pipe: Any,
    erasure: GatedErasure,
    *,
    present: Sequence[str] | Mapping[str, Sequence[str]],
    absent: Sequence[str] | Mapping[str, Sequence[str]],
    title: str = "",
) -> Audit:
    """How well an erasure's gate tells prompts with its concepts from others, with ROC curves: a threat detector.

    Args:
        pipe: The pipeline.
        erasure: One that acts on some prompts and leaves others alone, such as Semantic Surgery or CGCE.
        present: Prompts that ask for the concept; of several concepts, concept -> prompts.
        absent: Prompts that do not; for all concepts, or concept -> prompts.
        title: Title of the audit.

    Raises:
        InputError: If the erasure has no gate, prompts of a concept are missing, or there are under 5 of a kind.
    """
    view = PipelineView.of(pipe)
    if not isinstance(erasure, GatedErasure):
        raise InputError(f"{erasure!r} acts on every prompt, and has no gate to audit: use audit_pipeline")
    readings = {}
    for i, name in enumerate(erasure.targets):
        sides = {
            which: _prompts_of(which, given, name, len(erasure.targets))
            for which, given in (("present", present), ("absent", absent))
        }
        read = {which: erasure.reading(view.encode(texts, allow_unknown=True))[:, i] for which, texts in sides.items()}
        readings[name] = Readings(**{which: values.double().cpu().numpy() for which, values in read.items()})
    return audit_detection(readings, title=title or f"Where does the gate of {', '.join(erasure.targets)} fire?")


def _prompts_of(which: str, given: Sequence[str] | Mapping[str, Sequence[str]], name: str, concepts: int) -> list[str]:
    if isinstance(given, str):
        raise InputError(f"{which} is one string: write a list, {which}=[{given!r}]")
    if isinstance(given, Mapping):
        if name not in given:
            raise InputError(f"{which} has no prompts of {name!r}: it has {', '.join(given) or 'none'}")
        return list(given[name])
    if which == "present" and concepts > 1:
        raise InputError(f"several concepts are erased: write present={{{name!r}: [...], ...}}")
    return list(given)
