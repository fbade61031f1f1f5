"""What is public: it costs little to import, is documented and typed, and its version is the distribution's."""

import importlib.metadata
import subprocess
import sys
from importlib import resources

import pytest

import efface
import efface_worlds

PACKAGES = ("efface", "efface_worlds")
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
        ("import efface_worlds, efface_worlds.shapes, efface_worlds.tokens, efface_worlds.attribution", "[]"),
        (
            "from efface_worlds import load_diabetes, load_token_model, load_shapes_pipeline",
            "['torch']",
        ),
    ],
)
def test_imports_bring_in_nothing_heavy(code, expected):
    assert loaded_after(code) == expected


@pytest.mark.parametrize(("package", "plain"), [(efface, {"ErasureMethod"}), (efface_worlds, set())], ids=PACKAGES)
def test_every_public_name_has_a_docstring(package, plain):
    for name in set(package.__all__) - plain:
        assert getattr(package, name).__doc__, name


@pytest.mark.parametrize(
    ("package", "distribution"), [(efface, "efface"), (efface_worlds, "efface-worlds")], ids=PACKAGES
)
def test_the_version_is_that_of_the_distribution_and_the_types_are_public(package, distribution):
    assert package.__version__ == importlib.metadata.version(distribution)
    assert resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "room", ["audit", "report", "attribution", "estimators", "scrubbing", "pipelines", "diffusion", "engines"]
)
def test_rooms_are_attributes_without_an_import_of_their_own(room):
    heavy = loaded_after(f"import efface\nassert efface.{room}.__name__ == 'efface.{room}'")
    assert heavy in ("[]", "['torch']") or (room, heavy) == ("estimators", "['torch', 'sklearn']")
    assert room in dir(efface)


def test_audits_are_functions_of_the_room():
    for name in ("rows", "sites", "losses", "pipeline", "gate", "maps", "presence", "detection", "similarity"):
        audit = getattr(efface.audit, name)
        assert callable(audit) and audit.__name__ == name and audit.__module__.startswith("efface.audit.")
    assert not callable(efface.audit)
