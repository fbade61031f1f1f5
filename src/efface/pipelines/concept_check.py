"""Whether a pipeline can read what a concept says."""

from __future__ import annotations

from collections.abc import Sequence

from efface._errors import InputError
from efface.core.concept import Concept
from efface.pipelines.tokenization import Tokenization
from efface.pipelines.tokens import Tokens

_AT_ONCE = 64


def check_concept(tokenization: Tokenization, concept: Concept) -> None:
    """Refuse what a pipeline cannot read.

    Args:
        tokenization: The pipeline's.
        concept: The concept.

    Raises:
        InputError: If a word is unknown to one of its tokenizers, or a prompt is longer than its window.
    """
    named = [("target", concept.name), *(("synonyms", word) for word in concept.synonyms)]
    named += [(field, word) for field in ("erase_from", "anchor") if (word := getattr(concept, field))]
    named += [("preserve", word) for word in concept.preserve]
    texts = dict.fromkeys(text for _, word in named for text in (word, *concept.prompts(word)))
    read = _read(tokenization, list(texts))
    for field, word in named:
        for tokens in read[word]:
            if tokens.unknown:
                unknown = ", ".join(map(repr, tokens.unknown))
                raise InputError(f"{tokens.tokenizer} does not know {unknown} of {field} {word!r}: choose other words")
        for prompt in concept.prompts(word):
            for tokens in read[prompt]:
                if tokens.truncated:
                    raise InputError(
                        f"{field} {word!r} makes the prompt {prompt!r} {tokens.length} tokens long, "
                        f"{tokens.encoder} reads {tokens.window}: shorten it, or its template"
                    )


def _read(tokenization: Tokenization, texts: Sequence[str]) -> dict[str, tuple[Tokens, ...]]:
    """The tokens of texts; some at a time, since the pipeline makes an (empty) embedding of each."""
    parts = (texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE))
    return {text: tokens for part in parts for text, tokens in zip(part, tokenization(part), strict=True)}
