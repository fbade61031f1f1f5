"""Look inside a scrubbed model with TransformerLens: its hooks and caches see the erased activations.

A small Llama of Python source has to know what sort of token it stands on: a name, an operator, a newline. That is
erased at every norm, and the erasers go into TransformerLens as hooks.

    pip install 'efface[adapters,worlds]'
    python examples/02_transformers/transformer_lens_hooks.py
"""

# %% A model, and a scrubber fitted on what it was trained on.
import copy
from typing import Any

import torch
from sklearn.linear_model import RidgeClassifier
from transformer_lens.model_bridge.sources import build_bridge_from_module

import efface
from efface.scrubbing.adapters import transformer_lens_hooks
from efface_worlds.tokens import load_token_model, make_tokens

model = load_token_model("llama")
train = make_tokens("train", length=128, sequences=32, max_files=40)
scrubber = efface.scrub(model, train.input_ids, train.lexical_type, sites="norms")

# %% A bridge around a copy of it (TransformerLens takes the model to pieces), and the erasers as hooks.
bridge: Any = build_bridge_from_module(copy.deepcopy(model), type(model).__name__, hf_config=model.config)
hooks = transformer_lens_hooks(scrubber, bridge)
print(f"{len(hooks)} hook points: {hooks[0][0]}, {hooks[1][0]}, ..., {hooks[-1][0]}")

# %% The logits are those of the scrubbed model.
tokens = train.input_ids[:8]
with torch.no_grad():
    plain = bridge(tokens)
    erased = bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    with scrubber.on(model):
        expected = model(input_ids=tokens).logits
print(f"largest difference of logits: {(erased - expected).abs().max():.0e}; ", end="")
print(f"what the erasers changed: {(erased - plain).abs().max():.1f}")

# %% A cache taken inside `bridge.hooks` holds what is left after erasure: here, of the type of each token.
names = [name for name, _ in hooks[::4]]
with torch.no_grad():
    _, before = bridge.run_with_cache(train.input_ids, names_filter=names)
    with bridge.hooks(fwd_hooks=hooks):
        _, after = bridge.run_with_cache(train.input_ids, names_filter=names)


def read_type(activations: torch.Tensor) -> float:
    """How often a linear probe that was fitted on these very tokens is right."""
    x, y = activations[:, 1:].flatten(0, 1).numpy(), train.lexical_type[:, 1:].flatten().numpy()
    return RidgeClassifier().fit(x, y).score(x, y)


commonest = train.lexical_type[:, 1:].flatten().bincount().max() / train.lexical_type[:, 1:].numel()
print(f"\n{'type read at':22} {'before':>6} {'after':>6}   (always the commonest: {commonest:.3f})")
for name in names:
    print(f"{name:22} {read_type(before[name]):6.3f} {read_type(after[name]):6.3f}")
