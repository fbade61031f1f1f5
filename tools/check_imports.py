"""Test of the import table of docs/architecture.md, by reading the syntax tree of every file in src/efface.

    python tools/check_imports.py [ROOT]

What is checked: that each room imports only the rooms below it; that each third-party package is imported
only in the room that owns it, and lazily where the table says so; that no two modules import each other, not
even by an import hidden in a function; that every room on disk is in the table here and in the document.
One line per offence (`file:line: what`) and exit status 1, or one line that all is well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

PACKAGE = "efface"
BASE = frozenset({"torch", "numpy", "safetensors"})  # the declared dependencies: any room, at any place
GROUND = ("_errors", "_lazy", "_registry", "_validate", "_io", "_memory", "_progress")


@dataclass(frozen=True)
class Room:
    """One row of the table: what a room may import.

    Attributes:
        efface: Rooms of efface; a dotted entry (`audit.finding`) allows that module only.
        lazy: Third-party packages allowed inside functions, under TYPE_CHECKING or by `require`.
        eager: Third-party packages allowed at module level too, but not in the room's `__init__`.
    """

    efface: tuple[str, ...] = GROUND
    lazy: frozenset[str] = frozenset()
    eager: frozenset[str] = frozenset()


_VECTORS = (*GROUND, "linalg", "moments")
_AUDIT = (*_VECTORS, "stats")
_TOOLS = frozenset(
    {"efface_worlds", "sklearn", "transformers", "diffusers", "pyarrow", "tqdm", "jinja2", "matplotlib", "PIL"}
)
_BELOW_CLI = (
    *(*_VECTORS, "erasers", "estimators", "scrubbing", "diffusion", "attribution", "streams", "audit", "explanation"),
    *("pipelines", "report", "stats"),
)
# The longest entry that matches a module decides: `audit.vectors` overrides `audit`.
TABLE: dict[str, Room] = {
    **{name: Room() for name in GROUND},
    "_progress": Room(lazy=frozenset({"tqdm"})),
    "__init__": Room((*_BELOW_CLI, "api")),
    "__main__": Room(("cli",)),
    "linalg": Room(),
    "moments": Room((*GROUND, "linalg")),
    "erasers": Room(_VECTORS),
    "estimators": Room((*_VECTORS, "erasers"), eager=frozenset({"sklearn"})),
    "scrubbing": Room((*_VECTORS, "erasers")),
    "streams": Room(lazy=frozenset({"pyarrow"})),
    "stats": Room(),
    "audit": Room(_AUDIT),
    # threadpoolctl comes with scikit-learn.
    "audit.vectors": Room(_AUDIT, lazy=frozenset({"sklearn", "threadpoolctl"})),
    "report": Room((*GROUND, "audit.finding", "audit.picture"), lazy=frozenset({"jinja2", "matplotlib"})),
    "attribution": Room((*GROUND, "stats")),
    "attribution.explainers": Room((*GROUND, "stats"), lazy=frozenset({"captum"})),
    "explanation": Room((*GROUND, "attribution", "audit", "stats")),
    "pipelines": Room(),
    "diffusion": Room((*_VECTORS, "erasers", "pipelines", "stats")),
    "api": Room(_BELOW_CLI),
    "cli": Room((*_BELOW_CLI, "api"), lazy=_TOOLS),
}


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
    """One source file: its path, dotted name and imports."""

    path: Path
    name: str
    imports: tuple[Import, ...]

    @property
    def inside(self) -> str:
        """Dotted name below the package, `__init__` for the package itself."""
        return self.name.removeprefix(PACKAGE).lstrip(".") or "__init__"


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

    def __init__(self, parent: str, known: frozenset[str]) -> None:
        self.parent = parent  # the package that relative imports start from
        self.known = known
        self.found: list[Import] = []
        self.when = When.EAGER

    def _under(self, when: When, nodes: Iterable[ast.AST]) -> None:
        before, self.when = self.when, when if self.when is When.EAGER else self.when
        for node in nodes:
            self.visit(node)
        self.when = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._under(When.DEFERRED, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        types = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
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
        if called in ("require", "import_module", "__import__") and node.args:
            match node.args[0]:
                case ast.Constant(value=str() as name):
                    when = When.DEFERRED if called == "require" else self.when
                    self.found.append(Import(name, node.lineno, when))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        # The table of public names that `_lazy.attach` imports on first use.
        for value in node.values:
            if isinstance(value, ast.Constant) and value.value in self.known - {PACKAGE}:
                self.found.append(Import(str(value.value), value.lineno, When.NAMED))
        self.generic_visit(node)


def read_package(root: Path) -> list[Module]:
    """Every module below `root/src/efface` with its imports."""
    package = root / "src" / PACKAGE
    names = {path: _dotted(path, package) for path in sorted(package.rglob("*.py"))}
    known = frozenset(names.values())
    return [_read(root, path, name, known) for path, name in names.items()]


def _dotted(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(root: Path, path: Path, name: str, known: frozenset[str]) -> Module:
    parent = name if path.stem == "__init__" else name.rpartition(".")[0]
    reader = _Reader(parent, known)
    reader.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return Module(path.relative_to(root), name, tuple(reader.found))


def _row(inside: str) -> str | None:
    """The longest entry of the table that covers a module, or None."""
    parts = inside.split(".")
    return next((row for n in range(len(parts), 0, -1) if (row := ".".join(parts[:n])) in TABLE), None)


def _covers(allowed: str, inside: str) -> bool:
    return inside == allowed or inside.startswith(f"{allowed}.")


def check_rooms(modules: Iterable[Module]) -> Iterator[Offence]:
    """Imports of efface that point sideways or upwards, and rooms that the table does not know."""
    for module in modules:
        row = _row(module.inside)
        if row is None:
            yield Offence(module.path, 1, f"room {module.inside!r} is not in the import table")
            continue
        home = module.inside.split(".")[0]
        for found in module.imports:
            if found.target.split(".")[0] == PACKAGE:
                text = _room_offence(found, row, (home, *TABLE[row].efface))
                yield from [Offence(module.path, found.line, text)] if text else []


def _room_offence(found: Import, row: str, allowed: tuple[str, ...]) -> str | None:
    inside = found.target.removeprefix(PACKAGE).lstrip(".")
    if not inside:
        return f"imports {PACKAGE} itself: import the module that defines the name"
    if any(_covers(a, inside) for a in allowed):
        return None
    return f"{row} may not import {found.target} ({found.when.value}); it may import {', '.join(allowed)}"


def check_packages(modules: Iterable[Module]) -> Iterator[Offence]:
    """Third-party imports in a room that does not own the package, or too early."""
    for module in modules:
        for found in module.imports:
            top = found.target.split(".")[0]
            if top != PACKAGE and top not in sys.stdlib_module_names | BASE:
                text = _package_offence(module, top, found.when)
                yield from [Offence(module.path, found.line, text)] if text else []


def _package_offence(module: Module, top: str, when: When) -> str | None:
    room = TABLE.get(_row(module.inside) or "", Room())
    if top not in room.lazy | room.eager:
        owners = sorted(name for name, other in TABLE.items() if top in other.lazy | other.eager)
        return f"{module.inside} may not import {top}; rooms that may: {', '.join(owners) or 'none'}"
    early = when is When.EAGER and (top not in room.eager or module.path.stem == "__init__")
    return f"{top} must be imported lazily here: in a function or by efface._lazy.require" if early else None


def check_cycles(modules: Iterable[Module]) -> Iterator[Offence]:
    """Imports that lead back to where they stand, hidden in a function or not; types only are exempt."""
    modules = list(modules)
    runs = (When.EAGER, When.DEFERRED)
    graph = {m.name: {i.target for i in m.imports if i.when in runs} for m in modules}
    for module in modules:
        for found in module.imports:
            if found.when in runs and module.name in _reachable(found.target, graph):
                hidden = "hidden in a function " if found.when is When.DEFERRED else ""
                yield Offence(module.path, found.line, f"circular import {hidden}of {found.target}")


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
    """All offences of the package below `root`, in order of file and line."""
    modules = read_package(root)
    return sorted(
        {
            *check_rooms(modules),
            *check_packages(modules),
            *check_cycles(modules),
            *check_document(root, modules),
        }
    )


def main(arguments: list[str]) -> int:
    """Check the repository given, or the one that this file stands in."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    offences = check(root)
    print("\n".join(map(str, offences)) or f"import table: {len(read_package(root))} files, all in order")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
