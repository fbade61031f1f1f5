"""Changes of low rank that a prompt lets in as far as it is near the concept: SPM's facilitated transport."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.doors import check_call
from efface.core.edits import OnStates
from efface.core.subjects import unwrapped
from efface.core.weights import LowRank, nbytes_of
from efface.diffusion.weights.erasure import WeightErasure
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.following import Given
from efface.pipelines.view import PipelineView

Nearness = Literal["cosine", "words", "both"]
"""How near a prompt is to a concept: the cosine of their rows of text, side by side; the share of the concept's words
that it has; the larger of both."""

_WORD = re.compile(r"\w+")
_WEIGHT = ".weight"


@dataclass(frozen=True, eq=False, repr=False)
class PermeableErasure(WeightErasure):
    """A change of low rank that is switched at generation, prompt by prompt (SPM's facilitated transport).

    Weights stay as they are. In the pipeline's own calls (`pipe(...)`, `view.sample`) a layer that gives y for x gives

        y + g up (down x),    g = max over the concept's words c of max(0, cos(E(p), E(c)), |w(p) & w(c)| / |w(c)|)

    for a prompt p, E being all rows of text of a prompt side by side, w the words of a text. The negative prompt of
    a sample has the same g, as published. So a prompt that has all words of a concept's name gets the whole change.

    Where this differs from the released code: that scales up and down by g, so that the change goes by its square, and
    sums factors of several concepts, which mixes them; joined by `a & b`, here each concept's change has its own g.
    Words are those of the text, not the tokenizer's; of prompts that came encoded only the cosine is known.

    Does not guarantee: that a prompt which describes the concept without its name is let in, or that prompts far from
    it get nothing: text encoders give all prompts cosines well above 0. Nothing against who leaves this out.

    Attributes:
        rows: `(k, rows, width)`: the text of each of the concepts' words by itself.
        words: These words.
        convolutions: Part -> layers that are convolutions, of 1 x 1.
        nearness: How near a prompt is to a word.
    """

    rows: Tensor
    words: tuple[str, ...]
    convolutions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nearness: Nearness = "both"

    def check(self) -> None:
        """Refuse what does not go together."""
        super().check()
        if self.rows.ndim != 3 or len(self.rows) != len(self.words) or not self.words:
            raise InputError(f"{len(self.words)} words of a concept have rows of the shape {tuple(self.rows.shape)}")
        for part, delta in self.deltas.items():
            for name, changes in delta.changes.items():
                if len(changes) != 1 or not isinstance(changes[0], LowRank) or not name.endswith(_WEIGHT):
                    raise InputError(f"{name} of {part} changes by more than one product of low rank")

    @property
    def edits(self) -> tuple[OnStates, ...]:  # type: ignore[override]
        """What each layer gives."""
        paths = {part: [n.removesuffix(_WEIGHT) for n in delta.changes] for part, delta in self.deltas.items()}
        bases = {part: delta.base for part, delta in self.deltas.items() if delta.base is not None}
        return OnStates.of_parts(paths, self.edited, bases)

    @property
    def nbytes(self) -> int:
        """Size of the change, and of the rows that prompts are compared with."""
        return super().nbytes + nbytes_of([self.rows])

    def whole(self) -> WeightErasure:
        """The change by itself, in the weights, for every prompt: what can be exported."""
        return WeightErasure(
            self.deltas,
            method=self.method,
            concepts=self.concepts,
            config=self.config,
            report=self.report,
            provenance=self.provenance,
        )

    def then(self, other: WeightErasure) -> NoReturn:
        """Each has a nearness of its own.

        Raises:
            InputError: Always.
        """
        raise InputError("what prompts let in as far as they are near a concept is joined by a & b, not by then()")

    def permeability(self, embedding: PromptEmbedding) -> Tensor:
        """How far each of n prompts lets the change in, `(n,)` float32.

        Raises:
            InputError: If that is by words, and the prompts' texts are not known.
        """
        check_call(PermeableErasure.permeability, locals())
        found = torch.zeros(len(embedding), len(self.words))
        if self.nearness != "words":
            own, given = self.rows, embedding.sequence.to(self.rows)
            rows = min(own.shape[1], given.shape[1])
            a, b = (x[:, :rows].flatten(1) for x in (given, own))
            found = F.cosine_similarity(a[:, None], b[None], dim=-1).cpu().float()
        if self.nearness != "cosine" and embedding.prompts:
            found = torch.maximum(found, torch.tensor([_shares(text, self.words) for text in embedding.prompts]))
        elif self.nearness == "words":
            raise InputError("nearness='words' compares texts, and these prompts came encoded: give prompts as texts")
        return found.max(1).values.clamp_min(0)

    def edited(self, part: str, path: str, x: Tensor, given: Given) -> Tensor:
        """What a layer gives, with the change as far as each sample's prompt lets it in.

        Args:
            part: Name of the denoiser.
            path: Path of the layer.
            x: (branches n ..., ...) what it gives.
            given: The prompts, and what the layer was given.

        Raises:
            InputError: If it is not given something for each sample.
        """
        (change,) = self.deltas[part].changes[path + _WEIGHT]
        entered, n = given.entered, len(given.embedding) * given.branches
        if entered is None or len(x) % n:
            raise InputError(f"{path} of {part} gives {len(x)} entries for {n} samples, which no prompt goes with")
        up, down = (f.to(x.device, torch.promote_types(f.dtype, torch.float32)) for f in _factors(change))
        convolves = path in self.convolutions.get(part, ())
        inner = entered.to(up.dtype)
        inner = inner.movedim(1, -1) if convolves else inner
        added = inner @ down.mT @ up.mT
        added = added.movedim(-1, 1) if convolves else added
        share = self.permeability(given.embedding).repeat(given.branches).repeat_interleave(len(x) // n).to(added)
        return (x.to(added) + share.view(-1, *[1] * (added.ndim - 1)) * added).to(x.dtype)


def _factors(change: Any) -> tuple[Tensor, Tensor]:
    return (change.down.mT, change.up.mT) if change.turned else (change.up, change.down)


def _shares(text: str, words: Sequence[str]) -> list[float]:
    """Of each of some names, how many of its words a text has.

    >>> _shares("A painting by Van Gogh", ["van gogh", "gogh museum", "..."])
    [1.0, 0.5, 0.0]
    """
    said = set(_WORD.findall(text.casefold()))
    own = [set(_WORD.findall(word.casefold())) for word in words]
    return [len(each & said) / len(each) if each else 0.0 for each in own]


def permeable(
    view: PipelineView, erasure: WeightErasure, concepts: Sequence[Concept], nearness: Nearness
) -> PermeableErasure:
    """A change of low rank as one that each prompt lets in as far as it is near the concepts.

    Args:
        view: The pipeline that it was fitted on.
        erasure: The change.
        concepts: What prompts are compared with: their words, each by itself.
        nearness: How.

    Raises:
        InputError: If it changes more than matrices that the denoisers' states go through.
    """
    convolutions: dict[str, tuple[str, ...]] = {}
    for part, delta in erasure.deltas.items():
        if part not in view.components.denoisers:
            raise InputError(f"{part} is no denoiser, whose prompts would be known: leave transport out")
        model = unwrapped(view.components.denoisers[part])
        layers = {name.removesuffix(_WEIGHT): model.get_submodule(name.rpartition(".")[0]) for name in delta.changes}
        for path, layer in layers.items():
            _check(path, layer)
        convolutions[part] = tuple(p for p, layer in layers.items() if not isinstance(layer, nn.Linear))
    words = tuple(word for concept in concepts for word in concept.words)
    with torch.no_grad():
        rows = view.encode(list(words)).sequence.detach().clone()
    found = PermeableErasure(
        erasure.deltas,
        rows,
        words,
        convolutions,
        nearness,
        method=erasure.method,
        concepts=erasure.concepts,
        config=erasure.config,
        provenance=erasure.provenance,
    )
    return replace(found, report={**(erasure.report or {}), **found.size})


def _check(path: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        return
    sizes: Any = (*getattr(layer, "kernel_size", (0,)), *getattr(layer, "stride", (0,)), getattr(layer, "groups", 0))
    if any(size != 1 for size in sizes):
        raise InputError(
            f"{path} is a {type(layer).__name__} that looks at more than one place at once, and its change is let "
            "in by no prompt: write modules='transformers', or transport='none'"
        )
