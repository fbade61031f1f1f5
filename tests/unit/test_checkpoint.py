"""One checkpoint for every fit: what is written together is read together; no name in the file is trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efface._errors import FormatError, InputError
from efface.core.checkpoint import Checkpoint, DamagedError

SETTINGS = {"rate": 0.1, "sites": ("a", "b")}


def part(text: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "text").write_text(text)

    return save


def broken(folder: Path) -> None:
    part("half")(folder)
    raise KeyboardInterrupt


def text_of(saved: Checkpoint, name: str) -> str:
    return (saved.path(name) / "text").read_text()


def written(folder: Path, **parts: str) -> Checkpoint:
    saved = Checkpoint(folder, SETTINGS)
    saved.write({"n": 1}, {name: part(text) for name, text in parts.items()})
    return saved


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_goes_on_with_what_was_written_last(tmp_path: Path) -> None:
    saved = written(tmp_path / "fit", a="first", b="kept")
    saved.write({"n": 2}, {"a": part("second")})
    again = Checkpoint(tmp_path / "fit", SETTINGS)
    assert again.found and set(again.parts) == {"a", "b"}
    with again.reading() as position:
        assert position == {"n": 2}
    assert (text_of(again, "a"), text_of(again, "b")) == ("second", "kept")
    assert len(names(tmp_path / "fit")) == 3
    again.write({"n": 3}, {"a": None})
    assert Checkpoint(tmp_path / "fit", SETTINGS).parts == ("b",)
    again.clear()
    assert not (tmp_path / "fit").exists() and not again.found


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    saved = Checkpoint(None, SETTINGS, seconds=0)
    assert not saved.due() and not saved.found
    saved.write({}, {"a": broken})
    saved.clear()


def test_it_is_due_after_some_time(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path, SETTINGS, seconds=0).due()
    assert not Checkpoint(tmp_path, SETTINGS, seconds=60).due()


def test_a_process_that_dies_while_it_writes_leaves_the_state_before(tmp_path: Path) -> None:
    saved = written(tmp_path / "fit", a="whole")
    with pytest.raises(KeyboardInterrupt):
        saved.write({"n": 2}, {"a": broken})
    again = Checkpoint(tmp_path / "fit", SETTINGS)
    assert text_of(again, "a") == "whole"
    again.write({"n": 2}, {"a": part("anew")})
    assert text_of(again, "a") == "anew" and len(names(tmp_path / "fit")) == 2
    again.clear()
    assert not (tmp_path / "fit").exists()


def test_a_process_that_dies_in_its_first_writing_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Checkpoint(tmp_path / "fit", SETTINGS).write({}, {"a": broken})
    again = Checkpoint(tmp_path / "fit", {"other": 1})
    assert not again.found
    again.clear()
    assert not (tmp_path / "fit").exists()


def test_what_was_in_the_folder_before_stays(tmp_path: Path) -> None:
    part("mine")(tmp_path / "state-1")
    (tmp_path / "notes.txt").write_text("mine")
    saved = written(tmp_path, a="x")
    saved.write({}, {"a": part("y")})
    part("mine")(tmp_path / "state-of-the-art")
    saved.clear()
    assert names(tmp_path) == ["notes.txt", "state-1", "state-of-the-art"]
    assert (tmp_path / "state-1" / "text").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "differ"),
    [({"rate": 0.2, "sites": ["a", "b"]}, "rate"), ({"rate": 0.1}, "sites"), ({**SETTINGS, "new": None}, "new")],
)
def test_another_fit_is_refused_and_told_what_differs(tmp_path: Path, settings: Any, differ: str) -> None:
    written(tmp_path, a="x")
    with pytest.raises(InputError, match=f"checkpoint of another recipe, it differs in {differ}: delete it, or stop"):
        Checkpoint(tmp_path, settings, what="recipe", elsewhere="stop")
    assert Checkpoint(tmp_path, json.loads(json.dumps(SETTINGS))).found


def edited(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "checkpoint.json").read_text()) | changes
    (folder / "checkpoint.json").write_text(json.dumps({k: v for k, v in data.items() if v is not ...}, default=str))


@pytest.mark.parametrize("name", ["{victim}", "../victim", "..", "", ".", "state-0", "state-01", "state-9", 1, None])
def test_a_name_that_is_no_folder_of_the_checkpoint_is_damage_and_deletes_nothing(tmp_path: Path, name: Any) -> None:
    part("ten years of work")(tmp_path / "victim")
    written(tmp_path / "fit", a="x")
    given = name.format(victim=tmp_path / "victim") if isinstance(name, str) else name
    edited(tmp_path / "fit", parts={"a": given})
    with pytest.raises(DamagedError, match="damaged"):
        Checkpoint(tmp_path / "fit", SETTINGS)
    assert (tmp_path / "victim" / "text").read_text() == "ten years of work"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"settings": {}}', '{"format_version": 1, "settings": 3}'])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(DamagedError, match="damaged .*: delete"):
        Checkpoint(tmp_path, SETTINGS)


def test_parts_and_positions_that_are_not_there_are_damage(tmp_path: Path) -> None:
    saved = written(tmp_path, a="x")
    for use in (lambda p: p["steps"], lambda p: saved.path("b"), lambda p: (saved.path("a") / "none").read_text()):
        with pytest.raises(DamagedError, match="damaged"), saved.reading() as position:
            use(position)
    with pytest.raises(ZeroDivisionError), saved.reading():
        raise ZeroDivisionError
    edited(tmp_path, position=["n"])
    with pytest.raises(DamagedError, match="damaged"):
        Checkpoint(tmp_path, SETTINGS)


def test_a_newer_format_says_to_upgrade(tmp_path: Path) -> None:
    written(tmp_path, a="x")
    edited(tmp_path, format_version=99)
    with pytest.raises(FormatError, match="has format 99.*upgrade"):
        Checkpoint(tmp_path, SETTINGS)


def test_a_link_in_the_place_of_a_part_is_removed_and_not_followed(tmp_path: Path) -> None:
    part("ten years of work")(tmp_path / "victim")
    saved = written(tmp_path / "fit", a="x")
    (tmp_path / "fit" / "state-2").symlink_to(tmp_path / "victim")
    saved.write({"n": 2}, {"a": part("y")})
    assert not (tmp_path / "fit" / "state-2").is_symlink() and text_of(saved, "a") == "y"
    assert (tmp_path / "victim" / "text").read_text() == "ten years of work"


@pytest.mark.parametrize("last", [2**70, -1, 1.5, "3", True])
def test_a_number_that_no_folder_has_is_damage(tmp_path: Path, last: Any) -> None:
    written(tmp_path, a="x")
    edited(tmp_path, last=last)
    with pytest.raises(DamagedError, match="damaged"):
        Checkpoint(tmp_path, SETTINGS)
