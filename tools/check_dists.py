"""Build both distributions, look into them, and try the wheels where nothing else of the repository is.

    python tools/check_dists.py [FOLDER]

Each sdist is built, and its wheel from the sdist. What is checked: sizes; that a wheel holds every file of its
package and nothing else, and efface's no weights; that the sdist of efface holds all that its tests read. Then the
wheels are installed into fresh environments, first efface alone, and used from another folder; and tests are run
from the unpacked sdist. Dependencies are borrowed from the environment that this runs in, so nothing is downloaded.
Files are left in FOLDER, if one is named. Exit status 1 and one line where something is wrong.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1e6


@dataclass(frozen=True)
class Project:
    """A distribution, and what is expected of it.

    Attributes:
        folder: Where its pyproject.toml lies.
        package: The package that it installs.
        largest: Bytes that the wheel may have.
        data: Endings that files of the wheel must have, besides Python's.
        sources: Files and folders of the repository that its sdist must hold.
    """

    folder: Path
    package: str
    largest: float
    data: tuple[str, ...]
    sources: tuple[str, ...]


EFFACE = Project(
    ROOT,
    "efface",
    1.5 * MEGABYTE,
    ("py.typed", ".css", ".html.j2"),
    (
        *("src", "tests", "tools", "examples", "docs", "benchmarks", ".ci", "pyproject.toml", "README.md"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "SECURITY.md", "constraints.txt"),
    ),
)
WORLDS = Project(
    ROOT / "packages" / "efface-worlds",
    "efface_worlds",
    100 * MEGABYTE,  # what PyPI takes
    ("py.typed", "weights/judge1/model.safetensors", "gold/seed2/diffusion_pytorch_model.safetensors"),
    ("src", "pyproject.toml", "README.md", "LICENSE"),
)

ALONE = """
import importlib.metadata, importlib.resources, importlib.util
import efface
assert "site-packages" in efface.__file__, efface.__file__
assert efface.__version__ == importlib.metadata.version("efface")
assert importlib.resources.files("efface").joinpath("py.typed").is_file()
assert importlib.util.find_spec("efface_worlds") is None
assert "leace" in {method.name for method in efface.methods()}
from efface.audit import Audit
audit = Audit("a page with its template and style")
assert "<style" in audit.html() and "<style" in audit._repr_html_()
"""
TOGETHER = """
import importlib.metadata, importlib.resources
import efface_worlds
assert "site-packages" in efface_worlds.__file__, efface_worlds.__file__
assert efface_worlds.__version__ == importlib.metadata.version("efface-worlds")
assert importlib.resources.files("efface_worlds").joinpath("py.typed").is_file()
from efface_worlds.shapes import load_judge, shapes_variants
assert load_judge() and "seed2" in shapes_variants()
assert efface_worlds.load_token_model("llama").num_parameters() > 1e6
"""
FROM_SDIST = ("tests/unit/test_check_imports.py", "tests/unit/test_public_surface.py", "tests/unit/test_extras.py")


class Wrong(Exception):
    """A distribution is not as it should be."""


def build(project: Project, into: Path) -> tuple[Path, Path]:
    """The sdist of a project, and the wheel that is built from it."""
    # With the backend at hand, nothing is fetched; otherwise the version that the checks run with.
    isolation = [] if importlib.util.find_spec("hatchling") is None else ["--no-isolation"]
    command = [sys.executable, "-m", "build", *isolation, "--outdir", str(into), str(project.folder)]
    run(command, into, PIP_CONSTRAINT=str(ROOT / "constraints.txt"))
    sdist, wheel = (newest(into, project.package, ending) for ending in (".tar.gz", ".whl"))
    return sdist, wheel


def newest(folder: Path, package: str, ending: str) -> Path:
    """The file of a package that a build has left."""
    found = [path for path in folder.glob(f"{package}-*{ending}")]
    if len(found) != 1:
        raise Wrong(f"{folder} should hold one {package}-*{ending}, found {len(found)}")
    return found[0]


def run(command: Sequence[str], folder: Path, *, status: int = 0, **variables: str) -> str:
    """What a command prints, in a folder, without this checkout on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=folder, env={**kept, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != status:
        raise Wrong(f"{' '.join(command)[:200]}: status {done.returncode}, expected {status}\n{done.stdout[-4000:]}")
    return done.stdout


def files_of(folder: Path, names: Iterable[str]) -> set[str]:
    """Files of a folder below some names, without what Python compiles."""
    paths = (path for name in names for path in (folder / name, *(folder / name).rglob("*")))
    return {str(p.relative_to(folder)) for p in paths if p.is_file() and "__pycache__" not in p.parts}


def check_wheel(project: Project, wheel: Path) -> None:
    """Its size, and that it holds the package, the whole package, and no weights where they do not belong."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    if wheel.stat().st_size > project.largest:
        raise Wrong(f"{wheel.name} has {wheel.stat().st_size:,} bytes; at most {project.largest:,.0f} are allowed")
    same(wheel, held, files_of(project.folder / "src", [project.package]))
    for ending in project.data:
        if not any(name.endswith(ending) for name in held):
            raise Wrong(f"{wheel.name} holds no {ending}")
    if project is EFFACE and any(name.endswith(".safetensors") for name in held):
        raise Wrong(f"{wheel.name} holds weights; they belong into efface-worlds")


def check_sdist(project: Project, sdist: Path) -> None:
    """That it holds all that is needed, and nothing that is not."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    same(sdist, held - {"PKG-INFO", ".gitignore"}, files_of(project.folder, project.sources))


def same(archive: Path, held: set[str], expected: set[str]) -> None:
    """Raise if an archive lacks files, or has others."""
    for what, names in (("lacks", expected - held), ("should not hold", held - expected)):
        if names:
            raise Wrong(f"{archive.name} {what} {len(names)} files: {', '.join(sorted(names)[:5])}")


def install(wheels: Sequence[Path], into: Path) -> Path:
    """The interpreter of a fresh environment with these wheels; all else is borrowed from this one."""
    venv.create(into, symlinks=True)
    python = into / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, *map(str, wheels)], into)
    # After the install, or pip would find the editable projects of this environment. Python does not read the .pth
    # files of a folder that a .pth names, so these projects themselves cannot be imported there.
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    site = next(into.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python


def try_alone(python: Path, folder: Path) -> None:
    """Efface without the worlds: it works, and says what to install for the demo."""
    efface = str(python.with_name("efface"))
    run([str(python), "-c", ALONE], folder)
    if "explain" not in run([efface, "--help"], folder):
        raise Wrong("efface --help does not list its commands")
    if "efface[demo]" not in run([efface, "demo"], folder, status=2):
        raise Wrong("efface demo without efface-worlds does not say what to install")


def try_sdist(python: Path, sdist: Path, folder: Path) -> None:
    """Tests from the unpacked sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    run([str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *FROM_SDIST], unpacked)


def check(folder: Path) -> list[str]:
    """Build into `folder/dist` and check; one line for each file that was built.

    Raises:
        Wrong: If a distribution is not as it should be.
    """
    dist, elsewhere = folder / "dist", folder / "elsewhere"
    for made in (dist, elsewhere):
        made.mkdir(parents=True)
    built = {project.package: build(project, dist) for project in (EFFACE, WORLDS)}
    for project in (EFFACE, WORLDS):
        check_sdist(project, built[project.package][0])
        check_wheel(project, built[project.package][1])
    wheels = [wheel for _, wheel in built.values()]
    try_alone(install(wheels[:1], folder / "alone"), elsewhere)
    both = install(wheels, folder / "together")
    run([str(both), "-c", TOGETHER], elsewhere)
    try_sdist(both, built["efface"][0], folder)
    return [f"{path.name}: {path.stat().st_size / MEGABYTE:.2f} MB" for pair in built.values() for path in pair]


def main(arguments: list[str]) -> int:
    """Check in a folder that is named and kept, or in one that is not."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            lines = check(Path(arguments[0]).resolve() if arguments else Path(temporary))
        except Wrong as wrong:
            print(wrong)
            return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
