"""Lazy imports: optional dependencies by extra, public names by PEP 562."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from efface._errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra which brings it.

    Args:
        module: Dotted name of the module to import.
        extra: The extra of efface that installs it.

    Raises:
        MissingExtraError: If the module is not installed.

    >>> require("json", extra="report").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f"this needs the package {error.name!r}: install it with  pip install 'efface[{extra}]'"
        ) from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No notices and progress bars of transformers within the block.

    Args:
        transformers: The library.
    """
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def attach(
    package: str, names: Mapping[str, str], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build a package's `__getattr__` and `__dir__` that import each public name when it is first used.

    Args:
        package: `__name__` of the package.
        names: Public name -> submodule that defines it, or that it is.
        namespace: `globals()` of the package; a name once imported is kept there.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(names[name])
        value = module if names[name] == f"{package}.{name}" else getattr(module, name)
        namespace[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*namespace, *names})

    return __getattr__, __dir__
