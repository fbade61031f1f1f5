"""Every public callable with odd arguments: each call ends in a value, or in an error of ours.

python -m tests.fuzz.calls [NAME ...] [--seconds 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import pkgutil
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, ModuleType
from typing import Any, cast

import torch

import efface
from tests.fuzz import odd
from tests.fuzz.instances import GIVEN, instance, instances, tidy
from tests.fuzz.outcome import Tally, quiet

NOT_CALLED = ("efface.cli",)
"""What is called from a shell."""

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


def rooms() -> Iterator[ModuleType]:
    """Every package of efface."""
    yield efface
    for found in pkgutil.walk_packages(efface.__path__, "efface."):
        if found.ispkg and not found.name.startswith(NOT_CALLED):
            yield importlib.import_module(found.name)


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
    for room in (*rooms(), importlib.import_module("efface.compat")):
        for name, value in public(room):
            if inspect.isfunction(value):
                found.setdefault(value, Door(f"{value.__module__}.{name}", value))
            elif inspect.isclass(value) and not is_skipped(value):
                found.setdefault(value, Door(f"{value.__module__}.{name}", value))
                for method in _methods(value) if value.__name__ in instances() else ():
                    found.setdefault((value, method), Door(f"{value.__module__}.{name}.{method}", value, method))
    return tuple(found.values())


def is_skipped(value: type) -> bool:
    """Errors and protocols."""
    return issubclass(value, BaseException) or bool(getattr(value, "_is_protocol", False))


_INNER = ("upgraded", "update_tensors", "check_state")
"""Readers of older files, and what is called after all checks."""
_OF_EDITS = ("edited", "guided", "heard", "operated", "project", "raw_rows")
"""What of an erasure a pipeline calls with the run that efface has begun."""


def _methods(value: type) -> list[str]:
    names = {name for cls in value.__mro__ if cls.__module__.startswith("efface") for name in vars(cls)}
    called = [name for name in names if not name.startswith(("_", "set_")) and callable(getattr(value, name, None))]
    inner = _INNER + (_OF_EDITS if issubclass(value, efface.Erasure) else ())
    called = [name for name in called if name not in inner]
    return sorted([*called, *(name for name in ("__call__", "__add__", "__and__", "__eq__") if name in names)])


# ----------------------------------------------------------------------------------------------------------- calls


def _arguments(call: Callable[..., Any], rng: random.Random) -> Arguments:
    """Positional and named arguments of a call that has enough of them, and how they are written.

    In half of the calls one argument alone is odd, so that what lies behind the checks of the others is reached.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    args, kwargs, said, names = [], {}, [], rng.sample(_OPTIONS, 1) if rng.random() < 0.01 else []
    alone = rng.choice(parameters).name if parameters and rng.random() < 0.5 else ""
    for parameter in parameters:
        needed, name = parameter.default is parameter.empty, parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL or (needed and parameter.kind in _BY_PLACE):
            count = rng.randrange(3) if parameter.kind is parameter.VAR_POSITIONAL else 1
            chosen = [_chosen(name, rng, alone) for _ in range(count)]
            args += [value for _, value in chosen]
            said += [f"<{what}>" for what, _ in chosen]
        elif parameter.kind is parameter.VAR_KEYWORD:
            names += rng.sample(_OPTIONS, rng.randrange(3))
        elif needed or name == alone or (not alone and rng.random() < 0.3):
            names.append(name)
    for name in dict.fromkeys(names):
        what, kwargs[name] = _chosen(name, rng, alone)
        said.append(f"{name}=<{what}>")
    return args, kwargs, ", ".join(said)


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OFTEN = {"x": "x (6, 4)", "z": "z (6,)", "x_dim": "4", "z_dim": "4", "num_classes": "4", "key": "z (6,)"}
_OPTIONS = (
    *("method", "shrinkage", "device", "dtype", "mask", "weight", "batch_size", "seed", "sites", "threshold", "kind"),
    *("labels", "templates", "preserve", "shrinkge", "Method", "self", "n", ""),
)
"""Names of options, of some functions and of none."""


