"""Every example runs from top to bottom, without an error and without a warning."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import sklearn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {str(path.relative_to(ROOT / "examples")): path for path in sorted((ROOT / "examples").rglob("*.py"))}
ALONE = {"02_transformers/lm_evaluation.py": "lm_eval changes loggers and variables of its process"}
"""Example -> why it has a process of its own. The others run in that of the tests, which has imported torch already."""


def test_there_are_examples() -> None:
    assert ALONE.keys() < EXAMPLES.keys()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ALONE])
def test_the_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # so that nothing is written into the repository
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES[name])])
    with warnings.catch_warnings(record=True) as caught, sklearn.config_context():
        warnings.simplefilter("default")
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    said = capfd.readouterr()
    assert not [str(one) for one in caught]
    check(said.out, said.err)


@pytest.mark.parametrize("name", ALONE)
def test_the_example_runs_by_itself(name: str, tmp_path: Path) -> None:
    places = os.pathsep.join(filter(None, sys.path))  # of this checkout, installed or not
    environment = {**os.environ, "PYTHONPATH": places, "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "default", str(EXAMPLES[name])]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout, done.stderr)


def check(out: str, err: str) -> None:
    assert "Warning" not in err, err
    assert out.strip(), "an example should print what it found"
