"""A command that is killed leaves no output that looks whole, and what it leaves the next run sweeps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROWS, WIDTH = 30_000, 64


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    z = np.arange(ROWS) % 3
    x = rng.standard_normal((ROWS, WIDTH)) + z[:, None]
    np.save(folder / "x.npy", x)
    np.savez_compressed(folder / "x.npz", X=np.asfortranarray(x))
    np.save(folder / "z.npy", z)
    run(folder, "fit", "x.npy", "--concept", "z.npy", "-o", "eraser")
    return folder


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    # What is temporary beside nothing of the user's lies in the system's folder for such: here, one of its own.
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "efface", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **quiet)  # type: ignore[call-overload]


def run(folder: Path, *arguments: str) -> None:
    with started(folder, *arguments) as process:
        assert process.wait() == 0


def marks(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "-efface_" in path.name]


def killed(folder: Path, *arguments: str, when: Callable[[], bool]) -> None:
    """Run a command, and kill it as soon as it has something temporary."""
    with started(folder, *arguments) as process:
        end = time.monotonic() + 120
        while not when():
            assert process.poll() is None and time.monotonic() < end, "it was over before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "suffix"), [("x.npy", "npy"), ("x.npy", "safetensors"), ("x.npy", "csv"), ("x.npz:X", "npz")]
)
def test_apply(work: Path, source: str, suffix: str) -> None:
    out = f"out-{source[2:5]}.{suffix}"
    command = ("apply", source, "--eraser", "eraser", "-o", out, "--chunk-rows", "50")
    killed(work, *command, when=lambda: bool(marks(work)))
    assert marks(work) and not (work / out).exists()
    run(work, *command[:-2])
    assert (work / out).exists() and not marks(work)


@pytest.mark.slow
def test_fit(work: Path) -> None:
    """Killed between its first and its last byte, it leaves nothing half-written that could be taken for whole."""
    import efface

    for delay in (0.0, 0.005, 0.02):
        with started(work, "fit", "x.npy", "--concept", "z.npy", "-o", "again", "--force") as process:
            end = time.monotonic() + 120
            while not marks(work) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.0005)
            time.sleep(delay)
            process.kill()
        if (work / "again").exists():
            efface.load(work / "again")
    run(work, "fit", "x.npy", "--concept", "z.npy", "-o", "again", "--force")
    efface.load(work / "again")
    assert not marks(work)
