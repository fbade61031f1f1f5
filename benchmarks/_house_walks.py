"""Four walks through a checkout of efface: how many of its functions are called, in how many files, with which jumps.

Run by `benchmarks.house` in a process of its own, with the sources of the checkout in front of the path; prints JSON.

Each walk is done once so that everything is imported, then counted by `sys.setprofile`: a call is one entry of a
frame whose code lies in a file below `src/efface`, worlds apart; so lambdas and comprehensions count, a generator
counts each time that it goes on, and what `dataclass` generates does not count. A file change is a call in another
file than the call before it. The checkout is spoken to by whichever API it has.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

efface: Any = importlib.import_module("efface")
ROOT = Path(efface.__file__).parent
_APART = ROOT / "worlds"
_OLD = not (ROOT / "core").is_dir()
_SITES = 13
_WORDS = {"preserve": ["triangle", "cross"], "templates": ["{}", "a red {}", "a striped {}"]}

Walk = Callable[[], object]


def counted(walk: Walk) -> dict[str, int]:
    """Calls, files and file changes of a walk, the second time that it is made."""
    walk()
    files: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and _is_ours(frame.f_code.co_filename):
            files.append(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        walk()
    finally:
        sys.setprofile(None)
    changes = sum(a != b for a, b in zip(files, files[1:], strict=False))
    return {"calls": len(files), "files": len(set(files)), "changes": changes}


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(ROOT) and not path.is_relative_to(_APART)


def vectors() -> dict[str, Walk]:
    """A fit of LEACE on an array, and its application."""
    x, z = torch.randn(200, 8), torch.arange(200) % 3
    eraser = efface.LeaceEraser.fit(x, z)
    return {
        "x -> LeaceEraser.fit": lambda: efface.LeaceEraser.fit(x, z),
        "eraser(x)": lambda: eraser(x),
        "eraser.report": lambda: eraser.report,
    }


def prompts() -> dict[str, Walk]:
    """Semantic Surgery on the pipeline of shapes, put on the pipeline or on a view of it; a view samples."""
    worlds: Any = importlib.import_module("efface.worlds.shapes" if _OLD else "efface_worlds.shapes")
    pipe = worlds.load_shapes_pipeline()
    concept = (efface.ErasureSpec if _OLD else efface.Concept)("star", **_WORDS)
    erasure = efface.erase(pipe, concept, method="semantic-surgery", threshold=0.1, sharpness=0.05)
    on: Callable[[Any], contextlib.AbstractContextManager[Any]] = erasure.applied if _OLD else erasure.on
    view = efface.PipelineView.of(pipe)

    def sample(thing: Any) -> None:
        with on(thing):
            view.sample(["a red star"], [0], steps=1, guidance=3.0)

    def on_and_off(thing: Any) -> None:
        with on(thing):
            pass

    return {
        "prompt -> erasure on -> sample, 1 step": lambda: sample(pipe),
        "of these: on and off": lambda: on_and_off(pipe),
        "on and off, given a view": lambda: on_and_off(view),
    }


def scrubbing() -> dict[str, Walk]:
    """LEACE at the 13 norms of a Llama of six blocks, on one batch."""
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=50, num_hidden_layers=6, max_position_embeddings=32, **sizes)
    model = transformers.LlamaModel(config).eval()
    tokens = torch.randint(50, (8, 12))
    data = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def scrub(activations: str) -> Any:
        return efface.scrub(model, data, tokens % 3, sites="norms", activations=activations)

    if (found := len(scrub("memory").sites)) != _SITES:
        raise RuntimeError(f"{_SITES} sites expected, {found} found")
    return {
        f"model + data -> scrub, {_SITES} sites, 1 batch, activations kept": lambda: scrub("memory"),
        "the same, activations computed again": lambda: scrub("recompute"),
    }


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        walks = vectors() | prompts() | scrubbing()
        print(json.dumps({name: counted(walk) for name, walk in walks.items()}))


if __name__ == "__main__":
    main()
