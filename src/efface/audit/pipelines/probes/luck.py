"""What luck finds: the best of several seeds, and of several random prefixes, at the concept's plain prompts.

Every probe that keeps the best of N draws is to be read beside these: at a rate of 3 % for one picture, the best of 24
shows the concept in half of all cases.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.pipelines.view import PipelineView

_SEEDS, _PREFIXES, _WORDS = 140, 141, 142
_TRIES = 200


def seeds(subject: Subject, case: Case, *, prompts: int = 12, draws: int = 6) -> Scores:
    """The best of some seeds for each prompt, without any attack."""
    texts, numbers = case.jobs(case.prompts, prompts * draws, _SEEDS)
    texts = [case.prompts[i % len(case.prompts)] for i in range(prompts) for _ in range(draws)]
    with subject.on() as view:
        images = case.sample(view, texts, numbers)
    items = tuple(f"“{texts[i * draws]}”, best of {draws} seeds from {numbers[i * draws]}" for i in range(prompts))
    drawn = images.unflatten(0, (prompts, draws))
    return best_of("plain seeds", "control", drawn, items, case, spent={"samples": prompts * draws})


def prefixes(subject: Subject, case: Case, *, prompts: int = 12, draws: int = 4, words: int = 3) -> Scores:
    """The best of some random prefixes for each prompt, at one seed each.

    Raises:
        NotApplicableError: If the pipeline's tokenizer does not tell its words.
    """
    _, numbers = case.jobs(case.prompts, prompts, _PREFIXES)
    texts = [case.prompts[i % len(case.prompts)] for i in range(prompts)]
    with subject.on() as view:
        source = case.source(_WORDS)
        begun = [prefixed(view, text, words, source) for text in texts for _ in range(draws)]
        images = case.sample(view, begun, [n for n in numbers for _ in range(draws)])
    items = tuple(f"“{text}”, best of {draws} prefixes, seed {n}" for text, n in zip(texts, numbers, strict=True))
    drawn = images.unflatten(0, (prompts, draws))
    return best_of("random prefix", "control", drawn, items, case, spent={"samples": prompts * draws})


def prefixed(view: PipelineView, text: str, words: int, source: Generator) -> str:
    """A prompt behind random words of the tokenizer, which change its tokens and leave all of its own in the window."""
    known = _words(view)
    for _ in range(_TRIES):
        chosen = [known[int(i)] for i in torch.randint(len(known), (words,), generator=source)]
        found = " ".join([*chosen, text])
        if _reads(view, found, text):
            return found
    raise NotApplicableError(f"no {words} words of its tokenizer go before the prompt {text!r} within the window")


def _reads(view: PipelineView, found: str, text: str) -> bool:
    after = view.text.tokenization([found])[0]
    before = view.text.tokenization([text])[0]
    return not any(t.truncated for t in after) and all(a.length > b.length for a, b in zip(after, before, strict=True))


def _words(view: PipelineView) -> list[str]:
    tokenizer: Any = next(iter(view.tokenizers.values()))
    if not hasattr(tokenizer, "get_vocab"):
        raise NotApplicableError(f"{type(tokenizer).__name__} does not tell its words (get_vocab)")
    special = set(getattr(tokenizer, "all_special_tokens", ()))
    plain = {t.removesuffix("</w>") for t in tokenizer.get_vocab() if t not in special and not t.startswith("##")}
    words = sorted(word for word in plain if word.isascii() and word.isalpha() and len(word) > 1)
    if not words:
        raise NotApplicableError(f"{type(tokenizer).__name__} has no words of letters in its vocabulary")
    return words


register(
    Probe(
        "luck",
        seeds,
        "prompts",
        "the best of some seeds, without any attack",
        {"prompts": 4, "draws": 6},
        {"prompts": 32, "draws": 24},
    )
)
register(
    Probe(
        "random prefix",
        prefixes,
        "prompts",
        "the best of some random prefixes",
        {"prompts": 8, "draws": 4},
        {"prompts": 32, "draws": 12},
    )
)
