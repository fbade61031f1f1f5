"""Files of the worlds, and what reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.fuzz import files


def _judge_of(world: str, work: Path) -> files.Saved:
    """A copy of the first judge of a world with a pipeline."""
    from efface_worlds.registry import find_world

    room = find_world(world, "pipeline")
    folder = work / world / "judge1"
    shutil.copytree(Path(room.of_room("__file__")).parent / "weights" / "judge1", folder)
    return files.Saved(f"{world} judge", folder, lambda path: room.of_room("load_judge")(1, folder=path))


def worlds(work: Path) -> list[files.Saved]:
    """What ships that is of our own format."""
    return [_judge_of(world, work) for world in ("shapes", "emoji")]
