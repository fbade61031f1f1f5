"""Digests of what groups of methods compute, and running the groups.

A group is a function without arguments that returns name -> tensor; its keys become "group/name". Values that are no
tensors (reports, audits, counts) are turned into a uint8 tensor of canonical JSON by `text`, so that they are hashed
like everything else: floats by repr, keys sorted. A digest is the beginning of sha256 of dtype, shape and bytes.
"""

from __future__ import annotations

import os

# Before torch is imported: one thread, so that no sum depends on how many cores are free.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# MKL's products otherwise depend on where in memory their operands lie (by the last digit of most small products), so
# that a copy more or less, or a tensor read from a file, would look like another method.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import random
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Group = Callable[[], Mapping[str, Any]]
DIGITS = 16
"""Hexadecimal digits of a digest that are kept."""
PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "safetensors", "transformers", "diffusers", "tokenizers", "captum"),
    *("pandas", "torchmetrics"),
)


def named(*groups: Group) -> dict[str, Group]:
    """Groups by the names of their functions."""
    return {group.__name__: group for group in groups}


# ------------------------------------------------------------------------------------------------------ digests


def real(value: Any) -> Tensor:
    """A contiguous CPU tensor of real numbers with the same bits."""
    x = torch.as_tensor(value).detach().cpu().resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(x).contiguous() if x.is_complex() else x


def digest(value: Any) -> str:
    """sha256 of dtype, shape and bytes, in full."""
    x = torch.as_tensor(value)
    head = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} "
    row = real(x).reshape(-1)
    raw = row.view(torch.uint8).numpy().tobytes() if row.numel() else b""
    return hashlib.sha256(head.encode() + raw).hexdigest()


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences, arrays and scalars as JSON data."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def text(value: Any) -> Tensor:
    """Plain data as the uint8 tensor of its canonical JSON."""
    written = json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return torch.frombuffer(bytearray(written.encode("utf-8")), dtype=torch.uint8).clone()


def flat(tensors: Mapping[str, Any]) -> Tensor:
    """Many tensors as one uint8 tensor: the digest of each with its name, in order. For what is too much to list."""
    return text([[name, digest(value)] for name, value in tensors.items()])


# -------------------------------------------------------------------------------------------------------- running


@dataclass
class Run:
    """What groups gave.

    Attributes:
        tensors: Key -> tensor.
        seconds: Group -> seconds of CPU.
        failed: Group -> traceback, of those that failed.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        """Key -> digest, sorted."""
        return {key: digest(self.tensors[key])[:DIGITS] for key in sorted(self.tensors)}


def run(groups: Mapping[str, Group], names: Iterable[str]) -> Run:
    """Run the named groups, one after the other, in one thread."""
    torch.set_num_threads(1)
    found = Run()
    for name in names:
        _seed_everything()
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = groups[name]()
            found.tensors |= {f"{name}/{key}": torch.as_tensor(value).detach() for key, value in given.items()}
        except Exception:
            found.failed[name] = traceback.format_exc()
        found.seconds[name] = time.process_time() - start
    return found


def _seed_everything() -> None:
    """The global generators, which nothing should draw from; so that a draw would at least be the same."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def environment() -> dict[str, Any]:
    """What the bits depend on, besides the code."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {name: _cpu(name) for name in ("model name", "cpu family", "model")},
        "torch cpu capability": torch.backends.cpu.get_cpu_capability(),
        "MKL_CBWR": os.environ["MKL_CBWR"],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu(name: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name)
    return next(found, "?")
