"""What is made from the registry of methods: docs/methods.md, and the index that the shell completes from.

    python tools/make_docs.py [--check]

With `--check` nothing is written: exit status 1 and a line for each file that is not as it would be written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import efface
from efface.cli.completion import INDEX, make_index
from efface.core.method import Method
from efface.core.subjects import KINDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
TITLES = {
    "rows": "Rows of arrays and tables",
    "model": "Hidden states of a model",
    "pipeline": "Text-to-image and video pipelines",
    "classifier": "Classifiers",
}


def files() -> dict[Path, str]:
    """Each file, and what it should hold."""
    return {PAGE: page(), INDEX: json.dumps(make_index(), indent=1, ensure_ascii=False) + "\n"}


def page() -> str:
    """The methods of each subject, then what each can be told."""
    return "\n".join(line for part in (_head(), *map(_subject, KINDS)) for line in part)


def _head() -> Iterator[str]:
    yield from (
        "# Methods",
        "",
        "Made by `python tools/make_docs.py` from the registry: change a method's own file, and run that.",
        "`efface.erase(subject, concept, method, **options)` takes each; in the shell `efface methods` lists them, and",
        "options are written as `--set name=value`.",
        "",
    )


def _subject(kind: str) -> Iterator[str]:
    methods = efface.methods(kind)
    yield from (f"## {TITLES[kind]}", "")
    yield from ("| method | what it does | paper | needs | guarantees |", "|---|---|---|---|---|")
    for m in methods:
        yield _row(f"`{m.name}`", m.summary, m.paper, _needs(m), m.guarantee)
    yield ""
    for method in methods:
        yield from _method(method)


def _needs(method: Method) -> str:
    return f"fit: {', '.join(method.access) or 'nothing'}; on: {', '.join(method.access_on) or 'nothing'}"


def _method(method: Method) -> Iterator[str]:
    yield from (f"### `{method.name}`", "")
    if method.no_guarantee:
        yield from (f"Does not guarantee: {method.no_guarantee}.", "")
    options = method.config.options()
    if not options:
        yield from ("No options.", "")
        return
    yield from ("| option | takes | default | |", "|---|---|---|---|")
    for option in options:
        yield _row(f"`{option.name}`", option.type, option.default_text or "must be given", option.help)
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def main(arguments: list[str]) -> int:
    """Write the files, or say which are stale."""
    stale = {path: text for path, text in files().items() if not path.is_file() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"{path} is stale: run  python tools/make_docs.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
