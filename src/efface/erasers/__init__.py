"""Erasers of vectors, one file a method; importing this room registers every method in it."""

import importlib
import pkgutil

from efface._registry import get_method, methods

__all__ = ["get_method", "methods"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
