"""The groups, in order. A module a room; each function computes what is compared, and shares nothing with another."""

from __future__ import annotations

from benchmarks.identity.groups import attribution, audits, guidance, scrubbing, tables, text_erasers, vectors, worlds
from benchmarks.identity.harness import Group

GROUPS: dict[str, Group] = {
    **vectors.GROUPS,
    **tables.GROUPS,
    **scrubbing.GROUPS,
    **worlds.GROUPS,
    **text_erasers.GROUPS,
    **guidance.GROUPS,
    **attribution.GROUPS,
    **audits.GROUPS,
}
