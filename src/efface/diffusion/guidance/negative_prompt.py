"""The negative prompt: the baseline that every paper forgets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface._registry import Method, register
from efface.diffusion.erasure import Erasure
from efface.diffusion.spec import Concepts, ErasureSpec
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


class NegativePromptErasure(Erasure):
    """Guide away from the concept: where classifier-free guidance has the empty prompt, it has the concept.

    The prediction is `e(concept) + s (e(prompt) - e(concept))` instead of `e("") + s (e(prompt) - e(""))` (Ho and
    Salimans, arXiv:2207.12598, with the negative prompt in place of the unconditional branch). It costs nothing. A
    negative prompt of the user's own stays: the concept is written behind it.

    Does not guarantee: anything where there is no guidance (scale 1 or less, distilled models), which is warned of or
    refused; nor that the concept is unknown to the model: it is guided away from, and a user of the weights can leave
    that out. Where the user hands in `negative_prompt_embeds`, whose text is not known, they are replaced.

    Attributes:
        text: The negative prompt.
    """

    method = "negative-prompt"

    def __init__(self, specs: ErasureSpec | Sequence[ErasureSpec], text: str) -> None:
        super().__init__(specs)
        self.text = text

    @classmethod
    def fit(cls, pipe: Any, spec: Concepts, *, text: str | None = None) -> NegativePromptErasure:
        """Nothing is learnt.

        Args:
            pipe: A pipeline with classifier-free guidance.
            spec: The concept, or several; synonyms are guided away from too.
            text: The negative prompt, if not all targets and synonyms with commas between them.

        Raises:
            InputError: If the pipeline has no negative prompt, or does not know the words.
        """
        specs, view = ErasureSpec.each(spec), PipelineView.of(pipe)
        _check(view)
        for each in specs:
            each.check(view)
        text = ", ".join(word for each in specs for word in each.concepts) if text is None else text
        view.check_prompts([text], allow_unknown=True)  # the words are known; commas need not be
        return cls(specs, text)

    def _install(self, view: PipelineView) -> Callable[[], None]:
        _check(view)

        def edit(embedding: PromptEmbedding) -> PromptEmbedding | None:
            if embedding.negative is None:
                self.count("prompts without guidance", len(embedding))
                warnings.warn(
                    f"{self!r} erases nothing in a call without guidance: pass a guidance_scale above 1",
                    NothingErasedWarning,
                    stacklevel=2,
                )
                return None
            own = embedding.negative.prompts or ("",) * len(embedding)
            texts = [f"{before}, {self.text}" if before.strip() else self.text for before in own]
            self.count("prompts", len(embedding))
            encoded = view.encode([""] * len(embedding), negative=texts, allow_unknown=True)
            return embedding.replace(negative=encoded.negative)

        return view.install_edit(edit)

    def config(self) -> dict[str, Any]:
        """The negative prompt."""
        return {"text": self.text}

    @classmethod
    def _restore(
        cls, specs: Sequence[ErasureSpec], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> NegativePromptErasure:
        return cls(specs, str(config["text"]))


def _check(view: PipelineView) -> None:
    if not view.guidance.negative:
        raise InputError(
            f"{type(view.pipe).__name__} has {view.guidance.mode} guidance and runs without a negative prompt, so that "
            "method='negative-prompt' would change nothing: choose a method that edits text or weights"
        )


register(
    Method(
        name=NegativePromptErasure.method,
        kind="diffusion",
        paper="arXiv:2207.12598",
        summary="the concept as negative prompt of classifier-free guidance",
        fitter=NegativePromptErasure,
        eraser=NegativePromptErasure,
        needs=("guidance",),
    )
)
