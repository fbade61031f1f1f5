"""What each token of a prompt does to the whole: a prompt's pooled vector with one token masked at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.subjects import device_of
from efface.pipelines.tokenization import special_ids
from efface.pipelines.tokens import Tokens
from efface.pipelines.view import PipelineView

MASK = 0
"""Id of the token that masks where a tokenizer has none of its own (as BERT's [MASK] is), as in the released code of
SAFREE; CLIP's is "!", T5's is padding."""


@dataclass(frozen=True)
class MaskedPrompt:
    """One prompt in one text encoder, with one token masked at a time.

    Attributes:
        words: The m tokens of the prompt as they are written.
        rows: Their rows in the encoder's part of the sequence, `(m,)`.
        content: First row that is not padding, and the one past the last.
        vectors: Pooled vector of the prompt without each token, `(m, d)`, float64.
    """

    words: tuple[str, ...]
    rows: Tensor
    content: tuple[int, int]
    vectors: Tensor


@torch.no_grad()
def pooled(encoder: nn.Module, ids: Tensor, *, first: bool = False) -> Tensor:
    """Pooled vectors `(k, d)` of texts, float64, in the space of the encoder's rows.

    Where the encoder has a pooled output, it is the last hidden row which that is made of, before any projection into
    another space: of the end of text (CLIP), or of the first token (BERT). Where it has none (T5, Llama) it is the mean
    of the last hidden rows.

    Args:
        encoder: A text encoder.
        ids: Token ids `(k, length)` without padding, ending in the end of text if the encoder has a pooled output.
        first: Whether a pooled output is that of the first token.
    """
    out = encoder(input_ids=ids)
    rows = out.last_hidden_state.double()
    own = any(getattr(out, name, None) is not None for name in ("pooler_output", "text_embeds"))
    return rows[:, 0 if first else -1] if own else rows.mean(1)


def _tokenizer(tokens: Tokens, view: PipelineView) -> Any:
    return view.tokenizers[tokens.tokenizer]


def _sums_first(tokens: Tokens, view: PipelineView) -> bool:
    """Whether a text begins with the token that sums it up, as BERT's [CLS] does."""
    return tokens.ids[tokens.content[0]] in special_ids(_tokenizer(tokens, view), "cls_token")


def _ids(tokens: Tokens, view: PipelineView) -> Tensor:
    """The ids of a text without padding, where its encoder is, `(length,)`."""
    device = device_of(view.text_encoders[tokens.encoder]) or view.device
    return torch.tensor(tokens.ids[slice(*tokens.content)], device=device)


def masked_prompt(view: PipelineView, prompt: str) -> dict[str, MaskedPrompt]:
    """Text encoder with rows in the sequence -> the prompt with one token masked at a time.

    Tokens of a template, and those that start and end a text, are not masked.

    Args:
        view: The pipeline.
        prompt: The prompt.
    """
    found = {}
    for name, tokens in view.tokens(prompt).items():
        if not tokens.slot.in_sequence:
            continue
        start, stop = tokens.prompt
        inside = [r for r, (a, b) in enumerate(tokens.spans) if a < b and start < b and a < stop and r != tokens.eos]
        places = [row for row in inside if tokens.sequence_rows([row])]
        ids = _ids(tokens, view).repeat(len(places), 1)
        first, own = tokens.content[0], special_ids(_tokenizer(tokens, view), "mask_token")
        for i, row in enumerate(places):
            ids[i, row - first] = min(own, default=MASK)
        sums_first = _sums_first(tokens, view)
        vectors = pooled(view.text_encoders[name], ids, first=sums_first) if places else torch.zeros(0, 0)
        shift = tokens.slot.shift - tokens.slot.rows[0]
        found[name] = MaskedPrompt(
            tuple(tokens.text[slice(*tokens.spans[row])] for row in places),
            torch.tensor([row + shift for row in places], dtype=torch.long),
            (max(0, first + shift), tokens.content[1] + shift),
            vectors,
        )
    return found


def phrase_bases(view: PipelineView, phrases: Sequence[str]) -> dict[str, Tensor]:
    """Text encoder with rows in the sequence -> an orthonormal basis of the span of the phrases, `(d, r)`.

    Raises:
        InputError: If a pooled vector is not finite, or not as wide as the rows.
    """
    vectors: dict[str, list[Tensor]] = {}
    slots = {}
    for phrase in phrases:
        for name, tokens in view.tokens(phrase).items():
            if tokens.slot.in_sequence:
                ids, sums_first = _ids(tokens, view)[None], _sums_first(tokens, view)
                vectors.setdefault(name, []).append(pooled(view.text_encoders[name], ids, first=sums_first)[0])
                slots[name] = tokens.slot
    bases = {name: span_basis(torch.stack(found)) for name, found in vectors.items()}
    for name, basis in bases.items():
        first, stop = slots[name].columns
        if len(basis) != stop - first:
            raise InputError(
                f"the hidden rows of {name} are {len(basis)} wide and those in the sequence {stop - first}: "
                "its pooled vectors lie in another space than its rows; choose another method"
            )
    return bases


def span_basis(vectors: Tensor) -> Tensor:
    """An orthonormal basis `(d, r)` of the span of `(k, d)` vectors; directions within float32's rounding are left out.

    Raises:
        InputError: If a vector is not finite.

    >>> span_basis(torch.tensor([[2.0, 0.0], [4.0, 0.0]])).abs()
    tensor([[1.],
            [0.]])
    """
    if not bool(vectors.isfinite().all()):
        raise InputError("a pooled vector of the text encoder is not finite: convert the text encoder to float32")
    _, s, rows = torch.linalg.svd(vectors, full_matrices=False)
    return rows[s > s[0] * max(vectors.shape) * torch.finfo(torch.float32).eps].mT


def off_span(x: Tensor, basis: Tensor) -> Tensor:
    """`(I - P) x` for rows `(..., d)` and the projection P onto a basis `(d, r)`."""
    return x - onto_span(x, basis)


def onto_span(x: Tensor, basis: Tensor) -> Tensor:
    """`P x` for rows `(..., d)` and the projection P onto a basis `(d, r)`."""
    return (x @ basis) @ basis.mT


def triggers(distances: Tensor, alpha: float) -> Tensor:
    """Which tokens pull a prompt towards the concept, `(m,)` booleans.

    A token does if the prompt without it lies farther from the concept than without the others on average: `d_i >= (1 +
    alpha) mean of d_j over j != i` (arXiv:2410.12761, equation 4). A prompt of a single token has no others: that
    token counts, as in the released code, where the mean of nothing compares so.

    Args:
        distances: d, `(m,)`.
        alpha: By how much farther.

    >>> triggers(torch.tensor([1.0, 1.0, 1.5]), 0.01).tolist(), triggers(torch.ones(1), 0.01).tolist()
    ([False, False, True], [True])
    """
    m = len(distances)
    if m == 1:
        return torch.ones(1, dtype=torch.bool, device=distances.device)
    others = (distances.sum() - distances) / (m - 1)
    return distances >= (1 + alpha) * others
