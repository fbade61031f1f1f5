"""Finding what registers itself: methods and kinds of subjects, in efface's own rooms and in other packages.

A package of efface whose modules register something has a file `py.registers` beside its `__init__.py`: empty, all its
modules are imported; otherwise the modules that it names, one a line. Other distributions name modules in the
entry-point group `efface.methods`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import threading
import warnings
from pathlib import Path

from efface._errors import EffaceWarning

MARKER = "py.registers"
GROUP = "efface.methods"

_ROOT = Path(__file__).parents[1]
_LOCK = threading.RLock()
_done = False


def discover() -> None:
    """Import every module that registers something; at the second call nothing is left to do."""
    global _done
    with _LOCK:
        if _done:
            return
        _done = True  # before, as what is imported may ask
        try:
            for name in _own():
                importlib.import_module(name)
            for name in _foreign():
                _import_foreign(name)
        except BaseException:
            _done = False
            raise


def _import_foreign(name: str) -> None:
    """A module of another distribution; one that is broken takes nothing else along."""
    try:
        importlib.import_module(name)
    except Exception as error:
        warnings.warn(
            f"{name!r}, which an installed package names as an entry point {GROUP!r}, cannot be imported, so its "
            f"methods are missing ({type(error).__name__}: {error}): mend, upgrade or uninstall that package",
            EffaceWarning,
            stacklevel=3,
        )


def _own() -> list[str]:
    found = []
    for marker in sorted(_ROOT.rglob(MARKER)):
        folder = marker.parent
        package = ".".join((_ROOT.name, *folder.relative_to(_ROOT).parts))
        listed = marker.read_text(encoding="utf-8").split()
        names = listed or [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.ispkg]
        found += [f"{package}.{name}" for name in names]
    return found


def _foreign() -> list[str]:
    return [entry.value for entry in importlib.metadata.entry_points(group=GROUP)]
