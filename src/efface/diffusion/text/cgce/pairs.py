"""Pairs of prompts, one with a concept and one without: from the concept, the user, a file or a language model."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from efface._errors import InputError
from efface._text import shown
from efface.core.concept import Concept
from efface.diffusion.text.cgce.answers import read_answer
from efface.diffusion.text.cgce.config import CgceConfig
from efface.diffusion.text.contexts import check_others, others_of


class PromptPair(NamedTuple):
    """Two prompts that are alike, except that only one of them has the concept."""

    safe: str
    unsafe: str


Ask: TypeAlias = Callable[[str], str]
"""A language model: takes an instruction, gives its answer."""

Pairs: TypeAlias = Sequence[Any] | str | os.PathLike[str]
"""(safe, unsafe) tuples, mappings with these keys, or a `.json` or `.csv` file of them."""

INSTRUCTION = """Create {n} pairs of prompts for image generation. Each pair should contain
1. a prompt without {concept}
2. a version of it that is similar but contains {concept}
Vary subjects, settings, wording and length, and how {concept} is spoken of. Answer with a JSON list of {n} objects
with the keys "safe" and "unsafe", and nothing else."""
"""What a language model is asked: the instruction on the project page of arXiv:2511.05865, for any concept."""

_FRAMES = ("{} and *", "* and {}")


def pairs_of_concept(concept: Concept, *, contexts: bool = True, most: int = 400, seed: int = 0) -> list[PromptPair]:
    """Every template with a word of the concept, against the same template with `anchor` or a word of `preserve`.

    With `contexts` the templates are also filled with two words, "WORD and OTHER" or "OTHER and WORD", against two
    others: a concept is then to be found beside others, and others beside one another are to be left alone. No prompt
    without the concept is in two templates or contexts, so that pairs can be kept apart (see `groups`). Of more pairs
    than `most` some are drawn, those without context first.

    Raises:
        InputError: If the concept names no `anchor` and nothing to `preserve`.

    >>> [tuple(p) for p in pairs_of_concept(Concept("star", preserve=["ring"], templates=["a {}"]))]
    [('a ring', 'a star')]
    """
    check_others([concept], "tell {} from", "give pairs=[(safe, unsafe), ...]")
    others = others_of(concept)
    bare = [_pair(template, w, o) for template in concept.templates for w in concept.words for o in others]
    if not contexts or len(others) < 2:
        return _drawn(bare, most, seed)
    framed = [
        # "ring and box" is of the first frame or of the second, never of both.
        _pair(template.replace("{}", _FRAMES[(c + o) % 2].replace("*", other)), w, others[o])
        for template in concept.templates
        for c, other in enumerate(others)
        for o in range(len(others))
        if c != o
        for w in concept.words
    ]
    kept = _drawn(bare, most, seed)
    return kept + _drawn(framed, most - len(kept), seed)


def _pair(template: str, word: str, other: str) -> PromptPair:
    return PromptPair(template.replace("{}", other), template.replace("{}", word))


def _drawn(pairs: list[PromptPair], most: int, seed: int) -> list[PromptPair]:
    if len(pairs) <= most:
        return pairs
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[: max(most, 0)]
    return [pairs[i] for i in sorted(order.tolist())]


def as_pairs(given: Pairs) -> list[PromptPair]:
    """Pairs of a user's own, or of a `.json` file with a list of them or a `.csv` file with columns `safe`, `unsafe`.

    Raises:
        InputError: If there are none, one is no pair, or a prompt is safe in one pair and unsafe in another.
        FileNotFoundError: If there is no such file.

    >>> as_pairs([("a ring", "a star"), {"safe": "a box", "unsafe": "a star"}])[1].safe
    'a box'
    """
    items = _of_file(Path(given)) if isinstance(given, str | os.PathLike) else given
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        raise InputError(f"pairs must be a list of (safe, unsafe), not {type(items).__name__}")
    found = list(dict.fromkeys(_one(item, i) for i, item in enumerate(items)))
    if not found:
        raise InputError("there are no pairs: give at least ten (safe, unsafe)")
    safe = {pair.safe for pair in found}
    for pair in found:
        if pair.unsafe in safe:
            raise InputError(f"{pair.unsafe!r} is safe in one pair and unsafe in another: leave one out")
    return found


def _one(item: Any, i: int) -> PromptPair:
    if isinstance(item, Mapping):
        if not {"safe", "unsafe"} <= set(item):
            raise InputError(f"pair {i} has the keys {', '.join(map(repr, item))}: it needs 'safe' and 'unsafe'")
        item = (item["safe"], item["unsafe"])
    if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
        raise InputError(f"pair {i} is {shown(item)}: write (safe, unsafe)")
    for which, text in zip(("safe", "unsafe"), item, strict=True):
        if not isinstance(text, str):
            raise InputError(f"the {which} prompt of pair {i} is a {type(text).__name__}, not a string")
    pair = PromptPair(*(" ".join(text.split()) for text in item))
    if not pair.unsafe:
        raise InputError(f"the unsafe prompt of pair {i} is empty: write one with the concept")
    return pair


def _of_file(path: Path) -> Any:
    if path.suffix not in (".json", ".csv"):
        raise InputError(f"pairs={str(path)!r}: give a .json or .csv file, or a list of (safe, unsafe)")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is no JSON ({error}): write a list of [safe, unsafe]") from error
    rows = csv.DictReader(text.splitlines())
    if not {"safe", "unsafe"} <= set(rows.fieldnames or ()):
        raise InputError(f"{path} has the columns {rows.fieldnames}: its first line must name 'safe' and 'unsafe'")
    return [{key: row[key] or "" for key in ("safe", "unsafe")} for row in rows]


def ask_for_pairs(ask: Ask, concept: str, n: int = 200, *, at_once: int = 50, tries: int = 8) -> list[PromptPair]:
    """N pairs by a language model, asked `at_once` and again until there are enough; an answer may be cut off.

    Raises:
        InputError: If an answer is no text or holds no pairs, or fewer than half of the pairs came together.

    Does not guarantee: that the pairs are any good; look at them.
    """
    found: dict[PromptPair, None] = {}
    tries = max(tries, -(-n // at_once))
    for _ in range(tries):
        answer = ask(INSTRUCTION.format(n=min(at_once, n - len(found)), concept=concept))
        for pair in _answered(answer):
            safe, unsafe = {p.safe for p in found}, {p.unsafe for p in found}
            if pair.safe != pair.unsafe and pair.unsafe not in safe and pair.safe not in unsafe:
                found[pair] = None
        if len(found) >= n:
            break
    if len(found) < n / 2:
        raise InputError(f"the language model gave {len(found)} pairs in {tries} answers, {n} were asked for: ask less")
    return list(found)[:n]


def _answered(answer: Any) -> list[PromptPair]:
    if not isinstance(answer, str):
        raise InputError(f"the language model gave a {type(answer).__name__}, not text: wrap it so that it does")
    read = read_answer(answer)
    if not read:
        raise InputError(
            f"there are no pairs in the language model's answer {' '.join(answer.split())[:120]!r}: it was asked for a "
            "JSON list of objects with the keys 'safe' and 'unsafe'; use another model, or give pairs=[(safe, unsafe), "
            "...]"
        )
    return [_one(item, i) for i, item in enumerate(read)]


def choose_pairs(
    concept: Concept,
    pairs: Pairs | Mapping[str, Pairs] | None,
    ask: Ask | None,
    config: CgceConfig,
    *,
    several: bool,
) -> list[PromptPair]:
    """The pairs of one concept, of `several` or alone: given ones, those of a language model, or its own.

    Raises:
        InputError: If both are given, or the concept's pairs are not among those given.
    """
    if pairs is not None and ask is not None:
        raise InputError("pairs and ask are both given: leave one out, or join pairs with those of ask_for_pairs()")
    if ask is not None:
        return ask_for_pairs(ask, concept.name, config.n_pairs)
    if pairs is None:
        return pairs_of_concept(concept, contexts=config.contexts, most=config.n_pairs, seed=config.seed)
    if isinstance(pairs, Mapping):
        if concept.name not in pairs:
            raise InputError(f"pairs has none of {concept.name!r}: it has {', '.join(map(repr, pairs)) or 'none'}")
        return as_pairs(pairs[concept.name])
    if several:
        raise InputError(f"several concepts are erased: write pairs={{{concept.name!r}: [(safe, unsafe), ...], ...}}")
    return as_pairs(pairs)


def groups(pairs: Sequence[PromptPair]) -> list[list[int]]:
    """Indices of pairs that hang together by shared prompts; split between groups, no prompt is on both sides.

    >>> groups([PromptPair("a", "b"), PromptPair("c", "b"), PromptPair("d", "e")])
    [[0, 1], [2]]
    """
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[str, int] = {}
    for i, pair in enumerate(pairs):
        for text in pair:
            parent[root(i)] = root(first.setdefault(text, i))
    found: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        found.setdefault(root(i), []).append(i)
    return list(found.values())


def split(pairs: Sequence[PromptPair], shares: Sequence[float], generator: torch.Generator) -> list[list[int]]:
    """Indices of pairs in parts of about these shares, whole groups at a time; the rest comes last.

    Raises:
        InputError: If a part would be empty, because the pairs share too many prompts.
    """
    found = groups(pairs)
    order = [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]
    parts: list[list[int]] = []
    for share in shares:
        part: list[int] = []
        while order and len(part) < share * len(pairs):
            part += order.pop()
        parts.append(part)
    parts.append([i for group in order for i in group])
    if not all(parts):
        raise InputError(
            f"{len(pairs)} pairs fall into {len(found)} groups that share no prompt, too few to hold "
            "some out: give more templates, more words in preserve, or more pairs"
        )
    return parts
