"""What a concept changes in the rows of prompts, by kind of row, and how far back it can be taken: to its anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface.core.concept import Concept
from efface.diffusion.text.contexts import Encoded, filled, others_of, templates_of
from efface.diffusion.text.kinds import BEFORE, KINDS, kinds_of, tokens_of
from efface.diffusion.text.semantic_surgery.biopsy import fewest_errors
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, first_row, parts_of
from efface.pipelines.view import PipelineView

_SAME = 1e-4


@dataclass(frozen=True, eq=False)
class Contrast:
    """One word against others, in one part of an embedding (ours).

    Of each kind of row (the word's own, those around it, the end of text, padding; a pooled vector is one row) there
    are three means over templates: with the word, `p`; with the other words, `o`; with its anchor, `a`. How much of
    the word is in a row x is `s = <x - o, p - o> / |p - o|^2`: 1 with it, 0 with other words, and about 0 in rows that
    speak of something else. Taken out is `s (p - a)`, so that p becomes a and a row without the word stays. A row is of
    the kind whose middle of p and o is nearest, so that no text must be known; and it has the word only if the kind
    that has read most of the prompt (the last one) finds at least `least` of it there.

    Does not guarantee: that the anchor is what a denoiser then shows, or that words which mean both are told apart.

    Attributes:
        part: Which part.
        first: Its first row that is not the same in every prompt.
        present: p, `(kinds, width)`.
        absent: o.
        anchor: a.
        least: s from which on a row has the word, in its whole kind.
    """

    part: Part
    first: int
    present: Tensor
    absent: Tensor
    anchor: Tensor
    least: float

    __repr__ = brief

    def check(self) -> None:
        """Refuse means that do not go together."""
        shapes, width = [tuple(x.shape) for x in (self.present, self.absent, self.anchor)], self.part.columns[1]
        if len(set(shapes)) > 1 or self.present.ndim != 2 or shapes[0][1] != width - self.part.columns[0]:
            raise InputError(f"a contrast in {self.part.name}, columns {self.part.columns}, has means {shapes}")

    def amounts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows `(..., width)` the kind, how much of the word is there by that kind, and by the whole kind."""
        present, absent = self.present.to(x), self.absent.to(x)
        middle = (present + absent) / 2
        flat = x.detach().reshape(-1, x.shape[-1])
        kind = torch.cdist(flat, middle).argmin(1).reshape(x.shape[:-1])
        apart = present - absent
        apart = apart / apart.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        own = ((x - absent[kind]) * apart[kind]).sum(-1)
        return kind, own, (x - absent[-1]) @ apart[-1]

    def taken(self, embedding: PromptEmbedding, *, every_row: bool = False) -> Tensor:
        """What is to be subtracted from the part of n prompts, `(n, rows, width)`, float32; 0 in rows that stay.

        Args:
            embedding: n prompts.
            every_row: Whether rows in which the word is not found count, too.
        """
        x = self.part.of(embedding).float()
        kind, own, whole = self.amounts(x)
        has = self.part.says(embedding, self.first)
        if not every_row:
            has = has & (whole >= self.least)
        amount = torch.where(has, own.clamp_min(0), 0)
        return amount[..., None] * (self.present - self.anchor).to(x)[kind]


def moved(
    embedding: PromptEmbedding,
    at: Sequence[int],
    contrasts: Sequence[Contrast],
    share: Tensor | float = 1.0,
    *,
    every_row: bool = False,
) -> PromptEmbedding:
    """An embedding with words taken out of some of its prompts, one contrast after the other; the rest stays.

    Args:
        embedding: n prompts.
        at: Which of them.
        contrasts: What is taken out, and of which part.
        share: How much of it, in all of them or in each.
        every_row: Whether rows in which a word is not found count, too.
    """
    rows = list(at)
    for contrast in contrasts:
        whole = contrast.part.of(embedding)
        taken = contrast.taken(embedding, every_row=every_row)[rows]
        by = share.to(taken)[:, None, None] if isinstance(share, Tensor) else share
        changed = whole.clone()
        changed[rows] = (whole[rows].float() - by * taken).to(whole.dtype)
        embedding = contrast.part.put(embedding, changed)
    return embedding


Rows = Mapping[str, Tensor]
"""Kind of row -> the rows of a prompt that are of it, `(n, width)`."""


class Contexts:
    """A concept's templates with its words and with others, embedded, with the kind of each row.

    Attributes:
        templates: The templates.
        words: The concept's words.
        others: The words that it is told from.
        parts: The parts of the pipeline's embeddings.
    """

    def __init__(self, encoded: Encoded, concept: Concept) -> None:
        self.templates, self.words, self.others = templates_of(concept), concept.words, others_of(concept)
        self.parts = parts_of(encoded.all)
        self.first = {part: first_row(part.of(encoded.all)) for part in self.parts}
        pairs = [(t, w) for t in self.templates for w in (*self.words, *self.others)]
        texts = {(t, w): t.replace("{}", w) for t, w in pairs}
        tokens = tokens_of(encoded.view, list(texts.values()))
        self._rows: dict[Part, dict[tuple[str, str], Rows]] = {}
        for part in self.parts:
            x, says = part.of(encoded.all), part.says(encoded.all, self.first[part]).tolist()
            self._rows[part] = {}
            for (t, w), text in texts.items():
                at, kinds = encoded.row[text], kinds_of(tokens[text][part.encoder], part, w)
                places = {kind: [r for r, k in enumerate(kinds) if k == kind and says[at][r]] for kind in KINDS}
                self._rows[part][t, w] = {kind: x[at, rows].float() for kind, rows in places.items() if rows}

    @classmethod
    def of(cls, view: PipelineView, concept: Concept) -> Contexts:
        """Those of one concept alone."""
        return cls(Encoded(view, filled(templates_of(concept), (*concept.words, *others_of(concept)))), concept)

    def nearest(self) -> str:
        """The other word that is nearest: the distance of mean rows that read most, over their size, summed by part."""
        far = dict.fromkeys(self.others, 0.0)
        for part in self.parts:
            own = self._whole(part, self.words[0])
            for word in self.others:
                size = own.norm().clamp_min(torch.finfo(own.dtype).tiny)
                far[word] += float((self._whole(part, word) - own).norm() / size)
        return min(far, key=lambda word: far[word])

    def _whole(self, part: Part, word: str) -> Tensor:
        """Mean over templates of the rows that have read most of the prompt."""
        found = [self._rows[part][t, word] for t in self.templates]
        return _mean([rows[max(rows, key=KINDS.index)] for rows in found])

    def contrast(self, part: Part, word: str, anchor: str) -> Contrast:
        """A word of the concept against the others, and against its anchor."""
        own = {t: self._rows[part][t, word] for t in self.templates}
        others = {t: {o: self._rows[part][t, o] for o in self.others} for t in self.templates}
        reads = _reads_on(own, others)
        kinds = [k for k in KINDS if any(k in rows for rows in own.values()) and (k != BEFORE or reads)]
        means = [_means(kind, own, others, anchor) for kind in kinds]
        present, absent, towards = (torch.stack(rows) for rows in zip(*means, strict=True))
        found = Contrast(part, self.first[part], present, absent, towards, 0.0)
        there, gone = [], []
        for t in self.templates:
            for kind, rows in own[t].items():
                (gone if kind == BEFORE and not reads else there).append(found.amounts(rows)[2])
            gone += [found.amounts(rows)[2] for each in others[t].values() for rows in each.values()]
        least, _, _ = fewest_errors(torch.cat(there).cpu(), torch.cat(gone).cpu())
        return replace(found, least=least)


def _reads_on(own: Mapping[str, Rows], others: Mapping[str, Mapping[str, Rows]]) -> bool:
    """Whether rows before a word know of it, as they do not where a text encoder is causal."""
    for t, rows in own.items():
        x = rows.get(BEFORE)
        for other in others[t].values():
            y = other.get(BEFORE)
            if x is None or y is None or x.shape != y.shape:
                continue
            if float((x - y).abs().max()) > _SAME * float(x.abs().max()):
                return True
    return False


def _mean(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.mean(0) for each in rows]).mean(0)


def _means(
    kind: str, own: Mapping[str, Rows], others: Mapping[str, Mapping[str, Rows]], anchor: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean row of a kind with the word, with others and with the anchor, over templates that have it in all of them."""
    at = [t for t, rows in own.items() if kind in rows and all(kind in o for o in others[t].values())]
    if not at:  # where longer words leave no padding, say: nothing is taken from rows of this kind
        row = _mean([rows[kind] for rows in own.values() if kind in rows])
        return row, row, row
    absent = torch.stack([_mean([others[t][o][kind] for t in at]) for o in others[at[0]]]).mean(0)
    return _mean([own[t][kind] for t in at]), absent, _mean([others[t][anchor][kind] for t in at])
