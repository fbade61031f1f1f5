"""A concept's classifiers, one for each part of an embedding, and how they are fitted on a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.diffusion.text.cgce.classifier import ConceptClassifier
from efface.diffusion.text.cgce.config import CgceConfig
from efface.diffusion.text.cgce.pairs import PromptPair, split
from efface.diffusion.text.cgce.training import Encoded, Fit, train
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, first_row, parts_of
from efface.pipelines.view import PipelineView

_ENCODED_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Reader:
    """One concept's classifier of one part of an embedding.

    Attributes:
        part: Which part.
        first: Its first row that is not the same in every prompt; those before it are neither read nor changed.
        typical: Median logit of prompts without the concept.
        classifier: The classifier.
    """

    part: Part
    first: int
    typical: float
    classifier: ConceptClassifier

    def logits(self, embedding: PromptEmbedding) -> Tensor:
        """Calibrated logits of the concept in n prompts, `(n,)`."""
        x = self.part.of(embedding).float()
        return self.classifier.on(x.device)(x, self.part.keep(embedding, self.first))


def fit_readers(view: PipelineView, concept: str, pairs: Sequence[PromptPair], config: CgceConfig) -> dict[Reader, Fit]:
    """Embed pairs of prompts, and train a classifier for each part of the embedding; how each came out.

    Raises:
        InputError: If a prompt is too long, there are too few pairs, or those held out do not separate.
    """
    generator = torch.Generator().manual_seed(config.seed)
    shares = split(pairs, (config.hold_out, config.hold_out), generator)
    place = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    index = torch.tensor([[place[pair.safe] for pair in pairs], [place[pair.unsafe] for pair in pairs]])
    texts = list(place)
    encoded = [
        view.encode(some, allow_unknown=True, truncate=config.truncate).replace(negative=None)
        for some in (texts[i : i + _ENCODED_AT_ONCE] for i in range(0, len(texts), _ENCODED_AT_ONCE))
    ]
    word, readers = view.encode(concept, allow_unknown=True), {}
    for part in parts_of(encoded[0], config.reads, pooled=config.pooled == "refine"):
        x = torch.cat([part.of(each) for each in encoded])
        first = first_row(x)
        keep = torch.cat([part.keep(each, first) for each in encoded])
        rows, name = _concept_rows(view, concept, part, word, first), f"{concept!r} in {part.name}"
        classifier, fit = train(rows, Encoded(x, keep, index), shares, config, generator, name)
        readers[Reader(part, first, fit.typical, classifier)] = fit
    return readers


def _concept_rows(view: PipelineView, word: str, part: Part, embedding: PromptEmbedding, first: int) -> Tensor:
    """Rows of a word's own tokens and of the end of text, from `first` on, in a part of its embedding, `(k, width)`."""
    x = part.of(embedding)[0]
    if part.pooled:
        return x
    rows: set[int] = set()
    for tokens in view.tokens(word).values():
        if part.encoder in ("", tokens.encoder):
            rows.update(r - part.rows[0] for r in tokens.sequence_rows(range(*tokens.content)))
    chosen = sorted(r for r in rows if first <= r < len(x))
    return x[chosen] if chosen else x[part.keep(embedding, first)[0]]
