"""Receler: small adapters behind cross-attention learn to erase, against rows of text that bring the concept back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import option
from efface.core.edits import OnStates
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.hooks import edit_call
from efface.core.method import Method, register
from efface.core.saved_types import saved
from efface.core.weights import nbytes_of
from efface.diffusion.weights.draws import Draws
from efface.diffusion.weights.layers import denoiser_of
from efface.diffusion.weights.maps import cross_attentions, grid_of, masks_of, noted, resized, word_rows
from efface.diffusion.weights.passes import Aim
from efface.diffusion.weights.student import Student, at_least_float32, sharing
from efface.diffusion.weights.tuning import Plan, Tuning, TuningConfig, ready
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.following import Given
from efface.pipelines.view import PipelineView
from efface.training.loop import below, load_optimizer, optimizer_tensors
from efface.training.seeds import generator

NAME = "receler"
_ADAPTERS, _ROWS = 14, 15


@dataclass(frozen=True, kw_only=True)
class RecelerConfig(TuningConfig):
    """Options of Receler, with the defaults of its release for SD 1.4."""

    rank: int = option(128, "width of the adapters", least=1)
    steps: int = option(500, "steps", least=1)
    learning_rate: float = option(3e-4, "of Adam", above=0)
    eta: float = option(1.0, "how far away from the concept", least=0)
    attack_steps: int = option(50, "steps of the adversary before each step; 0 leaves it out", least=0)
    attack_rate: float = option(0.1, "of the adversary's Adam", above=0)
    attack_decay: float = option(0.1, "of the adversary's Adam, on its rows", least=0)
    attack_rows: int = option(16, "rows behind the word that are the adversary's", least=1)
    localise: float = option(0.1, "weight of doing nothing where the picture does not attend to the word", least=0)
    threshold: float = option(
        0.1, "of attention, from 0 to 1: where it is less, nothing is to be done", least=0, most=1
    )
    mask_side: int = option(16, "masks are of the attentions with nearest to so many cells a side", least=1)
    keep: Literal["best", "last"] = option("last", "which weights: those of the least score, or the last ones")
    branches: Literal["all", "prompts"] = option(
        "all", "what adapters act on: all that is sampled, as published, or the prompts without the negative ones"
    )

    @property
    def plan(self) -> Plan:
        """How many steps, how large."""
        return Plan(self.steps, self.learning_rate)


@saved
@dataclass(frozen=True, eq=False)
class Adapter:
    """`h + up gelu(down h + a) + b`, of states `(..., d)`.

    Attributes:
        down: `(rank, d)`.
        down_bias: a, `(rank,)`.
        up: `(d, rank)`.
        up_bias: b, `(d,)`.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    def change(self, x: Tensor) -> Tensor:
        """What it adds."""
        return F.linear(F.gelu(F.linear(x, self.down, self.down_bias)), self.up, self.up_bias)

    def __call__(self, x: Tensor) -> Tensor:
        """The states with that added: formed in its own numbers, float32."""
        at = Adapter(*(value.to(x.device) for value in vars(self).values()))
        return (x.to(at.down.dtype) + at.change(x.to(at.down.dtype))).to(x.dtype)

    def check(self) -> None:
        """Refuse tensors that do not go together."""
        rank, width = self.down.shape[0], self.down.shape[-1]
        wanted = {"down": (rank, width), "down_bias": (rank,), "up": (width, rank), "up_bias": (width,)}
        for name, shape in wanted.items():
            if (given := tuple(getattr(self, name).shape)) != shape:
                raise InputError(f"{name} of an adapter has the shape {given}, the others want {shape}")


