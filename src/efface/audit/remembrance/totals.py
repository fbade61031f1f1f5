"""First pass over the rows: what is known of each entity and of each answer, from all panels together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.remembrance.attention import moved
from efface.audit.remembrance.effects import Changes, Evidence, changes, evidence, joined
from efface.audit.remembrance.panel import Panel, Rows
from efface.audit.remembrance.plan import Plan
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over all rows; columns are `(entities,)` or `(answers,)`.

    Attributes:
        answers: The answers, and all rows where there is one panel.
        found: Changes from before to after, and their tests.
        mentioned: Changes of mentions, whatever the outcome that is tested.
        again: The same from before to before again, if it was asked.
        asked: Relevant rows of each entity.
        merit: Sum of the merit of each.
        paired: Relevant rows that were answered before and after.
        missed: Those of them that did not hit after.
        refused: Relevant rows whose answer was refused or failed after, less those before.
        exposure: Arm -> exposure of each, in answers that all arms gave.
        weighted: Whether merit varies, or answers are missing, so that sums by merit are no counts.
        came: How many entities each answer has after and not before.
        dropped: Whether a target dropped out of each answer.
    """

    answers: Panel
    found: tuple[Changes, Evidence]
    mentioned: Changes
    again: tuple[Changes, Evidence] | None
    asked: Floats
    merit: Floats
    paired: Floats
    missed: Floats
    refused: Floats
    exposure: Mapping[str, Floats]
    weighted: bool
    came: Floats
    dropped: NDArray[np.bool_]


def totals(rows: Rows, registry: Registry, arms: Sequence[str], plan: Plan) -> Totals:
    """One pass over all panels.

    Raises:
        InputError: If arms are unbalanced, or an entity is not in the registry.
    """
    sums: dict[str, Any] = {}
    last, merits, missing = None, set(), False
    for panel in rows.panels(registry, arms):
        for name, part in _of_panel(panel, arms, plan).items():
            # One part at a time: what is kept of all of them is by entity and by answer, and never by row.
            sums[name] = _together(sums[name], part) if name in sums else part
        relevant = panel.relevant
        merits |= set(np.unique(panel.merit[relevant])[:2].tolist())
        missing |= bool((relevant & ~panel.fine(BEFORE, AFTER)).any())
        last = panel
    if last is None:
        raise InputError("there are no rows")
    return Totals(
        last if rows.parts == 1 else last.without_rows(),
        sums["found"],
        # Other outcomes need all rows at once, so that the last panel is all of them.
        sums["found"][0] if plan.outcome == "hit" else changes(last, BEFORE, AFTER),
        sums.get("again"),
        **{name: sums[name] for name in ("asked", "merit", "paired", "missed", "refused", "came")},
        exposure={arm: sums[f"exposure {arm}"] for arm in arms},
        weighted=len(merits) > 1 or missing,
        dropped=sums["dropped"] > 0,
    )


def tested(panel: Panel, first: str, second: str, plan: Plan) -> tuple[Changes, Evidence]:
    """Changes from one arm to another, and their tests."""
    found = changes(panel, first, second, outcome=plan.outcome)
    exact = plan.outcome == "hit"
    return found, evidence(found, panel.queries, flips=plan.draws, seed=plan.seed, exact=exact)


def _together(one: Any, other: Any) -> Any:
    return joined((one, other)) if isinstance(one, tuple) else one + other


def _of_panel(panel: Panel, arms: Sequence[str], plan: Plan) -> dict[str, Any]:
    relevant, fine = panel.relevant, panel.fine(BEFORE, AFTER)
    paired, everywhere = relevant & fine, panel.fine(*arms)
    refused = (~panel.fine(AFTER)).astype(np.float64) - ~panel.fine(BEFORE)
    gone, came = moved(panel, BEFORE, AFTER)
    answers = len(panel.asked)
    return {
        "found": tested(panel, BEFORE, AFTER, plan),
        **({"again": tested(panel, BEFORE, AGAIN, plan)} if AGAIN in arms else {}),
        "asked": panel.by_entity(relevant),
        "merit": panel.by_entity(panel.merit),
        "paired": panel.by_entity(paired),
        "missed": panel.by_entity(paired * (1 - panel.hit[AFTER])),
        "refused": panel.by_entity(relevant * refused),
        **{f"exposure {arm}": panel.by_entity(panel.exposure[arm] * everywhere) for arm in arms},
        "came": np.bincount(panel.answer, came, answers),
        "dropped": np.bincount(panel.answer, gone & panel.registry.targets[panel.entity], answers),
    }
