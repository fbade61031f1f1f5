"""Scrubbed and erased language models: which words do they still predict, that nobody asked to erase?

A word is remembered where the model, given what stands before, finds its token the likeliest; its score is `log p`, so
that a change of score is the loss that it gained, in nats, with the sign turned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_positive_int
from efface.audit.audit import Audit
from efface.audit.remembrance.language_models import (
    LanguageModel,
    check_same_tokens,
    is_name,
    is_texts,
    load_edit,
    load_language_model,
    longest,
    read_texts,
)
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.remembered import Outcome, remembered
from efface.audit.remembrance.systems import AFTER, BEFORE, PLACEBO
from efface.audit.remembrance.words import folded
from efface.audit.states.language import IGNORED, Texts, logits_of
from efface.core.doors import check_call

Floats = NDArray[np.float64]
_NONE = ("", str(IGNORED))
_ROUNDING = 1e-3


def remembered_by_tokens(
    model: nn.Module | str | os.PathLike[str],
    after: Any,
    data: Any,
    words: Any = None,
    *,
    target: Sequence[Any] = (),
    registry: Registry | None = None,
    placebos: Sequence[Any] = (),
    tokenizer: Any = None,
    length: int | None = None,
    fewest: int | None = None,
    outcome: Outcome = "score",
    batch_size: int = 16,
    title: str = "Which words are still predicted?",
    **options: Any,
) -> Audit:
    """An audit of remembrance of a language model, a query a sequence and an entity a word.

    Access: outputs. Tokens of one word in one sequence are one witness; sequences are taken to be independent.

    Args:
        model: A causal language model, without any of the erasures on it; or its name: a folder that `save_pretrained`
            of transformers wrote, or `"hub:OWNER/NAME"`, which alone may touch the network.
        after: An erasure, which is put on (`after.on(model)`, such as a scrubber), or another model of the same tokens;
            or the folder of either.
        data: Token ids `(n, length)`, or a mapping as tokenizers give it; or texts, whose words are read.
        words: With token ids what each token is of, `(n, length)`: a lemma, a name, a type; text, or whole numbers.
            Empty text and -100 are nobody's.
        target: Words that were to be erased.
        registry: What is known of the words; None takes the target, and how often each is there. Of texts only its
            words count, by any of their names of one word.
        placebos: Erasures that should not matter, such as `scrubber.random_control()`, or models, or folders of them.
        tokenizer: With texts, a fast one of transformers; None takes the one beside a model that is given by name.
        length: With texts, the tokens of each at most; None takes 128, or what the model can read if that is less.
        fewest: With texts and no registry, in how many of them a word has to be, to count; None takes 10.
        outcome: What is tested of each word: the loss of its tokens, or whether they are the likeliest.
        batch_size: Sequences in a forward pass.
        title: Title of the audit.
        **options: Of `efface.audit.remembered`; `resample` is `"queries"` where it is not given.

    Raises:
        InputError: If words have another shape than the tokens, a model gives no logits, or a name is of none.

    Does not guarantee: that sequences cut from one file are independent; give fewer of more files.
    """
    check_call(remembered_by_tokens, locals())
    base = load_language_model(model) if is_name(model) else LanguageModel(model, None, "the model")  # type: ignore[arg-type]
    if is_texts(data):
        if words is not None:
            raise InputError("words goes with token ids: of texts the words are read; leave it out")
        chosen = base.tokenizer if tokenizer is None else tokenizer
        if chosen is None:
            raise InputError(f"tokenizer is missing, and {base.name} has none beside it: give tokenizer=, or token ids")
        keep, most = [str(each) for each in target], longest(base.model)
        if length is not None and length > most:
            raise InputError(f"length is {length}, and {base.name} reads {most} tokens at most: write no more")
        data, words = read_texts(
            data, chosen, length=_or(length, min(128, most)), fewest=_or(fewest, 10), keep=keep, registry=registry
        )
        target = [folded(each) for each in keep]
    elif words is None or tokenizer is not None or length is not None or fewest is not None:
        said = "words is missing" if words is None else "tokenizer, length and fewest go with texts"
        raise InputError(f"{said}: give token ids with words, one for each, or a list of texts")
    texts = Texts.of(data, "data", check_positive_int(batch_size, "batch_size")).check(base.model, "data")
    names, place = _words(words, texts)
    systems = {BEFORE: None, AFTER: after, **{f"{PLACEBO} {i + 1}": each for i, each in enumerate(placebos)}}
    said = {arm: _said(base, system, texts, arm) for arm, system in systems.items()}
    who = registry
    if who is None:
        count = np.bincount(place[place >= 0], minlength=len(names))
        who = Registry.of(names, target=target, popularity=count)
    elif len(target):
        raise InputError("target goes without a registry: in one, a target is an entity of relation 'target'")
    return remembered(
        _ledger(names, place, said),
        registry=who,
        outcome=outcome,
        title=title,
        **{"resample": "queries", **options},
    )


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given


def _words(words: Any, texts: Texts) -> tuple[list[str], NDArray[np.int64]]:
    """Names, and which of them each predicted token is of, `(n, length - 1)`; -1 for nobody's."""
    found = words.detach().cpu().numpy() if isinstance(words, torch.Tensor) else np.asarray(words)
    if found.shape != tuple(texts.ids.shape):
        raise InputError(f"words has shape {found.shape}, expected {tuple(texts.ids.shape)}: one for each token")
    if found.dtype.kind not in "iuUT":
        raise InputError(f"words is of {found.dtype}, {shown(words)}: write text or whole numbers, one for each token")
    text = found[:, 1:].astype(str)
    names, place = np.unique(text, return_inverse=True)
    place = place.reshape(text.shape)
    nobody = np.isin(names, _NONE)
    number = np.where(nobody, -1, np.cumsum(~nobody) - 1)
    place = np.where(texts.predicted.numpy(), number[place], -1)
    if not (place >= 0).any():
        raise InputError("words has no word of a token that is predicted: write one for each token that is of one")
    return names[~nobody].tolist(), place


