"""What is made from the registry is as it was last made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import make_docs

import efface


def test_what_is_made_from_the_registry_is_not_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_docs.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_page_is_found_and_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "methods.md"
    monkeypatch.setattr(make_docs, "PAGE", page)
    assert make_docs.main(["--check"]) == 1 and not page.exists()
    assert "methods.md is stale: run  python tools/make_docs.py" in capsys.readouterr().out
    assert make_docs.main([]) == 0 and make_docs.main(["--check"]) == 0
    text = page.read_text()
    for method in efface.methods():
        assert method.summary in text and method.guarantee in text
        assert all(f"| `{option.name}` | " in text for option in method.config.options())
