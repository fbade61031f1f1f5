"""What importing costs, in modules: nothing heavy comes in before it is asked for."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "diffusers", "sklearn", "ray", "pandas", "pyarrow", "matplotlib", "jinja2")


def loaded_after(code):
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import efface", "[]"),
        ("from efface import LeaceEraser, QuadraticEraser, Moments, methods, ConceptScrubber", "['torch']"),
        ("import efface.cli", "[]"),
    ],
)
def test_imports_bring_in_nothing_heavy(code, expected):
    assert loaded_after(code) == expected


def test_every_public_name_has_a_docstring():
    import efface

    for name in set(efface.__all__) - {"ErasureMethod"}:
        assert getattr(efface, name).__doc__, name
