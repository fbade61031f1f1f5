"""The import checker finds each kind of breach, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import check_imports
from tools.check_imports import check, main, mended, read_packages

REPOSITORY = Path(__file__).resolve().parents[2]


ROOMS = ("erasers", "estimators", "linalg", "cli", "audit", "report", "tables", "shapes", "demo")
WORLDS = "packages/efface-worlds/src/efface_worlds"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Houses here have no offences that are let pass."""
    if request.function is not test_this_repository_is_in_order:
        monkeypatch.setattr(check_imports, "KNOWN", frozenset())


def _house(root: Path, files: dict[str, str]) -> Path:
    (root / "docs").mkdir(parents=True)
    rows = "\n".join(f"| `{room}/` | what | who |" for room in ROOMS)
    (root / "docs" / "architecture.md").write_text(f"| room | what |\n|---|---|\n| `_errors _lazy` | x |\n{rows}\n")
    for name, text in {"__init__.py": "", "_errors.py": "", **files}.items():
        path = root / _place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _place(file: str) -> str:
    """Files of efface are named from its folder, those of efface_worlds from theirs, after a colon."""
    worlds, _, inside = file.rpartition(":")
    return f"{WORLDS if worlds else 'src/efface'}/{inside}"


ALLOWED = {
    "erasers/__init__.py": "from efface._errors import InputError\nimport torch, json\n",
    "linalg/__init__.py": "",
    "erasers/leace.py": "from efface import _errors, linalg\nfrom . import base\n",
    "erasers/base.py": "import numpy as np\n",
    "estimators/__init__.py": "x = {'A': 'efface.estimators.base'}\n",
    "estimators/base.py": "import sklearn.base\nfrom efface.erasers.base import E\n",
    "report/html.py": "def f():\n    import jinja2\n\n\njinja = require('jinja2', extra='r')\n",
    "audit/finding.py": "salt = {'svg.hashsalt': 'efface'}\n",
    "report/plain.py": "from efface._errors import InputError\n",
    "audit/vectors.py": "x = {'efface.audit.finding': ('Finding',)}\ny = 'efface: error'\n",
    "cli/main.py": "def f():\n    from efface.erasers import leace\n    require('efface_worlds.demo.x', extra='w')\n",
    "cli/__init__.py": "def f(n):\n    import_module(f'efface.cli.{n}')\n\n\n'efface.cli.main, a docstring'\n",
    "report/__init__.py": "from efface.report.plain import x\n",
    "report/files.py": "x = resources.files('efface.report')\n",
    "worlds:__init__.py": "from efface._errors import E\nx = {'a': 'efface_worlds.shapes.draw'}\n",
    "worlds:shapes/__init__.py": "",
    "worlds:shapes/draw.py": "def f(n):\n    require(f'torchmetrics.image.{n}', extra='e')\n",
    "worlds:tables.py": "from efface._errors import E\nNAME = 'sklearn'\nx = require(NAME, extra='e')\n",
    "worlds:demo/x.py": "from efface.audit.finding import F\nfrom efface_worlds.tables import t\n",
    "audit/audit.py": "from efface.report.plain import x\n",
}

