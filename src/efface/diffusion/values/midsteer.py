"""MidSteer: the concept's mean in what cross-attention gives moved onto the anchor's, by the least affine edit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnStates
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.hooks import look
from efface.core.method import Method, register
from efface.core.subjects import unwrapped
from efface.diffusion.text.contexts import filled
from efface.diffusion.values.layers import value_layers
from efface.diffusion.weights.passes import Passes
from efface.erasers.leace import LeaceEraser, LeaceFitter
from efface.pipelines.following import Given
from efface.pipelines.view import PipelineView

NAME = "midsteer"


@dataclass(frozen=True, kw_only=True)
class MidSteerConfig(Config):
    """Options of MidSteer."""

    strength: float = option(1.0, "beta: how far the concept's mean goes; 1 is onto the anchor's", least=0)
    shrinkage: bool = option(True, "shrink the covariance: the means go where they go, other edits are smaller")
    samples: int = option(4, "latents a prompt, spread over the sampling", least=1)
    steps: int = option(20, "steps of the samplings that latents are of", least=1)
    seed: int = option(0, "seed of the first sample", least=0)
    at_once: int = option(8, "samples drawn at once", least=1)


@dataclass(frozen=True, eq=False, repr=False)
class ConceptSwitch(Erasure):
    """One concept shown as another: MidSteer (arXiv:2605.05220) on what each cross-attention gives the picture.

        f(x) = x - beta (S - T) R (x - mu),    R = (A^T Sigma^+ A)^+ A^T Sigma^+,    A = S - mu

    with the columns of S and T the means of states of prompts with a concept and with its anchor, mu and Sigma those of
    all states of the fit, which are one population (see `fit`). Of one concept R is `a^T Sigma^+ / (a^T Sigma^+ a)`.
    On the states of the fit and with `beta = 1` the mean of each concept's states becomes its anchor's, whatever the
    prevalence and the shrinkage, and the mean of all stays. A concept without an anchor goes to mu; of one concept that
    is LEACE of "with it or not". The negative branch stays.

    The released code has the same map by roots of Sigma, with class means and Sigma of different populations, computes
    in float16, and takes the statistics of the first step for all; here states of all stages of sampling are one.

    **A switch is not an erasure**: the map is invertible but where it is degenerate, states still tell the concept from
    all others, and the anchor's own states move, too. It acts in the pipeline's own calls (`pipe(...)`, `view.sample`).

    Does not guarantee: that a single picture shows the anchor (means over many states do); anything of single steps or
    places in the picture, or against who leaves this out.

    Attributes:
        maps: Denoiser -> path of an attention layer -> the edit of what it gives.
        bases: Denoiser -> fingerprint at the fit.
    """

    maps: Mapping[str, Mapping[str, LeaceEraser]]
    bases: Mapping[str, str]
    config: MidSteerConfig = field(default=MidSteerConfig(), kw_only=True, repr=False)

    def __repr__(self) -> str:
        return f"ConceptSwitch({', '.join(map(repr, self.names))}, {sum(map(len, self.maps.values()))} layers)"

    def check(self) -> None:
        """Refuse maps whose tensors do not go together."""
        for of in self.maps.values():
            for each in of.values():
                each.check()

    @property
    def edits(self) -> tuple[OnStates, ...]:
        """What each cross-attention gives."""
        return OnStates.of_parts(self.maps, self.edited, self.bases)

    def edited(self, part: str, path: str, x: Tensor, given: Given) -> Tensor:
        """The states of a pass, those of the prompts switched.

        Args:
            part: Name of the denoiser.
            path: Path of the layer.
            x: (branches n, ..., d) states.
            given: Which branches are the prompts'.
        """
        switch = self.maps[part][path].to(x.device)
        return given.of_prompts(x, lambda own: switch(own).to(x.dtype))


def switch_of(
    states: Tensor, covariance: Tensor, mean: Tensor, targets: Tensor, *, strength: float, tol: float
) -> LeaceEraser:
    """The least affine map that takes means of states to targets and keeps the mean of all.

    Args:
        states: (k, d) means of the concepts' states.
        covariance: (d, d) of all states.
        mean: (d,) of all states.
        targets: (k, d).
        strength: beta.
        tol: Eigenvalues of the covariance up to this share of the largest are rounding, and so is a mean that is not
            further than this many standard deviations from that of all.
    """
    away = states - mean
    inverse = torch.linalg.pinv(covariance, hermitian=True, rtol=tol)
    met = away @ inverse  # A^T Sigma^+
    far = (met * away).sum(1) > tol**2  # in standard deviations, squared; else it is no other mean but for rounding
    away, met = away * far[:, None], met * far[:, None]
    right = torch.linalg.pinv(met @ away.mT, hermitian=True, rtol=tol) @ met
    return LeaceEraser((strength * (states - targets)).mT.contiguous(), right.contiguous(), mean)


def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: MidSteerConfig,
    *,
    call: Mapping[str, Any] | None = None,
) -> ConceptSwitch:
    """Gather moments of what cross-attention gives for prompts with a concept, its anchor, and others.

    The prompts are each concept's templates with its words, its anchor and the words to preserve, and its neutral
    prompt. Each is met in the same number of latents, from its own guided sampling, at the same stages.

    Args:
        view: The pipeline.
        concepts: What is switched; each to its `anchor`, or to the mean of all where there is none.
        config: The options.
        call: Further arguments of the pipeline's call, such as `height` and `width`.

    Raises:
        InputError: If the pipeline cannot read a word, or text reaches its picture by another way than cross-attention.
    """
    part, paths = view.denoising.only, [each.path.rpartition(".")[0] for each in value_layers(view)]
    for each in concepts:
        view.check_concept(each)
    view.check_prompts([w for c in concepts for w in (*c.preserve, *((c.anchor,) if c.anchor else ()), c.neutral)])
    roles = _roles(concepts)
    z = torch.tensor([*roles.values()], dtype=torch.float64)
    fitters: dict[str, LeaceFitter] = {}
    for rows, states in _states(view, [*roles], paths, config, call):
        for path, x in states.items():
            if path not in fitters:
                options: dict[str, Any] = {"shrinkage": config.shrinkage, "kind": "continuous", "dtype": torch.float64}
                fitters[path] = LeaceFitter(x.shape[-1], z.shape[1], device=x.device, **options)
            labels = z[rows].to(x.device).view(len(rows), *[1] * (x.ndim - 2), -1).expand(*x.shape[:-1], -1)
            fitters[path].update(x.double(), labels)
    dtype = torch.promote_types(view.example.sequence.dtype, torch.float32)
    maps, moved = {}, {}
    for path in paths:
        maps[path], moved[path] = _solved(fitters[path], concepts, config.strength, dtype)
    if not any(moved.values()):
        warnings.warn(
            "no concept's states have another mean than all states of the fit have, so that nothing is switched: name "
            "words to preserve, which are not the concept",
            NothingErasedWarning,
            stacklevel=3,
        )
    report = {"prompts": len(roles), "rows": fitters[paths[0]].moments.n, "moved": moved}
    bases = {part: fingerprint(unwrapped(view.components.denoisers[part]))}
    made: dict[str, Any] = {"method": NAME, "concepts": tuple(concepts), "config": config, "report": report}
    return ConceptSwitch({part: maps}, bases, **made)


def _roles(concepts: Sequence[Concept]) -> dict[str, list[int]]:
    """Prompt -> of which concept it is, and of which one's anchor: 0 or 1 for each."""
    k = len(concepts)
    found: dict[str, list[int]] = {}
    for i, c in enumerate(concepts):
        anchors = filled(c.templates, [c.anchor]) if c.anchor else []
        for prompt in (*filled(c.templates, c.words), *anchors, *filled(c.templates, c.preserve), c.neutral):
            found.setdefault(prompt, [0] * (2 * k))
        for prompt in filled(c.templates, c.words):
            found[prompt][i] = 1
        for prompt in anchors:
            found[prompt][k + i] = 1
    return found


