"""Files of the worlds, and what reads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.fuzz import files


def load_judge(folder: Path) -> Any:
    """A judge of the shapes world."""
    from efface_worlds.shapes import load_judge

    return load_judge(1, folder=folder)


def worlds(work: Path) -> list[files.Saved]:
    """What ships that is of our own format."""
    from efface_worlds.shapes.shipped import WEIGHTS

    shutil.copytree(WEIGHTS / "judge1", work / "judge1")
    return [files.Saved("shapes judge", work / "judge1", load_judge)]
