"""Probes look on while the verdict is open for want of items, and may."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from efface.audit.pipelines.probes.ran import Ran
from efface.audit.pipelines.probes.registry import Probe, Suite
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.verdict import Facts, decide


def settled(
    runner: Runner,
    chosen: Sequence[Probe],
    suite: Suite,
    facts: Facts,
    *,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> list[Ran]:
    """All probes on all models; those that leave the verdict open look further, until it is not, or they may not."""
    ran = runner(chosen, suite, say)
    while True:
        open_ = decide([row for one in ran for row in one.rows(seed=seed)], facts).wanting
        longer = {i: one for i, one in enumerate(ran) if one.probe.name in open_ and runner.may_look_on(one)}
        found = runner.further([*longer.values()], suite, say) if longer else []
        if not found:
            return ran
        for i, one in zip(longer, found, strict=True):
            ran[i] = one
