"""An emoji erased from the text-to-image pipeline that draws it: pictures before and after, at equal seeds."""

from __future__ import annotations

from dataclasses import replace

import efface.audit
from efface.audit.audit import Audit
from efface.core.concept import Concept
from efface.core.method import erase
from efface_worlds.demo import Say
from efface_worlds.registry import find_world

CONCEPT, STAYS, METHOD = "cat", "dog", "semantic-surgery"
PROMPTS = (
    "a {} on a blue background",
    "a {} in noto style on a white background",
    "a {} in black and white on a pink background",
)


def emoji(seed: int, say: Say, *, seeds: int = 2, steps: int | None = None) -> Audit:
    """Erase the cat, and see what the pipeline draws for prompts with it, and for the same prompts with a dog."""
    world = find_world("emoji", "pipeline")
    pipe, near = world.load_pipeline(), world.preserve(CONCEPT)
    say(f"emoji: fitting {METHOD} on {CONCEPT}, told from {len(near)} siblings")
    erasure = erase(pipe, Concept(CONCEPT, preserve=near), method=METHOD)
    say(f"emoji: drawing {4 * len(PROMPTS) * seeds} pictures")
    audit = efface.audit.pipeline(
        pipe,
        Concept(CONCEPT, templates=PROMPTS),
        judge=world.load_judge(2),
        erasure=erasure,
        others=[STAYS],
        seeds=range(seed, seed + seeds),
        batch_size=len(PROMPTS) * seeds,
        title=f"Emoji: erase the {CONCEPT} from what a pipeline draws",
        **world.sampling | ({} if steps is None else {"steps": steps}),
    )
    about = (
        "A small Stable Diffusion pipeline was trained on emoji of four designers with captions of Unicode's names, "
        f"which MiniLM reads. Where a prompt has a {CONCEPT} in it, {METHOD} takes out of the embedded prompt what the "
        "word has that its nearest sibling has not. Each picture is drawn before and after from the same noise, and a "
        "classifier that was trained apart says what it sees.",
    )
    return replace(audit, text=about + audit.text)
