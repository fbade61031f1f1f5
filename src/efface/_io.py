"""Files: safetensors and JSON, written to one side and moved into place, so that a failed run leaves nothing.

A saved value is a folder with `config.json` (plain data) and `model.safetensors` (tensors). Never pickle.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from efface._errors import FormatError, InputError

FORMAT_VERSION = 2
CONFIG, TENSORS = "config.json", "model.safetensors"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; moved onto `path` on success, deleted on failure.

    The sibling has the same suffix, so that writers that look at the suffix are not confused.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling folder to write to; its files replace those of `path` on success.

    A new folder appears in one step. In a folder that exists, each file is replaced in one step and the
    other files are left alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            for file in temporary.iterdir():
                os.replace(file, path / file.name)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write plain data as JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def save_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    overwrite: bool = True,
    more: Mapping[str, str] | None = None,
) -> None:
    """Save plain data and tensors as one folder.

    Args:
        path: The folder; it is made if need be.
        config: Plain data; `format_version` is added.
        tensors: Name -> tensor; complex tensors are kept as pairs of reals.
        overwrite: Replace files of a folder that has something in it.
        more: Further text files: name -> text.

    Raises:
        InputError: If the folder has something in it, and that is not to be replaced, or it is a file.
    """
    if os.path.lexists(path) and not Path(path).is_dir():
        raise InputError(f"{path} is a file, and this writes a folder: name another one")
    if not overwrite and Path(path).is_dir() and any(Path(path).iterdir()):
        raise InputError(f"{path} has something in it: name another folder, or write overwrite=True")
    with atomic_dir(path) as folder:
        for name, text in (more or {}).items():
            write_text(folder / name, text)
        save_file({k: _to_real(v) for k, v in tensors.items()}, folder / TENSORS)
        complex_names = sorted(k for k, v in tensors.items() if v.is_complex())
        write_json(folder / CONFIG, {"format_version": FORMAT_VERSION, "complex": complex_names, **config})


def load_folder(path: str | os.PathLike[str], *, expect: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_folder` wrote.

    Args:
        path: The folder.
        expect: Value that `config["type"]` must have, if given.

    Raises:
        FileNotFoundError: If there is no such folder or a file is missing from it.
        FormatError: If a file is truncated, foreign or newer than this efface.
    """
    path = Path(path)
    for name in (CONFIG, TENSORS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: expected a folder written by save")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        # In memory of their own: a file's tensors lie at any multiple of 8 bytes, where products round otherwise than
        # those of the tensors that were saved, and complex ones fail.
        tensors = {name: tensor.clone() for name, tensor in load_file(path / TENSORS).items()}
    except (ValueError, SafetensorError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read, it may be truncated: {error}") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{path / CONFIG} was not written by efface: it has no integer format_version")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format {version}, this efface reads up to {FORMAT_VERSION}: "
            "upgrade with  pip install -U efface"
        )
    if expect is not None and config.get("type") != expect:
        raise FormatError(f"{path} holds a {config.get('type')!r}, expected a {expect!r}")
    names = config.get("complex", [])
    if not isinstance(names, list) or not all(isinstance(n, str) and _is_pairs(tensors.get(n)) for n in names):
        raise FormatError(f"{path / CONFIG} names complex tensors that {TENSORS} does not have: {names!r}")
    for name in names:
        tensors[name] = torch.view_as_complex(tensors[name])
    return config, tensors


def _is_pairs(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.ndim > 0 and tensor.shape[-1] == 2


def _to_real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous().clone()