def _chosen(name: str, rng: random.Random, alone: str = "") -> tuple[str, Any]:
    """What often fits, half of the time, so that calls come further than their first check.

    Args:
        name: The parameter.
        rng: Chooses.
        alone: The only one that is odd, if there is one.
    """
    often = name != alone if alone else rng.random() < 0.5
    if name in _OFTEN and often:
        return _OFTEN[name], odd.RIGHT[_OFTEN[name]](rng)
    if name in GIVEN and often:
        return f"a good {name}", GIVEN[name](rng)
    return odd.value(rng, odder=not alone or name == alone)


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
    of_caller = [*args, *kwargs.values(), getattr(target, "__self__", None)]
    found = tally.take(
        what, lambda: target(*args, **kwargs), ours=lambda error: _is_right(error, door, kwargs, of_caller)
    )
    if door.method.startswith("install") and callable(found):
        tally.check(f"after {what}", found)
    tally.check(f"after {what}", tidy)


def _is_right(error: Exception, door: Door, given: dict[str, Any], of_caller: list[Any]) -> bool:
    """Whether an error that is not ours is right all the same."""
    convention = door.call.__module__.startswith("efface.estimators") and _is_convention(error)
    return _is_callers(error, of_caller) or _is_signature(error, given) or convention


def _is_convention(error: Exception) -> bool:
    """What scikit-learn says of its arguments, or what it reads them with, is what its users know."""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    last = max((i for i, name in enumerate(names) if "/efface/" in name), default=len(names))
    return any("/sklearn/" in name for name in names[last:])


def _is_callers(error: Exception, of_caller: list[Any]) -> bool:
    """The caller's own function or model failed at what it was given, and nobody else has to say so."""
    if any(sign in str(error) for sign in _CALLERS):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_code.co_filename for frame in frames]
    last = max((i for i, name in enumerate(names) if "/efface/" in name), default=len(names))
    called = [f.f_locals.get("self") for f in frames[last:] if f.f_code.co_filename.endswith(_MODULE)]
    return bool(called) and type(called[0]) in {type(module) for module in _modules(of_caller)}


_CALLERS = ("the caller's own", "<lambda>() takes", "len() takes exactly")
"""What functions of `odd` say, or Python of how they were called."""
_MODULE = "torch/nn/modules/module.py"


def _modules(values: Iterable[Any]) -> Iterator[torch.nn.Module]:
    """Models among arguments, and those that they hold; a copy of one is of the same type."""
    for value in values:
        if isinstance(value, torch.nn.Module):
            yield from (value, *value.children())
        elif type(value) in (list, tuple, dict):
            yield from _modules(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, efface.PipelineView):
            yield from _modules([value.pipe])
        elif isinstance(getattr(type(value), "components", None), property):
            yield from _modules([value.components])


def _is_signature(error: Exception, given: dict[str, Any]) -> bool:
    """A wrong number of arguments, or an unknown name of one: Python's own words for it are right.

    They are those of the door itself, or name an option that it was given and handed on, `**options`, unread.
    """
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)][2:]
    inside = [code for code in codes if not code.co_filename.endswith(_WRAPPERS)]
    text, signs = str(error), ("missing", "takes", "unexpected keyword", "multiple values", "required positional")
    takes_options = all("/efface/" in code.co_filename and _hands_on(code) for code in inside)
    handed_on = takes_options and any(f"argument {name!r}" in text for name in given)
    right = signs if not inside else signs[2:4] if handed_on else ()
    return isinstance(error, TypeError) and any(sign in text for sign in right)


_WRAPPERS = ("/contextlib.py", "torch/utils/_contextlib.py", "sklearn/utils/_set_output.py")


def _hands_on(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_VARKEYWORDS) or "options" in code.co_varnames[: code.co_argcount]


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
