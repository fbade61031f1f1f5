"""Things that others made and that packages of registries ship: read from their files, never through their code.

`packages` says what there is, under which licence, and how to install it; `NOTICE` has the licences. None of it
ships with efface-worlds, but a small network that was trained on Fashion-MNIST and the text of `english`; nothing is
downloaded, and of pickles tensors alone are read.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.real.efficientnet import IMAGENET_SIDE, EfficientNetLite0, load_efficientnet
    from efface_worlds.real.english import DOMAINS, PARTS_OF_SPEECH, Document, Tagged, make_english, read_english
    from efface_worlds.real.fashion import GARMENTS, Garments, load_fashion
    from efface_worlds.real.imagenet import emoji_classes, imagenet_classes
    from efface_worlds.real.language import LanguageModel, load_smollm2
    from efface_worlds.real.packages import PACKAGES, Package, data_file
    from efface_worlds.real.pictures import PHOTOGRAPHS, emoji_pictures, photograph, read_picture
    from efface_worlds.real.resnet import SmallResNet, load_fashion_resnet
    from efface_worlds.real.tables import RealTable, load_arrests, load_mortgages
    from efface_worlds.real.vectors import WordVectors, load_analogies, load_glove, load_similarities

_NAMES = {
    "efface_worlds.real.efficientnet": ("IMAGENET_SIDE", "EfficientNetLite0", "load_efficientnet"),
    "efface_worlds.real.english": (
        "DOMAINS",
        "PARTS_OF_SPEECH",
        "Document",
        "Tagged",
        "make_english",
        "read_english",
    ),
    "efface_worlds.real.fashion": ("GARMENTS", "Garments", "load_fashion"),
    "efface_worlds.real.imagenet": ("emoji_classes", "imagenet_classes"),
    "efface_worlds.real.language": ("LanguageModel", "load_smollm2"),
    "efface_worlds.real.packages": ("PACKAGES", "Package", "data_file"),
    "efface_worlds.real.pictures": ("PHOTOGRAPHS", "emoji_pictures", "photograph", "read_picture"),
    "efface_worlds.real.resnet": ("SmallResNet", "load_fashion_resnet"),
    "efface_worlds.real.tables": ("RealTable", "load_arrests", "load_mortgages"),
    "efface_worlds.real.vectors": ("WordVectors", "load_analogies", "load_glove", "load_similarities"),
}

__all__ = [
    "DOMAINS",
    "Document",
    "EfficientNetLite0",
    "GARMENTS",
    "Garments",
    "IMAGENET_SIDE",
    "LanguageModel",
    "PACKAGES",
    "PARTS_OF_SPEECH",
    "PHOTOGRAPHS",
    "Package",
    "RealTable",
    "SmallResNet",
    "Tagged",
    "WordVectors",
    "data_file",
    "emoji_classes",
    "emoji_pictures",
    "imagenet_classes",
    "load_analogies",
    "load_arrests",
    "load_efficientnet",
    "load_fashion",
    "load_fashion_resnet",
    "load_glove",
    "load_mortgages",
    "load_similarities",
    "load_smollm2",
    "make_english",
    "photograph",
    "read_english",
    "read_picture",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