def _states(
    view: PipelineView, prompts: list[str], paths: list[str], config: MidSteerConfig, call: Mapping[str, Any] | None
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Numbers of some prompts, and by layer what it gives of them, `(n, ..., d)`."""
    passes = Passes(view, [None, *prompts], call=call)
    stops = [j * config.steps // config.samples for j in range(config.samples)]
    each = [(i, config.seed + j, stop) for j, stop in enumerate(stops) for i in range(len(prompts))]
    model = unwrapped(view.denoiser)
    for start in range(0, len(each), config.at_once):
        rows, seeds, some = (list(column) for column in zip(*each[start : start + config.at_once], strict=True))
        texts = [prompts[i] for i in rows]
        x, t = passes.on_their_way(texts, seeds, some, config.steps, view.denoiser)
        found: dict[str, Tensor] = {}
        with ExitStack() as stack, torch.no_grad():
            for path in paths:
                stack.callback(look(model.get_submodule(path), partial(_kept, found, path)))
            passes(view.denoiser, x, t, texts)
        yield rows, found


def _kept(found: dict[str, Tensor], path: str, _module: Any, _args: Any, output: Any) -> None:
    value = output[0] if isinstance(output, tuple) else output
    if not bool(value.isfinite().all()):
        raise InputError(f"what {path} gives is not finite: convert the pipeline to float32")
    found[path] = value.cpu() if value.device.type == "mps" else value  # which has no float64


def _solved(
    fitter: LeaceFitter, concepts: Sequence[Concept], strength: float, dtype: torch.dtype
) -> tuple[LeaceEraser, float]:
    """The map of one layer, and the mean squared length of `strength (s - t)`."""
    k, m = len(concepts), fitter.moments
    mean = m.mean_x
    # One-hot z: the mean of a class is that of all and its covariance with the class over the prevalence.
    weight = (m.weight * m.mean_z).clamp_min(torch.finfo(torch.float64).tiny)
    means = mean + (m.scatter_xz / weight).mT
    anchored = torch.tensor([c.anchor is not None for c in concepts], device=mean.device)[:, None]
    targets = torch.where(anchored, means[k:], mean)
    tol = fitter.x_dim * torch.finfo(dtype).eps
    found = switch_of(means[:k], fitter.sigma_xx, mean, targets, strength=strength, tol=tol)
    moved = float(found.proj_left.square().sum(0).mean()) if bool(found.proj_right.any()) else 0.0
    return found.to(dtype), moved


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="move the concept's mean onto its anchor's in what cross-attention gives (MidSteer's switch)",
        paper="arXiv:2605.05220",
        fit=fit,
        erasure=ConceptSwitch,
        config=MidSteerConfig,
        reads=("synonyms", "anchor", "preserve", "templates", "neutral"),
        access=("prompts", "latents"),
        access_on=("latents",),
        guarantee="a switch, not an erasure: on the states of the fit and with strength 1 the concept's mean is the "
        "anchor's",
        no_guarantee="that the concept is gone (the map is invertible, and its states still differ from all others), "
        "that the anchor stays, or anything against who leaves this out",
    )
)