# file, text, line, what the message must contain
BREACHES = {
    "upward": (
        "linalg/psd.py",
        "from efface.erasers import base\n",
        1,
        "linalg may not import efface.erasers",
    ),
    "upward by name": (
        "linalg/psd.py",
        "import importlib\nimportlib.import_module('efface.erasers')\n",
        2,
        "linalg may",
    ),
    "upward for types": (
        "linalg/psd.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from efface.erasers import x\n",
        3,
        "under TYPE_CHECKING",
    ),
    "upward by relative import": ("linalg/psd.py", "from ..erasers import base\n", 1, "efface.erasers"),
    "upward by attach": ("linalg/psd.py", "x = {'a': 'efface.erasers.leace'}\n", 1, "by name"),
    "audit imports an eraser": (
        "audit/x.py",
        "def f():\n    import efface.erasers.leace\n",
        2,
        "in a function",
    ),
    "report imports an audit": (
        "report/x.py",
        "from efface.audit import vectors\n",
        1,
        "report may not import efface.audit",
    ),
    "cli imported": (
        "erasers/x.py",
        "def f():\n    import efface.cli.main\n",
        2,
        "erasers may not import efface.cli",
    ),
    "package facade": ("erasers/x.py", "from efface import LeaceEraser\n", 1, "imports efface itself"),
    "foreign package": (
        "erasers/x.py",
        "def f():\n    import sklearn\n",
        2,
        "rooms that may: audit.remembrance, audit.vectors",
    ),
    "unknown package": ("erasers/x.py", "import requests\n", 1, "rooms that may: none"),
    "not lazy": ("report/x.py", "import jinja2\n", 1, "lazily"),
    "not lazy in try": (
        "report/x.py",
        "try:\n    import jinja2\nexcept ImportError:\n    pass\n",
        2,
        "lazily",
    ),
    "not lazy in class": ("report/x.py", "class A:\n    import jinja2\n", 2, "lazily"),
    "eager in the facade": ("estimators/__init__.py", "import sklearn\n", 1, "lazily"),
    "unknown room": ("attic/x.py", "", 1, "'attic.x' is not in the import table"),
    "room not in the document": ("moments/x.py", "", 1, "no row in the table"),
    "hidden circle": (
        "erasers/base.py",
        "def f():\n    from efface.erasers.leace import L\n",
        2,
        "hidden in a function",
    ),
    "open circle": ("erasers/base.py", "from . import leace\n", 1, "circular import of efface.erasers.leace"),
    "circle for types": (
        "erasers/base.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from efface.erasers.leace import L\n",
        3,
        "circular import hidden under TYPE_CHECKING of efface.erasers.leace",
    ),
    "circle by name": ("erasers/base.py", "x = ['efface.erasers.leace']\n", 1, "circular import hidden by name of"),
    "upward by a string": (
        "audit/__init__.py",
        "make_callable(__name__, 'efface.cli.main:run')\n",
        1,
        "audit may not import efface.cli.main (by name)",
    ),
    "upward by a key": ("audit/x.py", "x = {\n    'efface.erasers.base': ('E',),\n}\n", 2, "(by name)"),
    "upward by a default": ("audit/x.py", "def f(x='efface.erasers.base'):\n    pass\n", 1, "(by name)"),
    "upward by a formatted string": (
        "linalg/x.py",
        "def f(n):\n    import_module(f'efface.erasers.{n}')\n",
        2,
        "linalg may not import efface.erasers (in a function)",
    ),
    "upward to an attribute": ("linalg/x.py", "x = 'efface.erasers.base.E'\n", 1, "import efface.erasers.base (by"),
    "the worlds by a string": ("erasers/x.py", "x = 'efface_worlds.tables'\n", 1, "may not import efface_worlds"),
    "the worlds at module level": ("cli/x.py", "from efface_worlds import tables\n", 1, "lazily"),
    "a world imports an eraser": (
        "worlds:tables.py",
        "from efface.erasers import base\n",
        1,
        "tables may not import efface.erasers.base",
    ),
    "a world imports the command line": (
        "worlds:demo/x.py",
        "from efface.cli.main import Say\n",
        1,
        "demo may not import efface.cli.main",
    ),
    "a world imports a room of the same name": (
        "worlds:demo/x.py",
        "from efface.shapes import x\n",
        1,
        "demo may not import efface.shapes",
    ),
    "a world imports another": (
        "worlds:shapes/draw.py",
        "from efface_worlds.tables import t\n",
        1,
        "shapes may not import efface_worlds.tables",
    ),
    "the facade of the worlds": ("worlds:demo/x.py", "import efface_worlds\n", 1, "imports efface_worlds itself"),
    "the facade of efface": ("worlds:demo/x.py", "import efface\n", 1, "imports efface itself"),
    "a foreign package in the worlds": (
        "worlds:tables.py",
        "def f():\n    import diffusers\n",
        2,
        "rooms that may: emoji, shapes",
    ),
    "a foreign package by a constant": (
        "worlds:shapes/draw.py",
        "NAME = 'sklearn'\nx = require(NAME, extra='e')\n",
        2,
        "may not import sklearn",
    ),
    "not lazy in the worlds": ("worlds:tables.py", "import sklearn\n", 1, "lazily"),
    "unknown room of the worlds": ("worlds:attic.py", "", 1, "'attic' is not in the import table"),
    "a circle in the worlds": (
        "worlds:tables.py",
        "def f():\n    from efface_worlds.demo import x\n",
        2,
        "circular import hidden in a function of efface_worlds.demo.x",
    ),
}


def test_a_house_in_order_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _house(tmp_path, ALLOWED)
    assert check(root) == []
    assert main([str(root)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(("file", "text", "line", "message"), BREACHES.values(), ids=BREACHES)
def test_breaches_are_found_where_they_stand(tmp_path: Path, file: str, text: str, line: int, message: str) -> None:
    found = check(_house(tmp_path, {**ALLOWED, file: text}))
    here = [o for o in found if str(o).startswith(f"{_place(file)}:{line}: ") and message in o.text]
    assert here, [str(o) for o in found]


def test_a_docstring_may_name_what_it_likes(tmp_path: Path) -> None:
    text = '"""efface.erasers.base"""\n\n\nclass A:\n    "efface.cli.main"\n\n    x = 1\n    "efface.cli"\n'
    assert check(_house(tmp_path, {**ALLOWED, "linalg/x.py": text})) == []


def test_offences_that_are_known_are_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from efface.erasers.leace import L\n"
    root = _house(tmp_path, {**ALLOWED, "erasers/base.py": text})
    assert {o.path.name for o in check(root)} == {"base.py", "leace.py"}
    monkeypatch.setattr(check_imports, "KNOWN", frozenset({("efface.erasers.base", "efface.erasers.leace")}))
    assert check(root) == []
    assert not mended(read_packages(root))
    monkeypatch.setattr(check_imports, "KNOWN", frozenset({("efface.erasers.base", "efface.linalg")}))
    assert mended(read_packages(root)) == [("efface.erasers.base", "efface.linalg")]


def test_efface_is_checked_without_the_worlds(tmp_path: Path) -> None:
    root = _house(tmp_path, {name: text for name, text in ALLOWED.items() if ":" not in name})
    assert not (root / WORLDS).exists()
    assert check(root) == []


def test_offences_are_printed_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _house(tmp_path, {**ALLOWED, "linalg/a.py": "import requests\nimport sklearn\n"})
    assert main([str(root)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("src/efface/linalg/a.py:1: ") and second.startswith("src/efface/linalg/a.py:2: ")


def test_this_repository_is_in_order() -> None:
    assert [str(o) for o in check(REPOSITORY)] == []
