"""What a user is told who has efface alone: the worlds are a distribution of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from efface.cli import main

WORLDS = "efface_worlds"
COMMANDS = {
    "demo": (["demo", "--only", "tables", "--out", "new"], "efface[demo]"),
    "erase": (["erase", "shapes", "--concept", "star", "--method", "uce", "-o", "new"], "efface[worlds]"),
    "explain": (["explain", "digits", "-o", "new.html"], "efface[worlds]"),
    "generate": (["generate", "shapes", "--prompt", "a star", "-o", "new.png"], "efface[worlds]"),
}


class _Refuses:
    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.split(".")[0] == WORLDS:
            raise ModuleNotFoundError(f"No module named {WORLDS!r}", name=WORLDS)


@pytest.fixture
def no_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if efface-worlds was not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == WORLDS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Refuses, *sys.meta_path])


@pytest.mark.usefixtures("no_worlds")
@pytest.mark.parametrize(("arguments", "extra"), COMMANDS.values(), ids=COMMANDS)
def test_what_needs_a_world_names_the_extra(
    arguments: list[str],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"needs the package 'efface_worlds': install it with  pip install '{extra}'" in said
    assert not list(tmp_path.iterdir())
