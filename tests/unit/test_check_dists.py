"""The check of the distributions refuses each thing that it is there for; building them is left to `make dists`."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tools import check_dists
from tools.check_dists import Project, Wrong, check_sdist, check_wheel, main, newest, run

FILES = ("efface/__init__.py", "efface/py.typed", "efface/page.css", "efface/page.html.j2")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A small project named efface, of four files."""
    for name in FILES:
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "src" / "efface" / "__pycache__").mkdir()
    (tmp_path / "src" / "efface" / "__pycache__" / "x.pyc").touch()
    made = replace(check_dists.EFFACE, folder=tmp_path, sources=("src", "README.md"))
    monkeypatch.setattr(check_dists, "EFFACE", made)
    return made


def make_wheel(folder: Path, *names: str, size: int = 0) -> Path:
    path = folder / "efface-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, "efface-1.dist-info/METADATA"):
            archive.writestr(name, b"x" * size)
    return path


def make_sdist(folder: Path, *names: str) -> Path:
    path = folder / "efface-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*names, "PKG-INFO", ".gitignore"):
            archive.addfile(tarfile.TarInfo(f"efface-1/{name}"), io.BytesIO())
    return path


def test_a_wheel_in_order_passes(project: Project, tmp_path: Path) -> None:
    check_wheel(project, make_wheel(tmp_path, *FILES))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (FILES[1:], "lacks 1 files: efface/__init__.py"),
        ((*FILES, "tests/__init__.py"), "should not hold 1 files: tests/__init__.py"),
    ],
)
def test_a_wheel_holds_the_package_and_nothing_else(
    project: Project, tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    with pytest.raises(Wrong, match=says):
        check_wheel(project, make_wheel(tmp_path, *names))


def test_a_wheel_without_a_kind_of_file_that_the_package_lost(project: Project, tmp_path: Path) -> None:
    (tmp_path / "src/efface/py.typed").unlink()
    with pytest.raises(Wrong, match=r"holds no py\.typed"):
        check_wheel(project, make_wheel(tmp_path, *(name for name in FILES if "typed" not in name)))


def test_a_wheel_with_weights(project: Project, tmp_path: Path) -> None:
    (tmp_path / "src/efface/model.safetensors").touch()
    with pytest.raises(Wrong, match="holds weights"):
        check_wheel(project, make_wheel(tmp_path, *FILES, "efface/model.safetensors"))


def test_a_wheel_that_is_too_large(project: Project, tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=r"at most 1,500,000 are allowed"):
        check_wheel(project, make_wheel(tmp_path, *FILES, size=400_000))


def test_an_sdist(project: Project, tmp_path: Path) -> None:
    names = [*(f"src/{name}" for name in FILES), "README.md"]
    check_sdist(project, make_sdist(tmp_path, *names))
    with pytest.raises(Wrong, match=r"lacks 1 files: README\.md"):
        check_sdist(project, make_sdist(tmp_path, *names[:-1]))
    with pytest.raises(Wrong, match=r"should not hold 1 files: packages/weights"):
        check_sdist(project, make_sdist(tmp_path, *names, "packages/weights"))


def test_what_a_build_leaves(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    assert newest(tmp_path, "efface", ".whl") == wheel
    with pytest.raises(Wrong, match="found 0"):
        newest(tmp_path, "efface_worlds", ".whl")


def test_a_command_is_run_elsewhere_and_must_end_as_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    code = "import os; print(os.getcwd(), 'PYTHONPATH' in os.environ, os.environ['GIVEN'])"
    assert run([sys.executable, "-c", code], tmp_path, GIVEN="yes").split() == [str(tmp_path), "False", "yes"]
    with pytest.raises(Wrong, match=r"(?s)status 3, expected 0.*said"):
        run([sys.executable, "-c", "print('said'); raise SystemExit(3)"], tmp_path)


def test_what_is_wrong_is_printed_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(folder: Path) -> list[str]:
        raise Wrong(f"nothing in {folder.name}")

    monkeypatch.setattr(check_dists, "check", check)
    assert main(["here"]) == 1
    assert capsys.readouterr().out == "nothing in here\n"