@dataclass(frozen=True, eq=False, repr=False)
class Receler(Erasure):
    """Adapters behind each cross-attention of a denoiser (Receler, arXiv:2311.17717).

    They bend what they are given (`up gelu(down h)`), so that no change of weights does the same: they act in the
    pipeline's own calls (`pipe(...)`, `view.sample`), and leave weights alone. With `branches="all"` they act on the
    negative branch, too, where the pipeline asks for both at once.

    Does not guarantee: what `fit` says of it, or anything against who leaves them out.

    Attributes:
        adapters: Denoiser -> path of an attention -> what is added to what it gives.
        bases: Denoiser -> fingerprint at the fit.
    """

    adapters: Mapping[str, Mapping[str, Adapter]]
    bases: Mapping[str, str]
    config: RecelerConfig = field(default=RecelerConfig(), kw_only=True, repr=False)

    def __repr__(self) -> str:
        layers = sum(map(len, self.adapters.values()))
        return f"Receler({', '.join(map(repr, self.names))}, {layers} layers, {self.nbytes / 2**20:.2f} MiB)"

    def check(self) -> None:
        """Refuse adapters whose tensors do not go together."""
        for of in self.adapters.values():
            for each in of.values():
                each.check()

    @property
    def nbytes(self) -> int:
        """Size of the adapters."""
        return nbytes_of(t for of in self.adapters.values() for each in of.values() for t in vars(each).values())

    @property
    def edits(self) -> tuple[OnStates, ...]:
        """What each cross-attention gives."""
        return OnStates.of_parts(self.adapters, self.edited, self.bases)

    def edited(self, part: str, path: str, x: Tensor, given: Given) -> Tensor:
        """The states of a pass, with what the adapter adds.

        Args:
            part: Name of the denoiser.
            path: Path of the attention.
            x: (branches n, ..., d) states.
            given: Which branches are the prompts'.
        """
        adapter = self.adapters[part][path]
        return adapter(x) if self.config.branches == "all" else given.of_prompts(x, adapter)


class Adapters(Student):
    """A denoiser with an adapter behind each of some attentions; `up` starts at zero.

    Args:
        denoiser: The original.
        paths: Of the attentions.
        rank: Width of the adapters.
        source: Where `down` is drawn from, as torch draws a linear layer.

    Attributes:
        added: Path -> what its adapter added in the last pass.
    """

    def __init__(self, denoiser: nn.Module, paths: Sequence[str], rank: int, source: Generator) -> None:
        self.module, self.paths = sharing(denoiser), tuple(paths)
        self.added: dict[str, Tensor] = {}
        every: list[nn.Parameter] = []
        for path in self.paths:
            query: Any = self.module.get_submodule(path).get_submodule("to_q").weight
            kept: dict[str, Any] = {"dtype": at_least_float32(query.dtype), "device": query.device}
            d = query.shape[1]  # what the picture gives the attention, and gets back
            drawn = [(torch.rand(shape, generator=source) * 2 - 1) / d**0.5 for shape in ((rank, d), (rank,))]
            zeros = [torch.zeros(d, rank), torch.zeros(d)]
            every += [nn.Parameter(x.to(**kept)) for x in (*drawn, *zeros)]
            edit_call(self.module.get_submodule(path), "output", partial(self._adapted, path))
        self.trained = nn.ParameterList(every)

    def _adapted(self, path: str, _module: nn.Module, _args: Any, _kwargs: Any, output: Tensor) -> Tensor:
        i = 4 * self.paths.index(path)
        self.added[path] = Adapter(*self.trained[i : i + 4]).change(output.to(self.trained[i].dtype))
        return output + self.added[path].to(output.dtype)

    def adapters(self, values: Sequence[Tensor]) -> dict[str, Adapter]:
        """Path -> adapter, where `trained` has these values."""
        return {path: Adapter(*values[4 * i : 4 * i + 4]) for i, path in enumerate(self.paths)}


