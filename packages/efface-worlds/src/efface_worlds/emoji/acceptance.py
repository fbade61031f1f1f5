"""Whether the text encoder is worth operating on: presence by row, neighbourhood, and edits that are told where to act.

Which row of a prompt tells of a concept depends on the encoder: all are read here, as they are and centred on E("").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.stats.roc import auroc
from efface_worlds.emoji.captions import article_of
from efface_worlds.emoji.concepts import CONCEPTS, concept, siblings, strangers
from efface_worlds.emoji.generation import STEPS, generate
from efface_worlds.emoji.text import LENGTH, embed_prompts, tokenize
from efface_worlds.emoji.world import prompts_for

Row = Literal["per-token", "mean", "first", "word", "end", "padding", "last"]
"""Which rows are compared with those of a concept's bare word. `"per-token"`: each with its own, then the mean of the
cosines. `"mean"`: the means of all. `"first"`, `"end"` ([SEP]), `"last"`: one row. `"padding"`: the mean of its rows.
`"word"`: each row of the word with the nearest of the prompt's, then the mean."""

Wording = Literal["name", "read", "unread"]
"""By its name, a synonym that captions of the training split use, or one that none uses."""

ROWS: tuple[Row, ...] = get_args(Row)
Control = Literal["words", "labels"]
"""What must leave half the area: every prompt says "thing" in place of its word, so that wordings alone are compared;
or which score is which prompt's is shuffled."""

_TEMPLATES, _SIBLINGS, _WORDS = 4, 4, 2


class Presence(NamedTuple):
    """AUROC of prompts with a concept over those without: of all others, and of its siblings alone."""

    others: float
    siblings: float


def examples(n: int, *, seed: int = 0) -> tuple[str, ...]:
    """Names of n things of as many subgroups as there are, which have siblings and synonyms of both kinds."""
    able = [c for c in CONCEPTS if c.synonyms and c.unread and len(siblings(c.name)) >= _SIBLINGS and not c.profession]
    order = torch.randperm(len(able), generator=torch.Generator().manual_seed(seed)).tolist()
    turns: dict[str, int] = {}
    ranked = []
    for i in order:
        turns[able[i].subgroup] = turns.get(able[i].subgroup, 0) + 1
        ranked.append((turns[able[i].subgroup], len(ranked), able[i].name))
    return tuple(name for _, _, name in sorted(ranked)[:n])


def said(name: str, word: str, n: int, *, seed: int = 0) -> list[str]:
    """N prompts for a concept in held-out templates, with a word of it in place of its name."""
    found: list[str] = []
    pattern = re.compile(rf"\b((?:an?|the) )?{re.escape(name)}\b")
    while len(found) < n:
        texts = prompts_for(name, 2 * n, seed=seed, templates="held_out").texts
        put = lambda match: f"{article_of(word)} {word}" if match[1] else word  # noqa: E731
        found += [text if word == name else pattern.sub(put, text) for text in texts if pattern.search(text)]
        seed += 1
    return found[:n]


class Reader:
    """Prompts, embedded once, and how much of a word is in each, by any of their rows.

    Args:
        text_encoder: MiniLM.
        tokenizer: Its tokenizer.
        prompts: The prompts.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, prompts: Sequence[str]) -> None:
        self.encoder, self.tokenizer = text_encoder, tokenizer
        self.at = {text: i for i, text in enumerate(dict.fromkeys(prompts))}
        self.rows, self.ends = self._embedded(list(self.at))
        empty, end = self._embedded([""])
        self.empty, self.empty_end = empty[0], int(end[0])
        self._words: dict[str, tuple[Tensor, Tensor]] = {}

    def _embedded(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        mask = tokenize(self.tokenizer, prompts).attention_mask
        return embed_prompts(self.encoder, self.tokenizer, prompts, batch=32), mask.sum(1) - 1

    def scores(self, word: str, row: Row, *, centred: bool) -> Tensor:
        """Cosine of every prompt's rows with those of E(word) - E(""), `(n,)`."""
        if word not in self._words:
            self._words[word] = self._embedded([word])
        named, end = self._words[word]
        towards = named[0] - self.empty
        x = self.rows - self.empty if centred else self.rows
        if row == "per-token":
            return F.cosine_similarity(x, towards[None], dim=-1).mean(1)
        if row == "word":
            own = F.normalize(towards[1 : int(end[0])], dim=-1)
            return (F.normalize(x, dim=-1) @ own.mT).amax(1).mean(1)
        start = self._of(self.empty[None], torch.tensor([self.empty_end]), row)
        rows = self._of(self.rows, self.ends, row)
        rows = rows - start if centred else rows
        return F.cosine_similarity(rows, self._of(named, end, row) - start, dim=-1)

    @staticmethod
    def _of(rows: Tensor, ends: Tensor, row: Row) -> Tensor:
        """One vector a prompt, `(n, width)`."""
        each = torch.arange(len(rows))
        if row == "padding":
            padding = (torch.arange(LENGTH)[None] > ends[:, None]).float()[..., None]
            return (rows * padding).sum(1) / padding.sum(1).clamp_min(1)
        if row == "mean":
            return rows.mean(1)
        return rows[each, {"first": 0 * ends, "end": ends, "last": 0 * ends + LENGTH - 1}[row]]


