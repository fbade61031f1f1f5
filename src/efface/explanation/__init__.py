"""Explanations of an image classifier in one call: maps, what they are worth next to controls, and pictures.

`efface.explain` is `efface.explanation.explain`. Here the methods of `efface.attribution`, which know no audit, meet
the audit of `efface.audit.explanations`, which knows no method.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface.explanation.explaining import Explanation, explain
    from efface.explanation.mapping import METHODS, Maps
    from efface.explanation.pixels import PixelModel

_NAMES = {
    "efface.explanation.explaining": ("Explanation", "explain"),
    "efface.explanation.mapping": ("METHODS", "Maps"),
    "efface.explanation.pixels": ("PixelModel",),
}

__all__ = ["METHODS", "Explanation", "Maps", "PixelModel", "explain"]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
