"""Every public callable with odd arguments: each call ends in a value, or in an error of ours.

python -m tests.fuzz.calls [NAME ...] [--seconds 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, cast

import torch

import efface
from efface import audit, estimators
from tests.fuzz import odd
from tests.fuzz.outcome import Tally, quiet

ROOMS = (
    *("attribution", "audit", "compat", "diffusion", "estimators", "explanation", "moments", "pipelines", "report"),
    *("scrubbing", "stats", "streams"),
)

Arguments = tuple[list[Any], dict[str, Any], str]


@dataclass(frozen=True)
class Door:
    """A public callable.

    Attributes:
        name: What it is called.
        call: Itself, or what makes it, of which it is a method.
        method: Its name, if it is one of an instance.
    """

    name: str
    call: Callable[..., Any]
    method: str = ""


# --------------------------------------------------------------------------------------------------- what is public


def public(room: ModuleType) -> Iterator[tuple[str, Any]]:
    """Names that a room gives away itself; what lies in its modules alone is its own affair."""
    for name in getattr(room, "__all__", dir(room)):
        value = getattr(room, name)
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("efface"):
            yield name, value


@cache
def doors() -> tuple[Door, ...]:
    """Every public function and class, once, and the methods of classes of which `instances` has a good one.

    What edits are called with, and what readers of older files are, comes from efface itself.
    """
    found: dict[Any, Door] = {}
    for room in (efface, *(importlib.import_module(f"efface.{name}") for name in ROOMS)):
        for name, value in public(room):
            if inspect.isfunction(value):
                found.setdefault(value, Door(f"{value.__module__}.{name}", value))
            elif inspect.isclass(value) and not _is_skipped(value):
                found.setdefault(value, Door(f"{value.__module__}.{name}", value))
                for method in _methods(value) if value.__name__ in instances() else ():
                    found.setdefault((value, method), Door(f"{value.__module__}.{name}.{method}", value, method))
    return tuple(found.values())


def _is_skipped(value: type) -> bool:
    """Errors, protocols, what a fit alone makes, and the base of methods' own classes."""
    made = issubclass(value, efface.Erasure) and value.__name__ not in instances()
    return issubclass(value, BaseException) or bool(getattr(value, "_is_protocol", False)) or made


def _methods(value: type) -> list[str]:
    names = {name for cls in value.__mro__ if cls.__module__.startswith("efface") for name in vars(cls)}
    called = [name for name in names if not name.startswith(("_", "set_")) and callable(getattr(value, name, None))]
    called = [name for name in called if name not in ("upgraded", "check", "update_tensors", "check_state")]
    return sorted([*called, *(name for name in ("__call__", "__add__", "__and__", "__eq__") if name in names)])


# ------------------------------------------------------------------------------------------------------- instances


@cache
def instances() -> dict[str, Callable[[], Any]]:
    """How to make a good instance of a class, for its methods."""
    x, z = odd.RIGHT["x (6, 4)"](random.Random()), odd.RIGHT["z (6,)"](random.Random())
    fitters = ("LeaceFitter", "OrthogonalFitter", "MeanDifferenceFitter", "OracleFitter", "QuadraticFitter")
    made: dict[str, Callable[[], Any]] = {name: partial(getattr(efface, name).fit, x, z) for name in fitters}
    erasers = {
        "LeaceEraser": lambda: efface.LeaceEraser.fit(x, z),
        "OracleEraser": lambda: efface.OracleEraser.fit(x, z),
        "QuadraticEraser": lambda: efface.QuadraticEraser.fit(x, z),
        "QuadraticEditor": lambda: efface.QuadraticFitter.fit(x, z).editor(),
        "EraserModule": lambda: efface.LeaceEraser.fit(x, z).to_module(),
        "Moments": lambda: efface.Moments(4, 3).update(x, torch.nn.functional.one_hot(z, 3)),
        "ClassMoments": lambda: efface.ClassMoments(4, 3).update(x, z),
        "QuantileNormalizer": lambda: efface.QuantileNormalizer(x, z, num_bins=4),
        "GroupedTensor": lambda: efface.groupby(x, z),
        "Concept": lambda: efface.Concept("circle"),
        "Site": lambda: efface.Site("net.0"),
        "Audit": lambda: audit.Audit("title", findings=(audit.Finding("accuracy", 0.5),)),
        "Finding": lambda: audit.Finding("accuracy", 0.5, low=0.4, high=0.6),
        **{
            name: partial(getattr(estimators, name)(concept="y").fit, x, z)
            for name in ("LeaceTransformer", "OrthogonalTransformer", "OracleTransformer", "QuadraticTransformer")
        },
    }
    return made | erasers


