"""What the demo measures: worlds with known truth, an eraser, and an audit of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

import efface.audit
from efface.audit.audit import Audit
from efface.audit.vectors import Task
from efface.core.provenance import provenance
from efface.erasers.leace import LeaceEraser
from efface.report.data import is_warning
from efface_worlds.demo import Say
from efface_worlds.demo.emoji_pictures import emoji
from efface_worlds.demo.minilm_layers import layers
from efface_worlds.demo.token_world import tokens
from efface_worlds.sentences import embed, make_sentences
from efface_worlds.tables import load_diabetes

_CLAIMS = (
    "What is promised: LEACE makes the class means equal on the rows it was fitted on. There, no linear model can "
    "beat a constant guess in loss; that is a theorem (arXiv:2306.03819).",
    "What is not promised: on other rows this holds only about as well as those means were estimated. It says nothing "
    "about thresholded accuracy, nor about non-linear models.",
)


def demo_audit(names: Sequence[str], *, seed: int = 0, say: Say = lambda text: None) -> Audit:
    """One audit with a part for each of the named worlds.

    Args:
        names: Keys of `WORLDS`.
        seed: Seed of folds, probes and resampling.
        say: Told what is going on.
    """
    parts = tuple(WORLDS[name](seed, say) for name in names)
    return Audit(
        "What LEACE erases, and what it leaves",
        text=(
            "A concept (here sex, the gender of a pronoun, or the lexical type of a token) is taken out of vectors "
            "with LEACE, the smallest edit after which no linear model can use it. Then fresh models, called probes, "
            "try to read the concept from rows that neither they nor the eraser have seen. A task, or the loss of a "
            "language model, shows what else went. From a text-to-image pipeline a thing is taken that is drawn, by a "
            "method that edits prompts.",
            *_CLAIMS,
        ),
        conclusions=tuple(first for part in parts for first in _first(part)),
        settings={"seed": seed, "eraser": "LEACE", "worlds": list(names)},
        provenance=provenance(subject="the worlds of efface-worlds", seed=seed, call="efface_worlds.demo.demo_audit"),
        parts=parts,
    )


def _first(part: Audit) -> list[str]:
    """What sums a part up, if it is no warning: these go to the top of a page by themselves."""
    return [f"{part.title}: {said}" for said in part.conclusions[:1] if not is_warning(said)]


def tables(seed: int = 0, say: Say = lambda text: None) -> Audit:
    """Erase sex from the nine other features of the diabetes table."""
    world = load_diabetes()
    say(f"tables: {len(world.x)} patients, {world.x.shape[1]} features; fitting probes before and after")
    audit = efface.audit.rows(
        world.x,
        world.z,
        fit=fit_leace,
        task=Task(world.y, world.task),
        name=world.concept,
        classes=world.classes,
        title="Diabetes table: erase sex",
        seed=seed,
    )
    about = (
        f"442 patients; the {world.x.shape[1]} features are {', '.join(world.features)}. The column sex is not among "
        "them, but the others give it away. The task is to predict how the disease goes on.",
    )
    return replace(audit, text=about + audit.text)


def sentences(seed: int = 0, say: Say = lambda text: None) -> Audit:
    """Erase the pronoun's gender from MiniLM embeddings; whole occupations are held out."""
    world = make_sentences()
    say(f"sentences: embedding {len(world)} sentences with MiniLM")
    x = embed(world.text)
    say("sentences: fitting probes before and after, on occupations held out")
    job = [world.jobs[i] for i in world.job]
    audit = efface.audit.rows(
        x,
        world.gender,
        fit=fit_leace,
        groups=job,
        task=(
            Task(job, "occupation, new templates", groups=world.template),
            Task([world.fields[i] for i in world.field], "field of work, new occupations"),
        ),
        name="gender",
        classes=world.genders,
        title="Sentences: erase the gender of the pronoun",
        seed=seed,
    )
    about = (
        f"{len(world.jobs)} occupations in {world.template.max() + 1} templates, each once with “he” and once with "
        f"“she”, for example: “{world.text[0]}” The model all-MiniLM-L6-v2 turns each into {x.shape[1]} numbers. "
        "Eraser and probes never see the occupations they are scored on. The tasks: which of the "
        f"{len(world.jobs)} occupations is meant (templates held out), and which of {len(world.fields)} fields of work "
        "an occupation belongs to that was never seen.",
    )
    return replace(audit, text=about + audit.text)


def fit_leace(x: Tensor, z: Tensor) -> LeaceEraser:
    """What the audit calls in each fold, with its training rows."""
    return LeaceEraser.fit(x, z)


WORLDS: dict[str, Callable[[int, Say], Audit]] = {
    "tables": tables,
    "sentences": sentences,
    "tokens": tokens,
    "layers": layers,
    "emoji": emoji,
}
"""Name for `--only` -> the audit of that world."""
