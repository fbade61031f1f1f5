"""Whether a pipeline can read what a concept says."""

from __future__ import annotations

from efface._errors import InputError
from efface.core.concept import Concept
from efface.pipelines.tokenization import Tokenization


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
    for field, word in named:
        for tokens in tokenization([word])[0]:
            if tokens.unknown:
                unknown = ", ".join(map(repr, tokens.unknown))
                raise InputError(f"{tokens.tokenizer} does not know {unknown} of {field} {word!r}: choose other words")
        for prompt in concept.prompts(word):
            for tokens in tokenization([prompt])[0]:
                if tokens.truncated:
                    raise InputError(
                        f"{field} {word!r} makes the prompt {prompt!r} {tokens.length} tokens long, "
                        f"{tokens.encoder} reads {tokens.window}: shorten it, or its template"
                    )
