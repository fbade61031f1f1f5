"""Files: safetensors and JSON, written to one side and moved into place, so that a failed run leaves nothing.

A saved value is a folder with `config.json` (plain data) and `model.safetensors` (tensors). Never pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from efface._errors import FormatError, InputError, MissingExtraError, NotFittedError
from efface._interrupts import raise_swallowed
from efface._memory import check_room
from efface._temporary import temporary_file, temporary_folder
from efface._text import is_whole
from efface.core.arrays import is_finite

FORMAT_VERSION = 2
CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; moved onto `path` on success, deleted on failure.

    The sibling has the same suffix, so that writers that look at the suffix are not confused. What a process that was
    killed left beside it is removed first.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(path.parent, path.stem, path.suffix) as temporary:
        yield temporary
        raise_swallowed()
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary sibling folder to write to; its files replace those of `path` on success.

    A new folder appears in one step. In a folder that exists, each file is replaced in one step and the
    other files are left alone.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, path.name) as temporary:
        yield temporary
        raise_swallowed()
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            for file in temporary.iterdir():
                os.replace(file, path / file.name)
        else:
            os.replace(temporary, path)


def as_path(path: Any, name: str = "the path") -> Path:
    """A path from text or a path.

    Raises:
        InputError: If it is something else, or no file can be called so.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"{name} is a {type(path).__name__}, expected text or a pathlib.Path")
    try:
        if "\0" in os.fspath(path):
            raise ValueError
        os.fsencode(path)
    except ValueError:
        raise InputError(f"{name} is {os.fspath(path)!r:.80}, and no file can be called so") from None
    return Path(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically."""
    if not is_whole(text):
        raise InputError(f"{os.fspath(path)} cannot be written: half of a sign (a lone surrogate) is in its text")
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
    path = as_path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{path} is a file, and this writes a folder: name another one")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} has something in it: name another folder, or write overwrite=True")
    with atomic_dir(path) as folder:
        for name, text in (more or {}).items():
            write_text(folder / name, text)
        save_file({k: _to_real(v) for k, v in tensors.items()}, folder / TENSORS)
        complex_names = sorted(k for k, v in tensors.items() if v.is_complex())
        write_json(folder / CONFIG, {"format_version": FORMAT_VERSION, "complex": complex_names, **config})


def load_folder(
    path: str | os.PathLike[str], *, expect: str | None = None, finite: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_folder` wrote.

    Args:
        path: The folder.
        expect: Value that `config["type"]` must have, if given.
        finite: Refuse NaN and infinite values.

    Raises:
        FileNotFoundError: If there is no such folder or a file is missing from it.
        FormatError: If a file is truncated, foreign or newer than this efface, or holds what it must not.
    """
    path = as_path(path)
    for name in (CONFIG, TENSORS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: expected a folder written by save")
    with reading(path):
        config = read_json(path / CONFIG)
        tensors = _load_tensors(path / TENSORS)
        version = config.get("format_version") if isinstance(config, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise FormatError("its config.json was not written by efface: it has no integer format_version")
        if version > FORMAT_VERSION:
            raise FormatError(
                f"it has format {version}, this efface reads up to {FORMAT_VERSION}: "
                "upgrade with  pip install -U efface"
            )
        if expect is not None and config.get("type") != expect:
            raise FormatError(f"it holds a {config.get('type')!r}, expected a {expect!r}")
        names = config.get("complex", [])
        if not isinstance(names, list) or not all(isinstance(n, str) and _is_pairs(tensors.get(n)) for n in names):
            raise FormatError(f"its config.json names complex tensors that {TENSORS} does not have: {names!r:.80}")
        if finite and (bad := next((name for name, value in tensors.items() if not is_finite(value)), None)):
            raise FormatError(f"{bad} has NaN or infinite values")
        for name in names:
            tensors[name] = torch.view_as_complex(tensors[name])
    return config, tensors


def _load_tensors(path: Path) -> dict[str, Tensor]:
    check_room(path.stat().st_size, "its tensors", FormatError)  # a file of holes is larger than the disk it takes
    # In memory of their own: a file's tensors lie at any multiple of 8 bytes, where products round otherwise than
    # those of the tensors that were saved, and complex ones fail.
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def read_json(path: str | os.PathLike[str]) -> Any:
    """Plain data from a UTF-8 file; NaN, infinity and halves of signs, which could not be written again, are refused.

    Raises:
        ValueError: If it is no JSON; within `reading` a FormatError.
    """
    found = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, a file or folder from anywhere is read: whatever goes wrong in that is damage.

    Raises:
        FormatError: In place of any other error, but for those of the system, of memory, and of extras.
    """
    try:
        yield
    except (OSError, MemoryError, MissingExtraError):
        raise
    except FormatError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    except (InputError, NotFittedError) as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
    except (JSONDecodeError, UnicodeDecodeError, SafetensorError, RecursionError) as error:
        said = f"{error}"[:200]
        raise FormatError(f"{os.fspath(path)} cannot be read: it is damaged, it may be truncated: {said}") from error
    except Exception as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{os.fspath(path)} is damaged: {said:.200}") from error


def _is_pairs(tensor: Tensor | None) -> bool:
    of_reals = tensor is not None and tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return tensor is not None and of_reals and tensor.ndim > 0 and tensor.shape[-1] == 2


def _to_real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous().clone()
