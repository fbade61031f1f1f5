"""Take one module out of a search over Python's own documentation: who stands where it was, and who else moves?

The documents are the docstrings of thirty modules of the standard library, as they lie on this machine. Their first
sentences are held out as questions: a search should find the module that each was written for. Then `argparse` is
taken down, with all its documents. That it is gone is what was asked; who else is found less, or more, was not.

    python examples/05_remembrance/takedown_in_an_index.py
"""

# %% The documents, read from source without running it: everything below the first sentence of each docstring.
import ast
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import efface
from efface.audit.remembrance import Corpus, Ledger, Query, Registry, ask, takedown_table, takedowns

AREAS = {
    "command line": "argparse cmd getopt optparse shlex",
    "text": "configparser csv difflib html json string textwrap",
    "files": "glob pathlib shutil tarfile tempfile zipfile",
    "network": "ftplib imaplib ipaddress mailbox smtplib socketserver",
    "numbers": "calendar fractions heapq random statistics",
    "programs": "contextlib dis enum inspect logging subprocess threading",
}
AREA = {module: area for area, modules in AREAS.items() for module in modules.split()}
TAKEN, SIBLINGS = "argparse", ("getopt", "optparse")
LIBRARY = Path(sysconfig.get_path("stdlib"))


def sources(module: str) -> list[Path]:
    folder = LIBRARY / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [LIBRARY / f"{module}.py"]


def docstrings(module: str) -> Iterator[tuple[str, str]]:
    """Names with their docstrings."""
    for path in sources(module):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield node.name, text


texts: dict[str, str] = {}
queries: list[Query] = []
for module in sorted(AREA):
    for number, (name, text) in enumerate(docstrings(module)):
        first, _, rest = text.partition("\n\n")
        if len(rest.split()) < 10 or len(first.split()) < 4:
            continue
        texts[f"{module} {name} {number}"] = rest
        queries.append(Query(f"{module} {name} {number}", first, merit={module: 1.0}))
corpus = Corpus(texts, {document: [document.split()[0]] for document in texts})
size = Counter(document.split()[0] for document in texts)
print(f"{len(texts)} documents of {len(size)} modules, {len(queries)} questions")


# %% Who there is: what was to be taken down, what does the same job, and how present each is.
def relation(module: str) -> str:
    return "target" if module == TAKEN else "sibling" if module in SIBLINGS else "unrelated"


registry = Registry.of(
    sorted(size),
    popularity=[size[module] for module in sorted(size)],
    relation=[relation(module) for module in sorted(size)],
    groups={"area": [AREA[module] for module in sorted(size)]},
)

# %% The same questions before and after, and the audit.
rest = corpus.without(entities=[TAKEN])
answers = ask(corpus.system(depth=5), rest.system(depth=5), queries)
ledger = Ledger.of_answers(answers, queries, registry)
audit = efface.audit.remembered(ledger, registry=registry, draws=300)
for line in audit.conclusions:
    print(line)

# %% Its heirs, next to those of others: each taken down alone.
found = takedowns(corpus, queries, entities=[TAKEN, "tarfile"], depth=5)
for row in takedown_table(found).rows:
    print(row[0], "->", row[-1])
