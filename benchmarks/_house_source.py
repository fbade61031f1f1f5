"""What can be counted in the source of a checkout by rules on its syntax alone; nothing is imported from it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("code", "docstrings", "comments", "blank")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: Its path below the package.
        text: What it says.
        tree: Its syntax.
        functions: All functions in it, methods and nested ones too.
    """

    path: Path
    text: str
    tree: ast.Module
    functions: tuple[Definition, ...]

    @property
    def room(self) -> str:
        """The package that it lies in, of the first level."""
        return f"{self.path.parts[0]}/" if len(self.path.parts) > 1 else "(top)"

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call by the last part of what is called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func).rpartition(".")[2], node

    def lines(self) -> Counter[str]:
        """How many lines are code, docstrings, comments and blank; a line of code with a comment is code.

        A docstring is any string that stands alone as a statement; blank lines inside it are part of it.
        """
        texts: set[int] = set()
        for node in ast.walk(self.tree):
            value = node.value if isinstance(node, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts |= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
        return Counter(self._kind(i, line, texts) for i, line in enumerate(self.text.splitlines(), 1))

    @staticmethod
    def _kind(number: int, line: str, texts: set[int]) -> str:
        if number in texts:
            return "docstrings"
        bare = line.strip()
        return "blank" if not bare else "comments" if bare.startswith("#") else "code"


def sources(package: Path, apart: str = "worlds") -> list[Source]:
    """The files of a package but for one room; none where there is no such package."""
    files = sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != apart)
    return [_read(path, package) for path in files]


def _read(path: Path, package: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = tuple(node for node in ast.walk(tree) if isinstance(node, Definition))
    return Source(path.relative_to(package), text, tree, functions)


def body_lines(function: Definition) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


# ------------------------------------------------------------------------------------------------ what there is of


def registries(source: Source) -> list[str]:
    """Functions at the head of a module that are named `register` or `register_...`."""
    return [n.name for n in source.tree.body if isinstance(n, Definition) and re.fullmatch("register(_.*)?", n.name)]


def tables(source: Source) -> list[str]:
    """Tables of things to call by name: module-level dicts that are empty, or hold only functions and classes."""
    found = []
    for node in source.tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            values = node.value.values
            if all(isinstance(value, (ast.Name, ast.Attribute, ast.Lambda)) for value in values):
                found.append(name)
    return found


def hooks(source: Source) -> list[str]:
    """Calls of `register_forward_hook`, `register_forward_pre_hook` and the like."""
    return [name for name, _ in source.calls() if re.fullmatch(r"register_\w*hook", name)]


def patches(source: Source) -> list[str]:
    """Places that write an attribute of something else than `self`.

    These are `vars(x)[name] = ...` (also where `vars(x)` has a name), `x.forward = ...`, and `setattr` but on `new`,
    a thing just made.
    """
    views = {n.targets[0].id for n in _assignments(source) if _is_vars(n.value) and isinstance(n.targets[0], ast.Name)}
    found = [name for name, call in source.calls() if name == "setattr" and _subject(call) not in {"self", "new"}]
    for target in (target for node in _assignments(source) for target in node.targets):
        if isinstance(target, ast.Subscript) and (_is_vars(target.value) or ast.unparse(target.value) in views):
            found.append("vars")
        elif isinstance(target, ast.Attribute) and target.attr == "forward" and ast.unparse(target.value) != "self":
            found.append("forward")
    return found


def _assignments(source: Source) -> Iterator[ast.Assign]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.Assign))


def _is_vars(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "vars"


def _subject(call: ast.Call) -> str:
    return ast.unparse(call.args[0]) if call.args else ""


def checkpoints(source: Source) -> list[str]:
    """Classes with "checkpoint" in their name, in files that do not import another file's `Checkpoint`."""
    nodes = list(ast.walk(source.tree))
    if any(name.name == "Checkpoint" for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names):
        return []
    return [node.name for node in nodes if isinstance(node, ast.ClassDef) and "Checkpoint" in node.name]


_LABELS = {"categorical", "continuous"}


def label_converters(source: Source) -> list[str]:
    """Calls of `one_hot` and `unique`, in files that name the kinds `"categorical"` and `"continuous"`."""
    words = {n.value for n in ast.walk(source.tree) if isinstance(n, ast.Constant)}
    looked = [name for name, _ in source.calls() if name in {"one_hot", "unique"}]
    return looked if words & _LABELS else []


def saved_classes(source: Source) -> list[str]:
    """Classes with a method that writes (`save`, `save_pretrained`) and one that reads (`load`, `from_pretrained`)."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            methods = {n.name for n in node.body if isinstance(n, Definition)}
            if methods & {"save", "save_pretrained"} and methods & {"load", "from_pretrained"}:
                found.append(node.name)
    return found


_CODEC = {"config", "tensors", "_restore", "to_dict", "from_dict", "to_plain", "from_plain", "_from_config", "_install"}


def codec_methods(source: Source) -> list[str]:
    """Methods by which a class writes or reads itself by hand (`config`, `tensors`, `_restore`, `to_dict`, ...)."""
    return [function.name for function in source.functions if function.name in _CODEC]


RULES: Mapping[str, Callable[[Source], list[str]]] = {
    "functions `register...`": registries,
    "tables of things to call": tables,
    "hooks: `register_...hook`": hooks,
    "attributes of others written": patches,
    "checkpoint formats": checkpoints,
    "labels to classes or columns": label_converters,
    "classes that save and load": saved_classes,
    "codec methods by hand": codec_methods,
}