def _said(base: LanguageModel, system: Any, texts: Texts, arm: str) -> tuple[NDArray[np.bool_], Floats]:
    """Whether each token is the likeliest, and log p of it, `(n, length - 1)`."""
    if system is None:
        return _read(_causal(base.model, texts, arm), texts)
    if is_name(system):
        system = load_edit(system)
    if isinstance(system, LanguageModel):
        check_same_tokens(base, system)
        system = system.model
    if hasattr(system, "on"):
        with system.on(base.model):
            return _read(base.model, texts)
    if not isinstance(system, nn.Module):
        raise InputError(f"{arm} is {shown(system)}: give an erasure of the model, or another model")
    return _read(_causal(system, texts.check(system, "data"), arm), texts)


def _causal(model: nn.Module, texts: Texts, arm: str) -> nn.Module:
    """The model, if what it says of a token does not hang on those behind it.

    Raises:
        InputError: If it does: it has seen what it is to predict.
    """
    _, given = next(texts.batches(model))
    one = {name: column[:1] for name, column in given.items()}
    last = int(texts.there[0].nonzero()[-1]) if bool(texts.there[0].any()) else 0
    other = one["input_ids"].clone()
    other[0, last] = other[0, 0] if last and int(other[0, 0]) != int(other[0, last]) else 0
    with torch.no_grad():
        said, changed = (
            logits_of(model, {**one, "input_ids": ids})[0, :last].float() for ids in (one["input_ids"], other)
        )
    if last and float((said - changed).abs().max()) > _ROUNDING * float(said.abs().max()):
        raise InputError(
            f"what the model of {arm!r} says of a token changes with the tokens behind it: it is no causal "
            "language model, but one that fills in what is left out, such as BERT"
        )
    return model


def _read(model: nn.Module, texts: Texts) -> tuple[NDArray[np.bool_], Floats]:
    hits, scores = [], []
    with torch.no_grad():
        for _, given in texts.batches(model):
            logits, ids = logits_of(model, given)[:, :-1].float(), given["input_ids"][:, 1:]
            hits.append((logits.argmax(-1) == ids).cpu())
            scores.append(logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].double().cpu())
    score = torch.cat(scores).numpy()
    if not np.isfinite(score[texts.predicted.numpy()]).all():
        raise InputError("a model gives values that are not finite: it is broken, and nothing can be told of it")
    return torch.cat(hits).numpy(), score


def _ledger(names: list[str], place: NDArray[np.int64], said: Mapping[str, tuple[NDArray[np.bool_], Floats]]) -> Ledger:
    query, position = np.nonzero(place >= 0)
    n, arms = len(query), len(said)
    rows = {
        "entity": np.tile(place[query, position], arms),
        "query": np.tile(query, arms),
        "seed": np.tile(position, arms),
        "arm": np.repeat(np.arange(arms), n),
        "hit": np.concatenate([hit[query, position] for hit, _ in said.values()]),
        "score": np.concatenate([score[query, position] for _, score in said.values()]),
        "merit": np.ones(n * arms),
    }
    width = len(str(len(place)))
    return Ledger.of_codes(names, [f"{i:0{width}d}" for i in range(len(place))], list(said), rows)