def presence(
    text_encoder: Any,
    tokenizer: Any,
    names: Sequence[str],
    *,
    n: int = _TEMPLATES,
    seed: int = 0,
    control: Control | None = None,
) -> dict[tuple[Row, bool], dict[str, dict[Wording, Presence]]]:
    """How well each row tells prompts with a concept from prompts without, in held-out templates.

    A concept's score is the highest of those of its name and of the synonyms that captions use, as an eraser would be
    told them. Prompts without it are those of the other names, and those of its siblings, which are put in its place in
    the very same wordings: anything else that differs between the sides would be read as presence.

    Args:
        text_encoder: MiniLM.
        tokenizer: Its tokenizer.
        names: Concepts.
        n: Prompts for a name, for each of two synonyms of either kind, and for each of four siblings.
        seed: Of the wordings.
        control: What to take away from the reading, to see whether anything else tells the two sides apart.

    Returns:
        (row, whether it is centred on E("")) -> name -> wording -> areas under the ROC curve.
    """
    put = "thing" if control == "words" else None
    told = {name: _worded(name, n, seed, put) for name in names}
    reader = Reader(text_encoder, tokenizer, [t for each in told.values() for texts in each.values() for t in texts])
    draw = torch.Generator().manual_seed(seed) if control == "labels" else None
    found: dict[tuple[Row, bool], dict[str, dict[Wording, Presence]]] = {}
    for row in ROWS:
        for centred in (False, True):
            areas = found[row, centred] = {}
            for name in names:
                scores = _read(reader, name, row, centred, draw)
                areas[name] = _areas(dict(zip(reader.at, scores, strict=True)), name, told)
    return found


def _worded(name: str, n: int, seed: int, put: str | None) -> dict[str, list[str]]:
    """Prompts for a concept in each kind of its words, and those for siblings, all in the same wordings."""
    of = concept(name)
    words = {"name": (name,), "read": of.synonyms[:_WORDS], "unread": of.unread[:_WORDS]}
    words["siblings"] = siblings(name)[:_SIBLINGS]
    return {key: [t for word in each for t in said(name, put or word, n, seed=seed)] for key, each in words.items()}


def _read(reader: Reader, name: str, row: Row, centred: bool, draw: torch.Generator | None) -> list[float]:
    """How much of a concept is in each prompt, by the best of its words; each prompt with another's score, if drawn."""
    words = (name, *concept(name).synonyms)
    scores = torch.stack([reader.scores(word, row, centred=centred) for word in words]).amax(0)
    return (scores if draw is None else scores[torch.randperm(len(scores), generator=draw)]).tolist()


def _areas(scores: dict[str, float], name: str, told: dict[str, dict[str, list[str]]]) -> dict[Wording, Presence]:
    def of(texts: Sequence[str]) -> Tensor:
        return torch.tensor([scores[text] for text in texts])

    near = of(told[name]["siblings"])
    others = of([t for other, each in told.items() if other != name for t in each["name"]])
    wordings = {key: of(told[name][key]) for key in get_args(Wording)}
    return {key: Presence(auroc(there, others), auroc(there, near)) for key, there in wordings.items()}


def nearness(
    text_encoder: Any, tokenizer: Any, names: Sequence[str], *, most: int | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Mean cosine of each concept's direction in the first row with those of its siblings, and of its strangers.

    Args:
        text_encoder: MiniLM.
        tokenizer: Its tokenizer.
        names: Concepts that have siblings.
        most: Of how many of either, drawn by seed; None compares with all.
        seed: Of the draw.
    """
    draw = torch.Generator().manual_seed(seed)

    def drawn(each: tuple[str, ...]) -> list[str]:
        return [each[i] for i in torch.randperm(len(each), generator=draw)[:most].tolist()]

    sides = {name: (drawn(siblings(name)), drawn(strangers(name))) for name in names}
    texts = list(dict.fromkeys(["", *names, *(o for both in sides.values() for side in both for o in side)]))
    first = embed_prompts(text_encoder, tokenizer, texts, batch=32)[:, 0]
    towards, at = F.normalize(first - first[0], dim=-1), {text: i for i, text in enumerate(texts)}

    def mean_cosine(name: str, others: Sequence[str]) -> float:
        return float((towards[[at[other] for other in others]] @ towards[at[name]]).mean())

    return {name: (mean_cosine(name, near), mean_cosine(name, far)) for name, (near, far) in sides.items()}


Edit = Callable[[list[str], Tensor], Tensor]
"""Prompts and their embeddings `(n, 32, 384)` -> the embeddings after an edit that acts on all of them."""


def subtracted(text_encoder: Any, tokenizer: Any, name: str) -> Edit:
    """E(prompt) - (E(concept) - E("")), row by row, as of the shapes; MiniLM's rows do not lie on those of the word."""
    named, empty = embed_prompts(text_encoder, tokenizer, [name, ""])
    return lambda _prompts, embedded: embedded - (named - empty)


def removal(
    pipeline: Any, judge: Any, name: str, edit: Edit, n: int, *, seed: int = 0, steps: int = STEPS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What an edit does to plain prompts for a concept, if it is told that all of them have it.

    Args:
        pipeline: The pipeline.
        judge: Who looks.
        name: The concept.
        edit: The edit.
        n: How many prompts.
        seed: Of prompts and images.
        steps: Denoising steps.

    Returns:
        Whether each picture agrees with its prompt, by factor, `(n,)` each, before and after, from the same noise. Of
        the object that is whether the concept is seen.
    """
    prompts = prompts_for(name, n, seed=seed)
    embedded = embed_prompts(pipeline.text_encoder, pipeline.tokenizer, prompts.texts)

    def judged(rows: Tensor) -> dict[str, Tensor]:
        verdict = judge.judge(generate(pipeline, rows, seed=seed, steps=steps))
        return verdict.agrees(prompts.scenes) | {"object": verdict.shows(name) == 1}

    return judged(embedded), judged(edit(prompts.texts, embedded))
