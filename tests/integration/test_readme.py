"""The Python blocks of the README run, top to bottom, as a reader would paste them."""

import re
from pathlib import Path

import sklearn

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
