"""Language models by name, and the words of texts as their tokenizers cut them.

A name is a folder that `save_pretrained` wrote, or `hub:OWNER/NAME`. Nothing but the latter touches the network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface._lazy import quiet, require
from efface._text import one_line, shown
from efface._validate import check_positive_int
from efface.audit.remembrance.registry import Registry, normalised
from efface.audit.remembrance.words import folded, spans
from efface.core.erasure import load

HUB = "hub:"
"""What a name of the hub begins with, so that a folder that is misspelt is never looked up there."""
_SETTINGS = "config.json"
_ANY = 2**31
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_ADVICE = "give a folder written by model.save_pretrained of transformers, or hub:OWNER/NAME"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: In eval mode.
        tokenizer: None if there is none beside it.
        name: What the user wrote.
    """

    model: nn.Module
    tokenizer: Any
    name: str


def is_name(given: Any) -> bool:
    """Whether something is a name, and no model."""
    return isinstance(given, str | os.PathLike)


def is_language_model(name: str | os.PathLike[str]) -> bool:
    """Whether a name is of a model of transformers, by what it says of itself; the network is not asked."""
    return os.fspath(name).startswith(HUB) or "model_type" in _settings(Path(name))


def load_language_model(name: str | os.PathLike[str]) -> LanguageModel:
    """The causal language model of a name, from .safetensors, without code of its own.

    Raises:
        InputError: If there is no such folder, it holds another kind of model or no trained weights; or the hub has no
            such model, or cannot be reached.
        MissingExtraError: If transformers is not installed.
    """
    said = os.fspath(name)
    of_hub = said.startswith(HUB)
    source = said.removeprefix(HUB) if of_hub else said
    if not source.strip():
        raise InputError(f"the name of a language model is {said!r}: {_ADVICE}")
    if not of_hub and not is_language_model(name):
        has = "there is no folder" if not Path(said).is_dir() else f"no model of transformers has its {_SETTINGS} in"
        raise InputError(f"{has} {said}: {_ADVICE}")
    transformers = require("transformers", extra="hf")
    with quiet(transformers):
        return LanguageModel(_model(transformers, source, said, of_hub), _tokenizer(transformers, source, of_hub), said)


def load_edit(name: str | os.PathLike[str]) -> Any:
    """What stands in the place of a model, or is put on it: a model by name, or an erasure that efface saved."""
    said = os.fspath(name)
    if said.startswith(HUB) or not Path(said).is_dir() or is_language_model(name):
        return load_language_model(name)
    try:
        return load(name)
    except (FormatError, FileNotFoundError) as error:
        raise InputError(f"{said} is no language model ({_ADVICE}), and no erasure: {error}") from error


def check_same_tokens(before: LanguageModel, after: LanguageModel) -> None:
    """Refuse a model that reads other tokens: its losses would be of other texts."""
    both = [each.tokenizer for each in (before, after)]
    if None not in both and both[0].get_vocab() != both[1].get_vocab():
        raise InputError(
            f"{after.name} has other tokens than {before.name}: losses of tokens are compared, so give models of one "
            "tokenizer"
        )


def longest(model: nn.Module) -> int:
    """How many tokens a model can read, as far as it says."""
    said = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return said if isinstance(said, int) and said > 1 else _ANY


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _model(transformers: Any, source: str, said: str, of_hub: bool) -> Any:
    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        load = transformers.AutoModelForCausalLM.from_pretrained
        model, info = load(source, local_files_only=not of_hub, **options)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{said} cannot be loaded{_why(error, of_hub)}: {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{said} has no trained weights for {', '.join(missing[:3])}: it is no trained language model")
    return model.eval()


def _why(error: Exception, of_hub: bool) -> str:
    if not of_hub:
        return " as a causal language model (weights must be .safetensors)"
    if not isinstance(error, OSError):
        return " as a causal language model"
    offline = [each for each in _OFFLINE if os.environ.get(each, "0") not in ("", "0")]
    why = f"{offline[0]} is set, and it is not in the cache" if offline else "the hub has it not, or cannot be reached"
    return f" ({why}; write the name as on the hub, or download it where you can, and give its folder)"


def _tokenizer(transformers: Any, source: str, of_hub: bool) -> Any:
    """The tokenizer beside a model, if there is one."""
    try:
        return transformers.AutoTokenizer.from_pretrained(source, local_files_only=not of_hub, trust_remote_code=False)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError, ImportError):
        return None