def instance(cls: type) -> Any:
    """A good instance."""
    with quiet():
        return instances()[cls.__name__]()


# ----------------------------------------------------------------------------------------------------------- calls


def _arguments(call: Callable[..., Any], rng: random.Random) -> Arguments:
    """Positional and named arguments of a call that has enough of them, and how they are written."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    args, kwargs, said = [], {}, []
    for parameter in parameters:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name == "self" or (not needed and rng.random() < 0.7):
            if parameter.kind is not parameter.KEYWORD_ONLY and not needed:
                break
            continue
        name, value = _chosen(parameter, rng)
        if parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = value
            said.append(f"{parameter.name}=<{name}>")
        else:
            args.append(value)
            said.append(f"<{name}>")
    return args, kwargs, ", ".join(said)


_OFTEN = {"x": "x (6, 4)", "z": "z (6,)", "x_dim": "4", "z_dim": "4", "num_classes": "4", "key": "z (6,)"}


def _chosen(parameter: inspect.Parameter, rng: random.Random) -> tuple[str, Any]:
    """What often fits, half of the time, so that calls come further than their first check."""
    if parameter.name in _OFTEN and rng.random() < 0.5:
        name = _OFTEN[parameter.name]
        return name, odd.RIGHT[name](rng)
    return odd.value(rng)


def call_once(door: Door, rng: random.Random, tally: Tally) -> None:
    """One call of a door with odd arguments."""
    target = door.call
    if door.method:
        static = inspect.getattr_static(door.call, door.method)
        owner = door.call if isinstance(static, classmethod | staticmethod) else instance(cast(type, door.call))
        target = getattr(owner, door.method)
    with quiet():  # torch warns of what it is about to give up
        args, kwargs, said = _arguments(target, rng)
    what = f"{door.name}({said})"
    tally.take(what, lambda: target(*args, **kwargs), ours=_is_right)


def _is_right(error: Exception) -> bool:
    """Whether an error that is not ours is right all the same."""
    return _is_callers(error) or _is_signature(error) or _is_convention(error)


def _is_convention(error: Exception) -> bool:
    """What scikit-learn says of its arguments, or what it reads them with, is what its users know."""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    last = max((i for i, name in enumerate(names) if "/efface/" in name), default=len(names))
    return any("/sklearn/" in name for name in names[last:])


def _is_callers(error: Exception) -> bool:
    """The caller's own function failed, and nobody else has to say so."""
    return any(sign in str(error) for sign in ("the caller's own", "forward() takes", "len() takes exactly"))


def _is_signature(error: Exception) -> bool:
    """A wrong number of arguments, or an unknown name of one: Python's own words for it are right."""
    text = str(error)
    signs = ("missing", "takes", "unexpected keyword", "multiple values", "required positional")
    ours = error.__traceback__ is not None and error.__traceback__.tb_next is not None
    inner = ours and error.__traceback__.tb_next.tb_next is None  # type: ignore[union-attr]
    return isinstance(error, TypeError) and inner and any(sign in text for sign in signs)


def run(
    seconds: float, *, seed: int = 0, names: tuple[str, ...] = (), tally: Tally | None = None, most: int | None = None
) -> Tally:
    """Call doors in turn for so long, or until there were so many calls."""
    rng, tally = random.Random(seed), tally or Tally()
    chosen = [door for door in doors() if not names or any(name in door.name for name in names)]
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for door in _in_turn(chosen, rng):
            if time.monotonic() >= end or len(tally) == most:
                return tally
            torch.manual_seed(0)
            call_once(door, random.Random(rng.random()), tally)
    return tally


def _in_turn(chosen: list[Door], rng: random.Random) -> Iterator[Door]:
    """All doors again and again, each time in another order."""
    while chosen:
        yield from rng.sample(chosen, len(chosen))


def main(arguments: list[str] | None = None) -> int:
    """Call and report; 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="doors whose names hold this; all")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    tally = run(given.seconds, seed=given.seed, names=tuple(given.names))
    print(tally.report(f"calls of {len(doors())} doors"))
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
