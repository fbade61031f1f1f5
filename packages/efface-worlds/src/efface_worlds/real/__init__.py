"""Things that others made and that packages of registries ship: read from their files, never through their code.

`packages` says what there is, under which licence, and how to install it; `NOTICE` has the licences. Nothing of it
ships with efface-worlds, nothing is downloaded, nothing is unpickled.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.real.packages import PACKAGES, Package, data_file
    from efface_worlds.real.vectors import WordVectors, load_analogies, load_glove, load_similarities

_NAMES = {
    "efface_worlds.real.packages": ("PACKAGES", "Package", "data_file"),
    "efface_worlds.real.vectors": ("WordVectors", "load_analogies", "load_glove", "load_similarities"),
}

__all__ = [
    "PACKAGES",
    "Package",
    "WordVectors",
    "data_file",
    "load_analogies",
    "load_glove",
    "load_similarities",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
