"""What a pipeline's text side makes of words in templates: their own rows, a summary, and the rows around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface._errors import InputError
from efface.diffusion.anchors.encoding import ShortEncoder
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.tokens import Tokens

_VARIES = 1e-4


@dataclass(frozen=True)
class Readings:
    """Words read in templates.

    Attributes:
        words: The n words.
        templates: The t templates.
        own: The mean of a word's own rows, `(n, t, width)`; where a text encoder has no rows, its pooled vector.
        summary: The row that has read the whole prompt, with pooled vectors beside it, `(n, t, width)`.
        around: Template -> the rows around the word, the summary's among them, as the denoiser gets them,
            `(n, rows, width)`; rows that are the same in every prompt are left out.
    """

    words: tuple[str, ...]
    templates: tuple[str, ...]
    own: Tensor
    summary: Tensor
    around: tuple[Tensor, ...]

    @property
    def row(self) -> dict[str, int]:
        """Word -> its place."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def means(self) -> Tensor:
        """Own rows and summary side by side, `(n, t, width)`, of one size on average."""
        return torch.cat([_sized(self.own), _sized(self.summary)], -1)


def _sized(x: Tensor) -> Tensor:
    """Scaled so that what tells words apart has a mean square of one a prompt."""
    spread = (x - x.mean(0)).square().sum(-1).mean().sqrt()
    return x / spread.clamp_min(torch.finfo(x.dtype).tiny)


def read(encoder: ShortEncoder, words: Sequence[str], templates: Sequence[str]) -> Readings:
    """Read every word in every template.

    Args:
        encoder: The pipeline's text side.
        words: n words, each once.
        templates: t prompts with `{}` for the word.

    Raises:
        InputError: If prompts are too long for the window, or all prompts are the same to the text encoders.
    """
    texts = [" ".join(template.replace("{}", word).split()) for template in templates for word in words]
    tokens = tokens_of(encoder, texts)
    cut = next((text for text, each in zip(texts, tokens, strict=True) if any(t.truncated for t in each.values())), "")
    if cut:
        raise InputError(f"the prompt {cut!r} is too long for the window: shorten the template, or leave the word out")
    embedding = encoder(texts, [max(t.content[1] for t in each.values()) for each in tokens])
    n, own, summary, around = len(words), [], [], []
    starts = _starts(embedding, tokens)
    for k, _ in enumerate(templates):
        part = range(k * n, (k + 1) * n)
        each = [_split(embedding, i, tokens[i], words[i - k * n], starts) for i in part]
        own.append(torch.stack([a for a, _, _ in each]))
        summary.append(torch.stack([b for _, b, _ in each]))
        fewest = min(len(c) for _, _, c in each)
        # Counted from the end: what stands behind a word has read it, also where the rows before it have not.
        around.append(torch.stack([c[len(c) - fewest :] for _, _, c in each]))
    return Readings(tuple(words), tuple(templates), torch.stack(own, 1), torch.stack(summary, 1), tuple(around))


def tokens_of(encoder: ShortEncoder, texts: Sequence[str]) -> list[dict[str, Tokens]]:
    """Text encoder -> tokens, of each text."""
    found: list[dict[str, Tokens]] = []
    for start in range(0, len(texts), 64):
        part = encoder.view.text.tokenization(list(texts[start : start + 64]))
        found += [{tokens.encoder: tokens for tokens in each} for each in part]
    return found


def _starts(embedding: PromptEmbedding, tokens: Sequence[Mapping[str, Tokens]]) -> dict[str, bool]:
    """Text encoder -> whether its first row tells prompts apart, as BERT's does and a causal one's does not."""
    found = {}
    for name, x in embedding.sequences.items():
        start = tokens[0][name].start
        if start is None:
            found[name] = False
            continue
        rows = x[:, start].float()
        found[name] = float((rows - rows[0]).abs().max()) > _VARIES * float(rows.abs().max())
    return found


def _split(
    embedding: PromptEmbedding, i: int, tokens: Mapping[str, Tokens], word: str, starts: Mapping[str, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """A word's own mean row, the summary, and the rows around it, of one prompt."""
    own, summary, around = [], [], []
    for name, x in embedding.sequences.items():
        each = tokens[name]
        shift = each.slot.shift - each.slot.rows[0]
        rows = [r + shift for r in each.rows(word)] or _content(each, shift)
        last = each.start if starts[name] else each.eos
        at = (each.content[1] - 1 if last is None else last) + shift
        own.append(x[i, rows].float().mean(0))
        summary.append(x[i, at].float())
        kept = [r for r in range(each.content[0] + shift, each.content[1] + shift) if r not in rows]
        constant = each.start if each.start is not None and not starts[name] else None
        kept = [r for r in kept if constant is None or r != constant + shift] or [at]
        around += [r + each.slot.rows[0] for r in kept]
    pooled = [vector[i].float() for vector in embedding.pooled_parts.values()]
    return (
        torch.cat(own or pooled),
        torch.cat([*summary, *pooled]),
        embedding.sequence[i, sorted(set(around))].float(),
    )


def _content(tokens: Tokens, shift: int) -> list[int]:
    special = {tokens.start, tokens.eos}
    return [r + shift for r in range(*tokens.content) if r not in special] or [tokens.content[1] - 1 + shift]
