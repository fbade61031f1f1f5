"""Masks over tokens: half a token id means nothing, so the mask mixes the embeddings of two tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_type
from efface.attribution.maskers import Masker, Model, check_mask
from efface.core.arrays import dense
from efface.core.doors import check_call, check_fields
from efface.core.hooks import edit_call
from efface.core.saved_types import saved

_IDS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@saved
@dataclass(frozen=True)
class Tokens(Masker):
    """One cell a token of ids `(n, tokens)`; masking is done behind the model's input embedding.

    With E the embedding, the model reads `m E(x) + (1 - m) E(q)` at each place. At m = 0 that is the model on ids q,
    to the bit; the attention mask, positions and everything else are those of x.

    Attributes:
        keep: Ids that are never removed: padding and special tokens, e.g. `tokenizer.all_special_ids`. Their places are
            0 in maps.
        embedding: Dotted path of the model's input embedding. None takes what `get_input_embeddings` of the model or of
            its one part that has it gives, or else the only `nn.Embedding` there is.

    >>> Tokens(keep=(0,)).free(torch.tensor([[7, 8, 0]]))
    tensor([[ True,  True, False]])
    """

    keep: Sequence[int] = ()
    embedding: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "keep", tuple(int(i) for i in self.keep))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Number of tokens."""
        check_call(Tokens.shape, locals())
        if x.ndim != 2 or x.dtype not in _IDS:
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}: Tokens expects token ids (n, tokens)")
        return (x.shape[1],)

    def free(self, x: Tensor) -> Tensor:
        """Places of tokens that may be removed."""
        self.shape(x)
        return ~torch.isin(x, torch.tensor(self.keep, dtype=x.dtype, device=x.device))

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask with ones at tokens that stay, `(n, tokens)`."""
        check_call(Tokens.expand, locals())
        check_mask(mask, x, self.shape(x))
        return (
            mask if mask.dtype == torch.bool and not self.keep else torch.where(self.free(x), mask, mask.new_ones(()))
        )

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask with zeros at tokens that stay anyway, `(n, tokens)`."""
        check_call(Tokens.map, locals())
        check_mask(mask, x, self.shape(x))
        return torch.where(self.free(x), mask.float(), 0.0)

    def outputs(self, model: Model, x: Tensor, mask: Tensor, q: Tensor) -> Tensor:
        """What the model says of the mixture of tokens x and q.

        Raises:
            InputError: If the model is no module, its embedding is not found, or it does not read these ids once.
        """
        check_call(Tokens.outputs, locals())
        module = input_embedding(model, self.embedding)
        kept = self.expand(mask, x)[..., None]
        seen: list[torch.Size] = []

        def mix(_module: nn.Module, _args: Any, _kwargs: Any, given: Tensor) -> Tensor:
            seen.append(given.shape[:-1])
            if given.shape[:-1] != x.shape:
                return given
            # forward, not a call: hooks would mix the mixture.
            share = kept.to(given.dtype)
            return share * given + (1 - share) * module.forward(q)

        with ExitStack() as stack:
            stack.callback(edit_call(module, "output", mix))
            out = model(x)
        if seen != [x.shape]:
            raise InputError(
                f"the embedding read ids of shape {[tuple(s) for s in seen]} instead of {tuple(x.shape)} once: name "
                "the input embedding, Tokens(embedding='path.to.it'), and let the model take the ids as they are"
            )
        return out


def input_embedding(model: Any, path: str | None = None) -> nn.Module:
    """The module that turns token ids into vectors.

    Raises:
        InputError: If it is not clear which one it is; the text lists the candidates.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}: token masks need an nn.Module, to find its embedding")
    if path is not None:
        try:
            return model.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"the model has no {path!r}: write one of {_embeddings(model)}") from error
    found = {id(m): m for part in model.modules() if (m := _own_embedding(part)) is not None}
    if not found:
        found = {id(m): m for m in model.modules() if isinstance(m, nn.Embedding)}
    if len(found) != 1:
        raise InputError(
            f"{len(found)} modules may be the input embedding: write Tokens(embedding=...) with one of "
            f"{_embeddings(model) or 'its modules'}"
        )
    return next(iter(found.values()))


class TokenClassifier(nn.Module):
    """Token ids `(n, tokens)` to class outputs `(n, classes)`, as this room wants it, of a transformers model.

    Attributes:
        model: Called as `model(input_ids=..., attention_mask=...)`; what it returns has `.logits`, or, with a `head`,
            `.last_hidden_state`.
        pad: Id of the padding, which attention leaves out.
        head: Takes the mean of the last hidden states over the attention mask `(n, d)`; None if the model has its own.

    Does not guarantee: a tokenizer's pairs of sentences: all tokens are of the first segment.
    """

    def __init__(self, model: nn.Module, pad: int, head: nn.Module | None = None) -> None:
        check_call(TokenClassifier.__init__, locals())
        super().__init__()
        self.model, self.pad, self.head = model, pad, head
        self.train(model.training)

    def forward(self, ids: Tensor) -> Tensor:
        """Class outputs of token ids."""
        ids = dense(check_type(ids, Tensor, "ids"), "ids")
        if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
            raise InputError(f"ids are {ids.dtype} of shape {tuple(ids.shape)}: expected token ids (n, tokens)")
        attention = ids.ne(self.pad).long()
        out = self.model(input_ids=ids, attention_mask=attention)
        if self.head is None:
            return self._part(out, "logits", "give a classifier, or with head= what makes one of it")
        hidden = self._part(out, "last_hidden_state", "give the model below its own head")
        weight = attention.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * weight).sum(1) / weight.sum(1).clamp(min=1))

    def _part(self, out: Any, name: str, advice: str) -> Tensor:
        found = getattr(out, name, None)
        if not isinstance(found, Tensor):
            raise InputError(f"{type(self.model).__name__} gives {shown(out)}, which has no {name}: {advice}")
        return found


def _own_embedding(part: nn.Module) -> nn.Module | None:
    getter = getattr(part, "get_input_embeddings", None)
    try:
        found = getter() if callable(getter) else None
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Module) else None


def _embeddings(model: nn.Module) -> str:
    return ", ".join(repr(name) for name, m in model.named_modules() if isinstance(m, nn.Embedding))
