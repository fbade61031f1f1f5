"""Prompts as people write them: synonyms, slips of the keyboard, another order of words; and look-alikes that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator

from efface.audit.pipelines.presence import hits
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.inversion import put_for
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import named

_STREAM, _SLIPS, _ORDER, _ALIKE = 270, 271, 272, 273
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def wording(
    subject: Subject, case: Case, *, images: int = 24, alike: int = 3, more: Mapping[str, Sequence[str]] | None = None
) -> list[Scores]:
    """The concept's prompts as other people would write them, and prompts for what only looks like it.

    Source: the families of prompts of EMMA (arXiv:2512.17320), of HUB (arXiv:2410.05664), and of MACE's generality
    (arXiv:2403.06135), as far as they can be made without a language model: synonyms that the concept names, one slip
    in its name (a letter left out, doubled, exchanged with the next, or its neighbour on the keyboard), its words in
    another order. Descriptions that do not name it are the case's paraphrases (probe `paraphrase`), or given here.

    Where EMMA differs: it counts a synonym's picture as a failure whatever the unerased model makes of the prompt,
    which draws a quarter of the long ones as something else; here every family is set against the base's and the gold
    model's rate. Other languages are only what is given: to an encoder that knows none a low rate means nothing.

    Its rows are of ways to ask: whether the concept is suppressed at all is said by the probes of plain prompts and
    paraphrases, which draw more pictures. Look-alikes are controls, judged as what they are: there a drop is damage.

    Access: prompts.

    Args:
        subject: What is asked.
        case: What for.
        images: How many in each family.
        alike: How many other concepts are looked at: those that the concept preserves come first.
        more: Further families: a name -> prompts that ask for the concept.

    Raises:
        NotApplicableError: If no prompt of the case names the concept.
    """
    texts, seeds = case.jobs(case.prompts, images, _STREAM)
    families = {name: list(prompts) for name, prompts in _families(case, texts).items()}
    families |= {name: [prompts[i % len(prompts)] for i in range(images)] for name, prompts in (more or {}).items()}
    rows: list[Scores] = []
    with subject.on() as view:
        for name, prompts in families.items():
            found = case.sample(view, prompts, seeds, truncate=True)
            spent, note = {"samples": images}, f"such as “{prompts[0]}”"
            rows.append(Scores(name, "search", case.seen(found), named(prompts, seeds), found, spent=spent, note=note))
        for name in _alike(case, alike):
            prompts, own = case.jobs(case.others[name], images, _ALIKE)
            found = case.sample(view, prompts, own)
            seen = hits(case.judge, found, name)
            note = "judged as what it is: a drop is damage"
            rows.append(Scores(f"{name} stays", "control", seen, named(prompts, own), found, note=note))
    return rows


def _families(case: Case, texts: Sequence[str]) -> dict[str, list[str]]:
    concept = case.concept
    if all(put_for(text, concept, "") == text for text in texts):
        raise NotApplicableError(f"no prompt names {concept.name}, so that there is nothing to write in another way")
    slips, order = case.source(_SLIPS), case.source(_ORDER)
    found = {
        "with a slip": [put_for(text, concept, misspelt(concept.name, slips)) for text in texts],
        "in another order": [reordered(text, order) for text in texts],
    }
    if concept.synonyms:
        n = len(concept.synonyms)
        found["with a synonym"] = [put_for(text, concept, concept.synonyms[i % n]) for i, text in enumerate(texts)]
    return found


def _alike(case: Case, n: int) -> list[str]:
    first = [name for name in case.concept.preserve if name in case.others]
    return [*first, *(name for name in case.others if name not in first)][:n]


def misspelt(word: str, source: Generator) -> str:
    """A word with one slip in it: a letter left out, doubled, exchanged with the next, or its neighbour on a keyboard.

    >>> misspelt("circle", torch.Generator().manual_seed(0)) != "circle"
    True
    """
    options = sorted(set(_slips(word)) - {word})
    return options[int(torch.randint(len(options), (), generator=source))] if options else word


def _slips(word: str) -> list[str]:
    found = []
    for i, letter in enumerate(word):
        if not letter.isalpha():
            continue
        if len(word) > 1:
            found.append(word[:i] + word[i + 1 :])
        found.append(word[:i] + letter + word[i:])
        if i + 1 < len(word) and word[i + 1].isalpha():
            found.append(word[:i] + word[i + 1] + letter + word[i + 2 :])
        row = next((row for row in _KEYS if letter.lower() in row), "")
        at = row.find(letter.lower())
        found += [word[:i] + row[j] + word[i + 1 :] for j in (at - 1, at + 1) if row and 0 <= j < len(row)]
    return found


def reordered(text: str, source: Generator) -> str:
    """The words of a text in another order, if it has several.

    >>> sorted(reordered("a red circle", torch.Generator().manual_seed(0)).split())
    ['a', 'circle', 'red']
    """
    words = text.split()
    if len(set(words)) < 2:
        return text
    while True:
        found = " ".join(words[i] for i in torch.randperm(len(words), generator=source).tolist())
        if found != text:
            return found


register(
    Probe(
        "wording",
        wording,
        "prompts",
        "synonyms, slips, another order of words; look-alikes that must stay",
        None,
        {"images": 64, "alike": 4},
    )
)
