"""The Python blocks of the README run, top to bottom, as a reader would paste them; shell commands do what they say."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from PIL import Image

from efface.cli import main
from efface_worlds.shapes import load_judge

README = Path(__file__).parents[2] / "README.md"


def test_python_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    with sklearn.config_context():
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
            exec(compile(block, "README.md", "exec"), names)
    rank, kind, residual, edit = capsys.readouterr().out.splitlines()[0].split()
    assert (rank, kind) == ("2", "categorical")
    assert float(residual) < 1e-6 and 0 < float(edit) < 0.1
    assert names["same"].shape == (2000, 64)


def commands(begin: str) -> list[list[str]]:
    """The shell commands of the README that begin so, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(begin)]


def test_what_is_erased_is_not_drawn(tmp_path, monkeypatch):
    """Rows of a star and a cross: each as it is, and with the star erased."""
    monkeypatch.chdir(tmp_path)
    (command,) = commands("efface generate shapes")
    assert main([*command, "--seeds", "3", "--steps", "10"]) == 0
    sheet = torch.from_numpy(np.array(Image.open("grid.png"))).permute(2, 0, 1) / 255
    size, gap, line = 128, 4, 16
    tops = range(gap + line, sheet.shape[1] - size, size + gap + line)
    rows = [
        torch.stack(
            [sheet[:, top : top + size : 4, left : left + size : 4] for left in range(gap, 3 * size, size + gap)]
        )
        for top in tops
    ]
    judge = load_judge(2)
    star, erased, cross, kept = rows
    assert bool((judge(star, "star") == 1).all()) and bool((judge(erased, "star") == 0).all())
    assert bool((judge(cross, "cross") == 1).all()) and torch.equal(cross, kept)


def test_a_table_is_erased_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 600)
    people = pd.DataFrame({"income": 3e4 + 1e4 * rng.normal(size=600) + 6e3 * sex, "age": rng.normal(40, 9, 600)})
    people.assign(sex=np.array(["f", "m"])[sex]).to_csv("people.csv", index=False)
    for command in [
        *commands("efface fit"),
        *commands("efface apply"),
        *commands("efface audit people.csv"),
        *commands("efface methods"),
    ]:
        assert main(command) == 0
    for file, apart in (("people.csv", True), ("clean.csv", False)):
        people = pd.read_csv(file)
        women, men = (float(people.loc[people["sex"] == sex, "income"].mean()) for sex in ("f", "m"))
        assert (abs(women - men) > 1e3) == apart
    assert Path("report.html").stat().st_size > 10_000 and "least affine edit" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_erased_is_looked_for(tmp_path, monkeypatch):
    """The audit of the README, of its erasure, with one probe in place of the suite."""
    monkeypatch.chdir(tmp_path)
    (erase,), (audit,) = commands("efface erase shapes"), commands("efface audit shapes")
    words = ["square" if word == "select" else word for word in erase]  # no WordNet is needed for a word of one's own
    assert main(words) == 0
    assert main([*audit, "--probe", "direct prompt"]) == 0
    assert "Has star really gone?" in (tmp_path / "star.html").read_text()
