"""What is recorded in a file, and what differs from it: group by group, by how much, and whether that is meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.harness import Run, environment, real

PROSE = "/words"
"""End of the keys that hold prose, which is never pinned."""
KEEP_UP_TO = 128 * 1024
"""Bytes: larger tensors are hashed, but not kept."""


@dataclass(frozen=True)
class Recorded:
    """Digests of an earlier run.

    Attributes:
        digests: Key -> digest.
        pinned: Key -> digest after a change that was meant.
        environment: What the bits depend on, besides the code.
    """

    digests: Mapping[str, str]
    pinned: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Recorded:
        """From a file that `write` wrote."""
        found = json.loads(path.read_text())
        return cls(_flat(found["digests"]), _flat(found["pinned"]), found["environment"])

    def write(self, path: Path) -> None:
        """As JSON, the keys below their groups."""
        plain = {
            "environment": dict(self.environment),
            "digests": _nested(self.digests),
            "pinned": _nested(self.pinned),
        }
        path.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n")

    def elsewhere(self) -> list[str]:
        """What of the environment is another than today."""
        then, now = self.environment, environment()
        return [f"{name}: {then.get(name)} / {now[name]}" for name in now if then.get(name) != now[name]]


@dataclass(frozen=True)
class Difference:
    """Keys of a group, by what became of them; `meant` with the reason."""

    group: str
    equal: tuple[str, ...]
    meant: Mapping[str, str]
    unexplained: tuple[str, ...]
    missing: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def is_fault(self) -> bool:
        """Whether something differs that nobody meant."""
        return bool(self.unexplained or self.missing)


def compare(
    recorded: Recorded, digests: Mapping[str, str], meant: Mapping[str, str], groups: Iterable[str]
) -> list[Difference]:
    """What differs in the groups that were run.

    Args:
        recorded: The earlier run.
        digests: Key -> digest of today.
        meant: Pattern of keys -> why they differ. Where a digest is pinned, it must be that one.
        groups: The groups that were run.
    """
    return [_compare(name, recorded, digests, meant) for name in groups]


def _compare(group: str, recorded: Recorded, digests: Mapping[str, str], meant: Mapping[str, str]) -> Difference:
    old, new = (_of(group, found) for found in (recorded.digests, digests))
    changed = [key for key in old if old[key] != new.get(key)]
    reasons = {key: reason for key in changed if (reason := _reason(key, new, recorded, meant))}
    return Difference(
        group,
        equal=tuple(key for key in old if old[key] == new.get(key)),
        meant=reasons,
        unexplained=tuple(key for key in changed if key in new and key not in reasons),
        missing=tuple(key for key in changed if key not in new and key not in reasons),
        new=tuple(key for key in new if key not in old),
    )


def _reason(key: str, new: Mapping[str, str], recorded: Recorded, meant: Mapping[str, str]) -> str | None:
    if key in recorded.pinned and recorded.pinned[key] != new.get(key):
        return None
    return next((reason for pattern, reason in meant.items() if fnmatchcase(key, pattern)), None)


def pinned(digests: Mapping[str, str], differences: Iterable[Difference]) -> dict[str, str]:
    """The digests of today of what was meant to change, but for prose."""
    keys = [key for found in differences for key in found.meant if not key.endswith(PROSE)]
    return {key: digests[key] for key in keys if key in digests}


# ---------------------------------------------------------------------------------------------- by how much


def keep(run: Run, path: Path) -> None:
    """Write the smaller tensors of a run, to see later what differs."""
    from safetensors.torch import save_file

    kept = {key: real(x).clone() for key, x in run.tensors.items() if x.numel() * x.element_size() <= KEEP_UP_TO}
    save_file(kept, path)


def by_how_much(old: Tensor | None, new: Tensor | None) -> str:
    """The largest difference of two tensors, or where two texts part."""
    if old is None or new is None:
        return ""
    if old.dtype == new.dtype == torch.uint8 and old.ndim == new.ndim == 1:
        one, two = (bytes(x.numpy()).decode("utf-8", "replace") for x in (old, new))
        at = next((i for i, (p, q) in enumerate(zip(one, two, strict=False)) if p != q), min(len(one), len(two)))
        return f"...{one[max(0, at - 60) : at + 60]} / ...{two[max(0, at - 60) : at + 60]}"
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{old.dtype} {tuple(old.shape)} / {new.dtype} {tuple(new.shape)}"
    gap = (old.double() - new.double()).abs()
    most, largest = float(gap.max()), float(old.double().abs().max())
    return f"at most {most:.3g} in {int((gap > 0).sum())} of {gap.numel()}, largest value {largest:.3g}"


def _of(group: str, digests: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in digests.items() if key.partition("/")[0] == group}


def _nested(digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for key, value in sorted(digests.items()):
        group, _, name = key.partition("/")
        found.setdefault(group, {})[name] = value
    return found


def _flat(nested: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {f"{group}/{name}": value for group, names in nested.items() for name, value in names.items()}
