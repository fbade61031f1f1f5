"""A concept's classifiers, one for each part of an embedding: how they are fitted on a pipeline, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from efface.diffusion.text.classifier_training import Encoded, Fit, Training, train
from efface.diffusion.text.concept_classifier import ConceptClassifier
from efface.diffusion.text.prompt_pairs import PromptPair, split
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, Reads, concept_rows, first_row, parts_of
from efface.pipelines.view import PipelineView

_ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class Reader:
    """One concept's classifier of one part of an embedding.

    Attributes:
        part: Which part.
        first: Its first row that is not the same in every prompt; those before it are neither read nor changed.
        classifier: The classifier.
        fit: How it came out on pairs held out.
    """

    part: Part
    first: int
    classifier: ConceptClassifier
    fit: Fit

    def logits(self, embedding: PromptEmbedding) -> Tensor:
        """Calibrated logits of the concept in n prompts, `(n,)`."""
        x = self.part.of(embedding).float()
        return self.on(x.device)(x, self.part.keep(embedding, self.first))

    def on(self, device: torch.device) -> ConceptClassifier:
        """The classifier, on a device from now on."""
        with torch.inference_mode(False):  # moved within inference mode, its tensors could not be in a gradient
            return self.classifier.to(device)

    def config(self) -> dict[str, Any]:
        """Plain data, besides the classifier's tensors."""
        return {
            "part": asdict(self.part),
            "first": self.first,
            "fit": self.fit.to_dict(),
            "sizes": self.classifier.sizes,
        }

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Reader:
        """What `config` gave, and the classifier's tensors."""
        name, rows, columns = (config["part"][field] for field in ("name", "rows", "columns"))
        classifier = ConceptClassifier.of_state(tensors, **config["sizes"])
        return cls(Part(name, tuple(rows), tuple(columns)), config["first"], classifier, Fit.from_dict(config["fit"]))


def fit_readers(
    view: PipelineView,
    target: str,
    pairs: Sequence[PromptPair],
    options: Training,
    generator: torch.Generator,
    reads: Reads,
    pooled: bool,
    *,
    truncate: bool = False,
) -> tuple[Reader, ...]:
    """Embed pairs of prompts, and train a classifier for each part of the embedding.

    Args:
        view: The pipeline.
        target: The concept.
        pairs: The pairs.
        options: How to train.
        generator: Where the split, weights, order and rows are drawn from.
        reads: Whether text encoders are told apart.
        pooled: Whether pooled vectors are read.
        truncate: Allow the ends of prompts to be lost.

    Raises:
        InputError: If a prompt is too long, there are too few pairs, or those held out do not separate.
    """
    shares = split(pairs, (options.hold_out, options.hold_out), generator)
    place = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    index = torch.tensor([[place[pair.safe] for pair in pairs], [place[pair.unsafe] for pair in pairs]])
    texts = list(place)
    encoded = [
        view.encode(texts[i : i + _ENCODED_AT_ONCE], allow_unknown=True, truncate=truncate).replace(negative=None)
        for i in range(0, len(texts), _ENCODED_AT_ONCE)
    ]
    word, readers = view.encode(target, allow_unknown=True), []
    for part in parts_of(view.layout, encoded[0], reads, pooled):
        x = torch.cat([part.of(each) for each in encoded])
        first = first_row(x)
        keep = torch.cat([part.keep(each, first) for each in encoded])
        concept = concept_rows(view, target, part, word, first)
        name = f"{target!r} in {part.name}"
        readers.append(Reader(part, first, *train(concept, Encoded(x, keep, index), shares, options, generator, name)))
    return tuple(readers)


def starting(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, without that start.

    >>> list(starting({"0.w": torch.ones(1), "1.w": torch.ones(1)}, "1."))
    ['w']
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
