"""Temporary files of processes that were killed are swept by the next run, and no others ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efface import _io, _temporary


def started(code: str, argument: Path) -> subprocess.Popen[str]:
    """Another process, which waits."""
    command = [sys.executable, "-c", code, str(argument)]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


DEAD = 2**22 + 1  # Linux has no process of such a number
MINE = f".x-efface_{_temporary._host()}"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_temporary, "_swept", set())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_dead_process_left_is_swept_by_the_next_writing(tmp_path: Path) -> None:
    (tmp_path / f"{MINE}_{DEAD}_5_abc.npy").write_bytes(b"half")
    folder = tmp_path / f"{MINE}_{DEAD}_5_abd"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    _io.write_text(tmp_path / "a.txt", "")
    assert names(tmp_path) == ["a.txt"]


OTHERS = {
    "alive": f"{MINE}_{os.getpid()}_{_temporary._start(os.getpid())}_abc.npy",
    "of another host": f".x-efface_00000000_{DEAD}_5_abc.npy",
    "no mark": ".x-abc.npy",
    "the user's": f"x-efface_{_temporary._host()}_{DEAD}_5_abc.npy",
}


@pytest.mark.parametrize("name", OTHERS.values(), ids=OTHERS)
def test_other_files_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    _temporary.sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_a_number_that_another_process_has_now_does_not_count(tmp_path: Path) -> None:
    (tmp_path / f"{MINE}_{os.getpid()}_1_abc.npy").write_bytes(b"x")
    _temporary.sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_link_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("ten years of work")
    link = tmp_path / f"{MINE}_{DEAD}_5_abc"
    link.symlink_to(tmp_path / "precious")
    _temporary.sweep(tmp_path)
    assert names(tmp_path) == sorted([link.name, "precious"]) and names(tmp_path / "precious") == ["thesis.txt"]


def test_what_another_process_holds_stays_whatever_its_name_says(tmp_path: Path) -> None:
    """As where numbers of processes are those of another container."""
    held = tmp_path / f"{MINE}_{DEAD}_5_abc.npy"
    held.write_bytes(b"x")
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    with started(code, held) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        _temporary.sweep(tmp_path)
        assert names(tmp_path) == [held.name]
        other.kill()
    _temporary._swept.clear()
    _temporary.sweep(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a" * 240 + ".npy", "é" * 120 + ".npy", ".hidden", "a.b.c"])
def test_names_of_any_length_can_be_written(tmp_path: Path, name: str) -> None:
    _io.write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]


KILLED = """
import sys, pathlib, torch
from efface import _io
def stop(*args, **kwargs):
    print("in it", flush=True)
    input()
_io.{writer} = stop
_io.save_folder(sys.argv[1], {{"type": "X"}}, {{"a": torch.zeros(3)}})
"""


@pytest.mark.parametrize("writer", ["save_file", "write_json"])
def test_a_folder_that_was_being_saved_when_the_process_was_killed(tmp_path: Path, writer: str) -> None:
    with started(KILLED.format(writer=writer), tmp_path / "e") as other:
        assert other.stdout is not None and other.stdout.readline() == "in it\n"
        _temporary.sweep(tmp_path)
        (left,) = names(tmp_path)  # it lives
        other.kill()
    assert left.startswith(".e-efface_")
    _temporary._swept.clear()
    time.sleep(0.01)
    _io.write_text(tmp_path / "a.txt", "")
    assert names(tmp_path) == ["a.txt"]
