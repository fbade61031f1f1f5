"""Every example runs from top to bottom, without an error or a warning, and what it prints shows its effect."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import sklearn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {str(path.relative_to(ROOT / "examples")): path for path in sorted((ROOT / "examples").rglob("*.py"))}
ALONE = {"02_transformers/lm_evaluation.py": "lm_eval changes loggers and variables of its process"}
"""Example -> why it has a process of its own. The others run in that of the tests, which has imported torch already."""

LONG = {"02_transformers/real_language_model.py", "02_transformers/lm_evaluation.py", "03_images/emoji_grid.py"}
"""Examples that take from ten seconds to a minute."""
MARKS = dict.fromkeys(LONG, pytest.mark.slow)

SHOWN: dict[str, tuple[str, Callable[..., bool]]] = {
    "01_tables/gender_in_word_vectors.py": (
        r"probe: (\S+)% before, (\S+)% after[\s\S]*science, arts.* +(\S+) \(p.*-> +(\S+) [\s\S]*insects .*-> +(\S+) ",
        lambda before, after, was, now, flowers: before > after + 10 and was > 1 > now and flowers > 1,
    ),
    "01_tables/pipeline_with_routing.py": (
        r"logistic regression +(\S+) \+- \S+ +(\S+) \+-[\s\S]*larger group: (\S+)",
        lambda before, after, chance: before > chance + 0.1 and after < chance + 0.02,
    ),
    "02_transformers/gender_in_sentences.py": (
        r"of a pair, .* goes from (\S+) to (\S+): higher than before",
        lambda before, after: before < 0.95 and after > 0.98,
    ),
    "02_transformers/lm_evaluation.py": (
        r"plain +(\S+)[\s\S]*scrubbed +(\S+)[\s\S]*control +(\S+)",
        lambda plain, scrubbed, control: scrubbed < control - 0.1 and control > plain - 0.05,
    ),
    "02_transformers/nnsight_trace.py": (
        r"(\S+) plain, (\S+) scrubbed\n.*scrubber.on.*: (\S+)",
        lambda plain, scrubbed, difference: scrubbed > plain + 1 and difference < 1e-3,
    ),
    "02_transformers/real_language_model.py": (
        r"bits per byte: (\S+) as it is, (\S+) parts of speech erased, (\S+) random[\s\S]*hooks by (\S+) of",
        lambda before, after, control, difference: after > 2 * before > control and difference < 1e-4,
    ),
    "02_transformers/transformer_lens_hooks.py": (
        r"commonest: (\S+)\)[\s\S]*ln_final.hook_out +(\S+) +(\S+)",
        lambda commonest, before, after: before > 0.9 and after < commonest + 0.02,
    ),
    "03_images/erase_and_audit.py": (
        r"judge: circle +(\S+)%.*?\) +(\S+)%.*?\) [\s\S]*judge: star .*?\) +(\S+)%",
        lambda before, after, others: before == 100 and after == 0 and others == 100,
    ),
    "03_images/emoji_grid.py": (
        r"before: the judge sees (\S+) of (\S+)\nafter: the judge sees (\S+)",
        lambda before, every, after: before >= every - 1 and after <= 1,
    ),
    "04_explanations/what_a_model_listens_to.py": (
        r"qfa: the mask keeps (\S+)% of the patch, and (\S+)% of all",
        lambda patch, whole: patch > 2 * whole,
    ),
    "05_remembrance/takedown_in_an_index.py": (
        r"The target is named in (\S+)% .*?, (\S+)% before.\nThe \d+ others are named in (\S+)% [^\n]*?, (\S+)% before",
        lambda after, before, others, earlier: after == 0 and before > 60 and abs(others - earlier) < 2,
    ),
}
"""Example -> numbers in what it prints, and what is to be seen in them."""


def test_there_are_examples() -> None:
    assert ALONE.keys() < EXAMPLES.keys() == SHOWN.keys()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, ())) for name in EXAMPLES if name not in ALONE],
)
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
    check(name, said.out, said.err)


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ALONE])
def test_the_example_runs_by_itself(name: str, tmp_path: Path) -> None:
    places = os.pathsep.join(filter(None, sys.path))  # of this checkout, installed or not
    environment = {**os.environ, "PYTHONPATH": places, "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "default", str(EXAMPLES[name])]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    check(name, done.stdout, done.stderr)


def check(name: str, out: str, err: str) -> None:
    assert "Warning" not in err, err
    pattern, is_seen = SHOWN[name]
    found = re.search(pattern, out)
    assert found and is_seen(*(float(number.rstrip(",:")) for number in found.groups())), out
