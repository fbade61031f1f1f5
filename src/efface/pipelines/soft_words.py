"""Words that are vectors: a token of a prompt is given other word vectors, which a search may find by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.pipelines.encoding import check_texts
from efface.pipelines.prompts import PromptEncoder
from efface.pipelines.tokenization import special_ids

_SIGNS = (*"*^~|#$%&=+<>@", *"zqxjkvwyf")


class Words:
    """The tokens that a pipeline's text encoders know, and their vectors.

    Args:
        text: The pipeline's text side.
    """

    def __init__(self, text: PromptEncoder) -> None:
        self._text = text

    @cached_property
    def tokenizers(self) -> dict[str, Any]:
        """Text encoder -> its tokenizer."""
        known = self._text.components.tokenizers
        return {tokens.encoder: known[tokens.tokenizer] for tokens in self._text.tokenization(["a"])[0]}

    def table(self, encoder: str) -> Tensor:
        """`(tokens, width)` word vectors of a text encoder."""
        return self._tables(encoder)[0].weight

    def ids(self, encoder: str, text: str) -> list[int]:
        """Tokens of a text without special ones; none where some of it is unknown."""
        check_texts([text], "a text")
        tokenizer = self.tokenizers[encoder]
        found = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        strange = {getattr(tokenizer, "unk_token_id", None), *tokenizer.all_special_ids}
        return [] if strange & set(found) else list(found)

    def token(self, encoder: str, word: str) -> int:
        """The one token of a word.

        Raises:
            InputError: If it is not one.
        """
        found = self.ids(encoder, word)
        if len(found) != 1:
            raise InputError(f"{word!r} is {len(found)} tokens of {encoder}: give a word that is one")
        return found[0]

    def whole(self, encoder: str) -> dict[int, str]:
        """Token -> the word that it is, for those that are found again where the word is written in a prompt."""
        tokenizer = self.tokenizers[encoder]
        special = {*tokenizer.all_special_ids, *special_ids(tokenizer, "bos_token", "eos_token", "pad_token")}
        ids = [i for i in range(len(tokenizer)) if i not in special]
        words = [text.strip() for text in tokenizer.batch_decode([[i] for i in ids])]
        named = [(i, word) for i, word in zip(ids, words, strict=True) if word and " " not in word]
        again = tokenizer([f"a {word} a" for _, word in named], add_special_tokens=False, verbose=False)["input_ids"]
        return {i: word for (i, word), found in zip(named, again, strict=True) if len(found) == 3 and found[1] == i}

    def carrier(self, texts: Sequence[str]) -> str:
        """A sign, letter or other word that is one token of every text encoder and occurs in none of some texts.

        Raises:
            InputError: If there is none.
        """
        used = {name: {i for text in texts for i in self.ids(name, text)} for name in self.tokenizers}
        rest = (word for name in list(self.tokenizers)[-1:] for word in self.whole(name).values())
        for word in chain(_SIGNS, rest):
            found = {name: self.ids(name, word) for name in self.tokenizers}
            if all(len(ids) == 1 and ids[0] not in used[name] for name, ids in found.items()):
                return word
        raise InputError("no word is one token of every text encoder and unused in the prompts")

    @contextmanager
    def given(self, carrier: str, vectors: Mapping[str, Tensor]) -> Iterator[None]:
        """Give text encoders other word vectors for a word, wherever it occurs, for the length of a block.

        Args:
            carrier: A word that is one token.
            vectors: Text encoder -> `(k, width)`: the j-th time that the token occurs in a text it has the j-th of
                these, and the last from then on; or `(n, k, width)` for each of n texts, which are all that is encoded
                within that has the word. Gradients flow to them.

        Raises:
            InputError: If the carrier is not one token; within, if it is in texts of another number.
        """
        with ExitStack() as stack:
            for name, rows in vectors.items():
                hook = _given(self.token(name, carrier), rows)
                for table in self._tables(name):
                    stack.callback(table.register_forward_hook(hook).remove)
            yield

    def _tables(self, encoder: str) -> list[nn.Embedding]:
        """All modules that look words up in the table of an encoder: T5 has two."""
        model: Any = self._text.components.text_encoders[encoder]
        weight = model.get_input_embeddings().weight
        return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is weight]


def _given(token: int, vectors: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(_table: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        there = args[0] == token
        if not bool(there.any()):
            return out
        which = (there.long().cumsum(-1) - 1).clamp(0, vectors.shape[-2] - 1)
        if vectors.ndim == 2:
            return torch.where(there[..., None], vectors.to(out)[which], out)
        if len(there) != len(vectors):
            raise InputError(f"vectors of {len(vectors)} texts, and {len(there)} are encoded: encode them alone")
        rows = torch.arange(len(there), device=which.device)[:, None]
        return torch.where(there[..., None], vectors.to(out)[rows, which], out)

    return hook
