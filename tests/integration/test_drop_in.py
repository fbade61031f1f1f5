"""The README of concept_erasure runs with only the import line edited; its names are all here."""

import re
import textwrap
from importlib.metadata import metadata

import concept_erasure
import pytest

import efface


def readme_examples():
    text = str(metadata("concept-erasure").json["description"])
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    return list(dict.fromkeys(b for b in map(textwrap.dedent, blocks) if "concept_erasure" in b))


@pytest.mark.filterwarnings("ignore:.*failed to converge")
@pytest.mark.parametrize("code", readme_examples(), ids=["batch", "streaming"])
def test_readme_example(code):
    exec(compile(code.replace("from concept_erasure", "from efface"), "README", "exec"), {})


def test_public_names():
    for name in set(concept_erasure.__all__) - {"assert_type"}:
        assert getattr(efface, name) is getattr(efface.compat, name)
    for name in ("QuantileNormalizer", "cdf", "icdf"):
        assert getattr(efface, name) is getattr(efface.compat, name)
    assert set(efface.__all__) <= set(dir(efface))
    with pytest.raises(AttributeError, match="no attribute 'Leace'"):
        efface.Leace  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


@pytest.mark.parametrize("name", ["LeaceFitter", "OracleFitter", "QuadraticFitter"])
def test_constructor_arguments(name):
    import inspect

    theirs = inspect.signature(getattr(concept_erasure, name).__init__).parameters
    ours = inspect.signature(getattr(efface, name).__init__).parameters
    assert list(ours)[: len([p for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD])] == [
        p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert set(theirs) <= set(ours)
