"""The model of `efface explain`: a folder of transformers, a factory with weights, or a world of efface-worlds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface.cli.functions import here
from efface.cli.options import Explain
from efface.cli.outputs import Say
from efface.cli.pretrained import load_pretrained
from efface.cli.worlds import find_world
from efface.explanation.pixels import PixelModel

_TRAIN, _TEST, _EPOCHS = 2000, 500, 5
_PICKLED = (".pt", ".pth", ".pt2", ".bin", ".pkl", ".ckpt", ".onnx")


@dataclass(frozen=True)
class Own:
    """Images that a world brings with it: `test` to explain with `labels`, `train` to tune on; `(n, 3, h, w)`."""

    test: Tensor
    labels: Tensor
    train: Tensor


@dataclass(frozen=True)
class Classifier:
    """A classifier and how images become its pixels.

    Attributes:
        model: Pixels in [0, 1] to logits or probabilities; in eval mode.
        channels: 1 or 3.
        size: Height and width of its images; None where any will do.
        classes: Names of the classes, if they have any.
        prepare: Its own way from an image (of PIL) to pixels `(channels, h, w)` in [0, 1], if it has one.
        own: Images of its own, if it has any.
    """

    model: PixelModel
    channels: int = 3
    size: tuple[int, int] | None = None
    classes: tuple[str, ...] | None = None
    prepare: Callable[[Any], Tensor] | None = None
    own: Own | None = None


def load_classifier(args: Explain, say: Say) -> Classifier:
    """The model that the user named.

    Raises:
        InputError: If it is nothing that can be loaded; the text says what can.
    """
    name = args.model
    factory = is_factory(name)
    _check_options(args, factory)
    if Path(name).is_dir():
        model, prepare, classes, channels = load_pretrained(Path(name))
        return Classifier(model, channels, None, classes, prepare)
    if factory:
        return _made(args, say)
    return _world(find_world(name, "classifier", _otherwise(name)), args.seed, say)


def is_factory(name: str) -> bool:
    """Whether a name is package.module:factory."""
    return ":" in name and not Path(name).exists()


def _otherwise(name: str) -> str:
    """What a name is not, with a hint for files that hold weights."""
    hint = ""
    if Path(name).suffix.lower() in _PICKLED:
        hint = (
            " (files of that kind hold pickled code, which efface does not run; save the weights once with "
            "safetensors.torch.save_file(model.state_dict(), 'net.safetensors'), and name the function that builds "
            "the model)"
        )
    elif Path(name).suffix.lower() == ".safetensors":
        hint = f" (weights alone are no model; write package.module:factory --weights {name})"
    return f"no folder of a model and no package.module:factory{hint}"


def _check_options(args: Explain, factory: bool) -> None:
    given = [f"--{name}" for name in ("weights", "size", "mean", "std", "classes") if getattr(args, name) is not None]
    if given and not factory:
        raise InputError(f"{', '.join(given)} goes with a model of package.module:factory; {args.model} knows its own")
    if (args.mean is None) != (args.std is None):
        raise InputError("--mean and --std go together: write both, e.g. --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5")


def _world(found: Any, seed: int, say: Say) -> Classifier:
    say(found.note(_TRAIN))
    world, network = found.make(seed, train=_TRAIN, test=_TEST, epochs=_EPOCHS)
    own = Own(world.test.images, world.test.labels, world.train.images)
    channels, height, width = world.train.images.shape[1:]
    return Classifier(PixelModel(network), channels, (height, width), world.classes, own=own)


def _made(args: Explain, say: Say) -> Classifier:
    model = _called(args.model)
    if args.weights is None:
        say(f"without --weights the model is as {args.model} makes it: trained only if that loads its weights")
    else:
        _load_weights(model, args.weights)
    channels = _channels(model)
    mean, std = (_numbers(args, name, channels) for name in ("mean", "std"))
    pixels = PixelModel(model) if mean is None or std is None else PixelModel(model, mean, std)
    classes = None if args.classes is None else _class_names(args.classes)
    return Classifier(pixels, channels, None if args.size is None else _size(args.size), classes)


def _called(spec: str) -> nn.Module:
    module, _, name = spec.partition(":")
    with here():
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise InputError(f"{spec}: there is no module {error.name!r} here or among the installed ones") from error
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            raise InputError(f"{spec}: {error}") from error
        if not isinstance(found, nn.Module):
            found = _result(spec, found)
    if not isinstance(found, nn.Module):
        raise InputError(f"{spec} gives a {type(found).__name__}: write a function that returns a torch.nn.Module")
    return found


def _result(spec: str, factory: Any) -> Any:
    if not callable(factory):
        raise InputError(f"{spec} is a {type(factory).__name__}: name a function that returns a torch.nn.Module")
    try:
        return factory()
    except TypeError as error:
        raise InputError(f"{spec} could not be called without arguments: {error}") from error


def _load_weights(model: nn.Module, path: Path) -> None:
    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"--weights {path}: expected .safetensors; pickled weights are not read, save them once with "
            "safetensors.torch.save_file(model.state_dict(), 'net.safetensors')"
        )
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise FormatError(f"{path} cannot be read, it may be truncated: {error}") from error
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise InputError(f"the weights in {path} do not fit the model: {said[:400]}") from error


def _channels(model: nn.Module) -> int:
    """What the first convolution reads; 3 where there is none."""
    found = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    if found not in (1, 3):
        raise InputError(f"the model's first convolution reads {found} channels: images here have 1 or 3")
    return found


def _numbers(args: Explain, name: str, channels: int) -> list[float] | None:
    text = getattr(args, name)
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in (1, channels) or (name == "std" and not all(v > 0 for v in found)):
        raise InputError(f"--{name} {text}: write {channels} numbers, one a channel, e.g. --{name} 0.5,0.5,0.5")
    return found * (channels if len(found) == 1 else 1)


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {path} cannot be read as text: {error}") from error
    while names and not names[-1].strip():
        names.pop()
    empty = next((i for i, name in enumerate(names) if not name.strip()), None)
    if empty is not None or not names:
        raise InputError(f"--classes {path}: line {(empty or 0) + 1} is empty; write one name a line, all classes")
    return tuple(name.strip() for name in names)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--size {text}: write pixels, e.g. --size 224 or --size 224x320 (height x width)")
    return int(parts[0]), int(parts[-1])