# --------------------------------------------------------------------------------------------------- words of texts


def is_texts(data: Any) -> bool:
    """Whether data is texts, and no tokens."""
    found = data.tolist() if isinstance(data, np.ndarray) and data.dtype.kind in "UTO" else data
    return isinstance(found, list | tuple) and len(found) > 0 and all(isinstance(each, str) for each in found)


def read_texts(
    texts: Sequence[str], tokenizer: Any, *, length: int, fewest: int, keep: Sequence[str], registry: Registry | None
) -> tuple[dict[str, Tensor], NDArray[np.str_]]:
    """Texts as tokens of one length, and the word that each token is of.

    Args:
        texts: Running text; what is longer than `length` is cut.
        tokenizer: A fast one of transformers.
        length: Tokens of a text at most.
        fewest: In how many texts a word has to be; those of fewer are nobody's.
        keep: Words that are kept however few there are.
        registry: Whose words count, by any of their names of one word; None takes all.

    Returns:
        `input_ids` and `attention_mask` `(n, t)`; words `(n, t)`, empty text for what is nobody's.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer is {shown(tokenizer)}, which does not say where in a text a token is: give a fast one of "
            "transformers, or token ids and words"
        )
    check_positive_int(length, "length")
    found = tokenizer(
        [*texts], truncation=True, max_length=length, return_offsets_mapping=True, return_attention_mask=False
    )
    longest = max(len(ids) for ids in found["input_ids"])
    shape = (len(texts), max(2, longest))
    ids, mask = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    words = np.full(shape, "", dtype=object)
    named = _names(registry)
    for row, (own, where) in enumerate(zip(found["input_ids"], found["offset_mapping"], strict=True)):
        ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own, dtype=torch.int64), 1
        words[row, : len(own)] = [named(word) for word in _words_of(texts[row], where)]
    if registry is None:
        words = _often(words, check_positive_int(fewest, "fewest"), {folded(each) for each in keep})
    return {"input_ids": ids, "attention_mask": mask}, words.astype(np.str_)


def _words_of(text: str, where: Sequence[tuple[int, int]]) -> Iterator[str]:
    """The word that each token is a part of; of several, such as `():`, all that it has."""
    number = np.full(len(text) + 1, -1)
    names = []
    for start, end in spans(text):
        number[start:end] = len(names)
        names.append(folded(text[start:end]))
    for start, end in where:
        inside = np.unique(number[start:end])
        own = inside[inside >= 0].tolist()
        yield names[own[0]] if len(own) == 1 else folded(text[start:end].strip()) if own else ""


def _names(registry: Registry | None) -> Any:
    """A word -> whom it names; nobody where it names none of a registry, or several."""
    if registry is None:
        return lambda word: word
    known = {name: entity or "" for name, entity in registry.names.items()}
    return lambda word: known.get(normalised(word), "")


def _often(words: NDArray[Any], fewest: int, keep: set[str]) -> NDArray[Any]:
    """Those that are in so many rows; the others are nobody's."""
    names, place = np.unique(words.astype(np.str_), return_inverse=True)
    place = place.reshape(words.shape)
    row = np.repeat(np.arange(len(words)), words.shape[1])
    pairs = np.unique(np.stack([place.reshape(-1), row]), axis=1)
    many = np.bincount(pairs[0], minlength=len(names))
    kept = (many >= fewest) | np.isin(names, [*keep])
    return np.where(kept[place], names[place], "").astype(object)
