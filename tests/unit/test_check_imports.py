"""The import checker finds each kind of breach, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.check_imports import check, main

REPOSITORY = Path(__file__).resolve().parents[2]


ROOMS = ("erasers", "estimators", "linalg", "cli", "audit", "report")


def _house(root: Path, files: dict[str, str]) -> Path:
    (root / "docs").mkdir(parents=True)
    rows = "\n".join(f"| `{room}/` | what | who |" for room in ROOMS)
    (root / "docs" / "architecture.md").write_text(f"| room | what |\n|---|---|\n| `_errors _lazy` | x |\n{rows}\n")
    for name, text in {"__init__.py": "", "_errors.py": "", **files}.items():
        path = root / "src" / "efface" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


ALLOWED = {
    "erasers/__init__.py": "from efface._errors import InputError\nimport torch, json\n",
    "linalg/__init__.py": "",
    "erasers/leace.py": "from efface import _errors, linalg\nfrom . import base\n",
    "erasers/base.py": "import numpy as np\n",
    "estimators/__init__.py": "x = {'A': 'efface.estimators.base'}\n",
    "estimators/base.py": "import sklearn.base\nfrom efface.erasers.base import E\n",
    "report/html.py": "def f():\n    import jinja2\n\n\njinja = require('jinja2', extra='r')\n",
    "audit/finding.py": "salt = {'svg.hashsalt': 'efface'}\n",
    "report/plain.py": "from efface.audit.finding import Finding\n",
    "cli/main.py": "def f():\n    from efface.erasers import leace\n",
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
    "report imports more than finding": (
        "report/x.py",
        "from efface.audit import vectors\n",
        1,
        "efface.audit",
    ),
    "cli imported": (
        "erasers/x.py",
        "def f():\n    import efface.cli.main\n",
        2,
        "erasers may not import efface.cli",
    ),
    "package facade": ("erasers/x.py", "from efface import LeaceEraser\n", 1, "imports efface itself"),
    "foreign package": ("erasers/x.py", "def f():\n    import sklearn\n", 2, "rooms that may: audit.vectors"),
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
}


def test_a_house_in_order_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _house(tmp_path, ALLOWED)
    assert check(root) == []
    assert main([str(root)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(("file", "text", "line", "message"), BREACHES.values(), ids=BREACHES)
def test_breaches_are_found_where_they_stand(tmp_path: Path, file: str, text: str, line: int, message: str) -> None:
    found = check(_house(tmp_path, {**ALLOWED, file: text}))
    here = [o for o in found if str(o).startswith(f"src/efface/{file}:{line}: ") and message in o.text]
    assert here, [str(o) for o in found]


def test_types_only_may_point_both_ways(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from efface.erasers.leace import L\n"
    assert check(_house(tmp_path, {**ALLOWED, "erasers/base.py": text})) == []


def test_offences_are_printed_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _house(tmp_path, {**ALLOWED, "linalg/a.py": "import requests\nimport sklearn\n"})
    assert main([str(root)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("src/efface/linalg/a.py:1: ") and second.startswith("src/efface/linalg/a.py:2: ")


def test_this_repository_is_in_order() -> None:
    assert [str(o) for o in check(REPOSITORY)] == []
