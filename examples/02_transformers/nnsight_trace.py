"""Trace and patch a scrubbed model with nnsight: which of the erasures costs the most?

A small Llama of Python source has to know what sort of token comes next: a name, an operator, a newline. That is erased
at every norm. Inside a trace of the scrubbed model, one norm at a time gets back what it gives in the plain model, and
the loss tells how much of the damage was done there.

    pip install 'efface[adapters,worlds]'
    python examples/02_transformers/nnsight_trace.py
"""

# %% A model, a scrubber fitted on what it was trained on, and files that neither has seen.
from nnsight import NNsight
from torch import Tensor
from torch.nn.functional import cross_entropy

import efface
from efface.scrubbing.adapters import nnsight_edited
from efface_worlds.tokens import load_token_model, make_tokens

model = load_token_model("llama").requires_grad_(False)
train = make_tokens("train", length=128, sequences=32, max_files=40)
tokens = make_tokens("heldout", length=64, sequences=16, max_files=10).input_ids
scrubber = efface.scrub(model, train.input_ids, train.lexical_type, sites="norms")

# %% The plain model and the scrubbed one share their weights. (`with scrubber.on(model):` around a trace works as well,
# but then nnsight shows, and takes, the activation at a site before it is erased.)
plain = NNsight(model)
scrubbed = nnsight_edited(scrubber, plain)


def loss(logits: Tensor) -> float:
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()


# %% What every norm gives in the plain model, and the two losses.
activations: dict[str, Tensor] = {}
with plain.trace(input_ids=tokens):
    for site in scrubber.sites:
        activations[site.path] = plain.get(site.path).output.save()
    logits = plain.output.logits.save()
before = loss(logits)

with scrubbed.trace(input_ids=tokens):
    logits = scrubbed.output.logits.save()
after = loss(logits)

with scrubber.on(model):
    difference = (model(input_ids=tokens).logits - logits).abs().max()
print(f"nats a token: {before:.3f} plain, {after:.3f} scrubbed")
print(f"largest difference of the logits to those under `with scrubber.on(model):`: {difference:.0e}\n")

# %% Put one back at a time (not the last, from which the logits are read).
for site in scrubber.sites[:-1]:
    with scrubbed.trace(input_ids=tokens):
        scrubbed.get(site.path).output = activations[site.path]
        logits = scrubbed.output.logits.save()
    share = (after - loss(logits)) / (after - before)
    print(f"{share:6.1%} of the damage is undone by {site}")