class Adversary:
    """Rows of text behind each word, which are moved so that what is said is what was said of the concept.

    Args:
        places: Word -> the rows of its prompt that are the adversary's.
        width: Of the sequence.
        config: The options.
        device: Where.
    """

    def __init__(
        self, places: Mapping[str, Sequence[int]], width: int, config: RecelerConfig, device: torch.device
    ) -> None:
        self.places, self.steps = {word: list(rows) for word, rows in places.items()}, config.attack_steps
        source = generator(config.seed, _ROWS)
        self.rows = {  # drawn as published: from 0 to 1
            word: nn.Parameter(torch.rand(len(rows), width, generator=source).to(device))
            for word, rows in self.places.items()
        }
        own = [*self.rows.values()]
        self._optimizer = torch.optim.Adam(own, lr=config.attack_rate, weight_decay=config.attack_decay)

    def put(self, embedding: PromptEmbedding, words: Sequence[str]) -> PromptEmbedding:
        """Prompts of n words with the rows behind them; the denoiser reads these."""
        sequence, mask = embedding.sequence.clone(), None if embedding.mask is None else embedding.mask.clone()
        for i, word in enumerate(words):
            sequence[i, self.places[word]] = self.rows[word].to(sequence.dtype)
            if mask is not None:
                mask[i, self.places[word]] = 1
        return embedding.replace(sequence=sequence, mask=mask)

    def descend(self, loss: Tensor, words: Sequence[str]) -> None:
        """A step of the rows behind some words; the graph of the loss stays."""
        own = [self.rows[word] for word in dict.fromkeys(words)]
        for row, gradient in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
            row.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The rows, and how far their optimiser is."""
        rows = {f"rows-{i}": row.detach() for i, row in enumerate(self.rows.values())}
        state = {name.replace(".", "-"): x for name, x in optimizer_tensors(self._optimizer).items()}
        return rows | {f"adam-{name}": x for name, x in state.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for i, row in enumerate(self.rows.values()):
            row.copy_(tensors[f"rows-{i}"])
        state = below(tensors, "adam-")
        load_optimizer(self._optimizer, {name.replace("-", "."): x for name, x in state.items()})


def outside(added: Mapping[str, Tensor], masks: Tensor, latents: Tensor) -> Tensor:
    """Mean square of what adapters add where masks are not, in mean over layers.

    Args:
        added: Path -> (n, cells, d).
        masks: (n, height, width) booleans.
        latents: (n, ...) as the denoiser is given them.
    """
    found = []
    for x in added.values():
        there = (~resized(masks, grid_of(x.shape[1], latents))).to(x)
        found.append(((x.square().mean(-1) * there).sum(-1) / (there.sum(-1) + 1e-9)).mean())
    return torch.stack(found).mean()


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: RecelerConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> Receler:
    """Train the adapters, each step against an adversary of its own (arXiv:2311.17717).

    With `c` a word of the concept, `0` the neutral prompt, `e` the original, `e'` the same with adapters, `x_t` latents
    that the adapted model comes by at guided sampling of `c`, and `c*` the rows of `c` with `attack_rows` behind the
    word that are the adversary's:

        adversary:  |e'(x_t, c*) - e(x_t, c)|^2, `attack_steps` of Adam on its rows, which it keeps
        a step:     |e'(x_t, c*) - (e(x_t, 0) - eta (e(x_t, c) - e(x_t, 0)))|^2 + localise R

    R is the mean square of what adapters add outside of the mask: where the original's attention to the word, in mean
    over the layers of 16 x 16 cells and brought to [0, 1], is less than `threshold`.

    Where ours differs from the released code: masks are of the layers with nearest to 16 cells a side, which other
    sizes than 512 x 512 have not; a batch may be larger than one, with a mask a picture; where fewer rows are behind a
    word than `attack_rows`, it has these.

    Args:
        view: The pipeline.
        concepts: The concepts; of several and their words one is drawn for each sample.
        config: The options.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the latents.

    Raises:
        InputError: If the pipeline cannot read a word, or has no cross-attention.
        DivergedError: If the loss is not finite; what was before is in the checkpoint.
    """
    paths = cross_attentions(view)
    for each in concepts:
        view.check_concept(each)
    words = [word for concept in concepts for word in concept.words]
    aims = [Aim.away(word, config.eta) for word in words]
    student = Adapters(denoiser_of(view), paths, config.rank, generator(config.seed, _ADAPTERS))
    own = {word: word_rows(view, word, word) for word in words}
    adversary = _adversary(view, own, config)
    tuning = Tuning(
        view,
        concepts,
        config,
        NAME,
        lambda _concept, word, template: Aim.away(template.replace("{}", word), config.eta),
        texts=[text for aim in aims for text in aim.texts],
        call=call,
        student=student,
        memory=adversary,
    )
    draws = Draws(tuning, aims, by_student=True, within=True)

    def loss(step: int) -> Tensor:
        x, t, asked = draws.at(step)
        texts = [str(aim.asked) for aim in asked]
        before, masks = _original(tuning, x, t, texts, [own[text] for text in texts], config)
        target = tuning.passes.aimed(tuning.teacher, x, t, asked)
        said = tuning.said(x, t, texts) if adversary is None else _attacked(tuning, adversary, x, t, texts, before)
        found = F.mse_loss(said, target)
        return found if masks is None else found + config.localise * outside(student.added, masks, x)

    rows = {} if adversary is None else {word: len(places) for word, places in adversary.places.items()}
    found = tuning.tuned(loss, checkpoint, checkpoint_seconds, attack_rows=rows)
    part = view.denoising.only
    return Receler(
        {part: student.adapters(found.values)},
        {part: fingerprint(tuning.teacher)},
        method=NAME,
        concepts=tuple(concepts),
        config=config,
        report=found.report,
    )


def _attacked(
    tuning: Tuning, adversary: Adversary, x: Tensor, t: Tensor, texts: Sequence[str], before: Tensor
) -> Tensor:
    """What is said of prompts with the adversary's rows, which it moves towards what was said before.

    As published it is that of its rows before their last step.
    """
    plain, said = tuning.passes.of(texts), before
    for _ in range(adversary.steps):
        said = tuning.said(x, t, adversary.put(plain, texts))
        adversary.descend(F.mse_loss(said, before), texts)
    return said


def _original(
    tuning: Tuning, x: Tensor, t: Tensor, texts: Sequence[str], rows: Sequence[Sequence[int]], config: RecelerConfig
) -> tuple[Tensor, Tensor | None]:
    """What the original says of prompts, and where it attends to their words; None where that is not asked."""
    paths = cross_attentions(tuning.view) if config.localise else []
    with torch.no_grad():
        with noted(tuning.teacher, paths) as maps:
            said = tuning.passes(tuning.teacher, x, t, texts)
        masks = masks_of(maps, rows, x, config.mask_side, config.threshold) if maps else None
    return said, masks


def _adversary(view: PipelineView, own: Mapping[str, Sequence[int]], config: RecelerConfig) -> Adversary | None:
    if not config.attack_steps:
        return None
    sequence = view.example.sequence
    places = {word: range(rows[-1] + 1, sequence.shape[1])[: config.attack_rows] for word, rows in own.items()}
    if bare := next((word for word, rows in places.items() if not rows), None):
        raise InputError(f"{bare!r} fills the window, and there is no row behind it for the adversary: attack_steps=0")
    return Adversary(places, sequence.shape[2], config, next(view.denoiser.parameters()).device)


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="train adapters behind cross-attention against adversarial rows of text (Receler)",
        paper="arXiv:2311.17717",
        fit=fit,
        erasure=Receler,
        config=RecelerConfig,
        reads=("synonyms", "preserve", "templates", "neutral"),
        access=("prompts", "latents", "gradients", "weights"),
        access_on=("latents",),
        guarantee="weights stay as they are; pictures are the pipeline's own again once it is off",
        no_guarantee="that the concept is gone in other words, that siblings stay (masks alone ask for that), "
        "or anything against who leaves the adapters out",
    )
)
