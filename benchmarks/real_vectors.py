"""Gender in GloVe 6B 50d, before and after erasure: what is left, and what went with it.

    python -m benchmarks.real_vectors biased      # fitted on 10,500 words nearest to he or she
    python -m benchmarks.real_vectors defining    # fitted on half of 163 pairs that say a gender by their meaning
    python -m benchmarks.real_vectors both        # one projection for an eraser of each

Four tables. *Leak*: fresh probes on words that the erasers have not seen, of both kinds. *Associations*: WEAT. *What
Gonen and Goldberg ask* (arXiv:1903.03862): are words that were biased still together, by clusters, by an RBF-SVM, by
the neighbours of jobs? *Kept*: neighbours, analogies, similarities. Wants efface-worlds[vectors] and efface[sklearn].
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

warnings.filterwarnings("ignore")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

import efface.audit
from benchmarks._debiasing import Classes, Edit, Floats, by_efface, contestants, hard, joined, random_projection
from benchmarks._measure import cell, table
from efface.audit.vectors import association
from efface.stats.intervals import Interval, bootstrap_interval, percentile_interval, wilson_interval
from efface_worlds.real import WordVectors, load_analogies, load_glove, load_similarities
from efface_worlds.real.words import DEFINING, PROFESSIONS, WEAT, split_pairs

FREQUENT, SEARCHED = 150_000, 50_000
PER_CLASS, TEST = 7_500, 0.3
CLUSTERED, SVM_TRAIN = 500, 1_000
NEAR, JOB_NEIGHBOURS, ASKED = 10, 100, 2_000
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Words:
    """Words to fit on and words to ask, male 0 and female 1.

    Attributes:
        lean: How far each of those asked leans to he: its cosine with he - she.
        pair: Which pair each of those asked is of; a probe that knows king would read queen wrong.
    """

    fit: tuple[Floats, Classes]
    ask: tuple[Floats, Classes]
    lean: NDArray[np.float64]
    pair: Classes | None = None


class Space:
    """GloVe, its gender direction, and the words of the measures."""

    def __init__(self, seed: int) -> None:
        self.glove = load_glove()
        he, she = self.glove.of(["he", "she"])
        self.direction = (he - she) / np.linalg.norm(he - she)
        self.defining = (self.glove.of([he for he, _ in DEFINING]), self.glove.of([she for _, she in DEFINING]))
        self.searched = self.glove.first(SEARCHED)
        self.seed = seed

    def lean(self, rows: Floats) -> NDArray[np.float64]:
        """Cosines of rows with he - she."""
        return rows @ self.direction / np.linalg.norm(rows, axis=1)

    @cached_property
    def biased(self) -> Words:
        """The words of INLP's experiment: of the frequent ones, those of letters alone that lean most to he or she."""
        first = self.glove.first(FREQUENT)
        plain = [i for i, word in enumerate(first.words) if len(word) < 20 and word.isalpha() and word.isascii()]
        rows = np.array(first.vectors[plain])
        order = np.argsort(-self.lean(rows), kind="stable")
        x = rows[np.concatenate([order[:PER_CLASS], order[-PER_CLASS:]])]
        z = np.repeat([0, 1], PER_CLASS)
        drawn = np.random.default_rng(self.seed).permutation(len(x))
        cut = round(TEST * len(x))
        ask, fit = drawn[:cut], drawn[cut:]
        return Words((x[fit], z[fit]), (x[ask], z[ask]), self.lean(x[ask]))

    @cached_property
    def meant(self) -> Words:
        """Pairs that say a gender by their meaning; half to fit on."""
        fit, ask = (self._of_pairs(pairs) for pairs in split_pairs(seed=self.seed))
        return Words(fit, ask, self.lean(ask[0]), np.arange(len(ask[1])) // 2)

    @property
    def kinds(self) -> list[Words]:
        """Both kinds of words."""
        return [self.biased, self.meant]

    def _of_pairs(self, pairs: tuple[tuple[str, str], ...]) -> tuple[Floats, Classes]:
        return self.glove.of([word for pair in pairs for word in pair]), np.tile([0, 1], len(pairs))


def leak(space: Space, edits: Mapping[str, Edit]) -> None:
    header = ["eraser", "biased: linear", "biased: MLP", "by meaning: linear", "by meaning: MLP"]
    rows = []
    for name, edit in edits.items():
        found = [_probed(words, edit, space.seed) for words in space.kinds]
        rows.append([name, *(text for pair in found for text in pair)])
    sizes = [len(words.ask[1]) for words in space.kinds]
    table(f"Leak: accuracy of fresh probes on words not fitted on (n = {sizes[0]:,} and {sizes[1]}), %", header, rows)


def halves(space: Space, edits: Mapping[str, Edit]) -> None:
    """The pairs by meaning in other halves: how much hangs on which words an eraser has seen. Not fitted as `edits`."""
    rows = []
    for seed in range(space.seed + 1, space.seed + 6):
        words = Space(seed).meant
        fitted = {"none": edits["none"], "hard": hard(*space.defining)}
        fitted |= {name: by_efface(name, *words.fit) for name in ("orth", "leace")}
        rows.append([seed, *(_probed(words, edit, seed, ("linear",))[0] for edit in fitted.values())])
    table("By meaning, linear probes, other halves of the pairs, %", ["seed", "none", "hard", "orth", "LEACE"], rows)


def _probed(words: Words, edit: Edit, seed: int, probes: tuple[str, ...] = ("linear", "mlp")) -> list[str]:
    def erase(rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor(edit(rows.numpy()))

    audit = efface.audit.rows(*words.ask, erase, groups=words.pair, probes=probes, seed=seed)
    said = {"linear": "linear probe", "mlp": "MLP probe"}
    return [cell(audit.find(said[probe], "accuracy", "after")) for probe in probes]


def associations(space: Space, edits: Mapping[str, Edit]) -> None:
    rows = []
    for name, edit in edits.items():
        row = [name]
        for test in WEAT:
            lists = (edit(space.glove.of(words)) for words in (*test.targets, *test.attributes))
            found = association(*lists, seed=space.seed)
            row.append(f"{_shown(found.effect, 1, 2)}, {_p(found.p)}")
        rows.append(row)
    table("Associations: WEAT's effect size [interval], p", ["eraser", *(test.name for test in WEAT)], rows)


def together(space: Space, edits: Mapping[str, Edit]) -> None:
    (x, z), lean = space.biased.ask, space.biased.lean
    order = np.argsort(-lean)
    most = np.concatenate([order[:CLUSTERED], order[-CLUSTERED:]])
    jobs = space.glove.of(PROFESSIONS)
    rows = []
    for name, edit in edits.items():
        clusters = _clustered(edit(x[most]), z[most], space.seed)
        svm = _svm(edit(x), z, space.seed)
        row = [name, _shown(clusters), _shown(svm), _shown(_jobs(space, edit, jobs), 1, 2)]
        rows.append(row)
    header = ["eraser", f"k-means, {2 * CLUSTERED} most biased, %", f"RBF-SVM, {len(x) - SVM_TRAIN:,} words, %"]
    header += [f"jobs (n = {len(jobs)}): r of lean before and share of neighbours that lean to he"]
    table("What Gonen and Goldberg ask, of words not fitted on", header, rows)


def _clustered(rows: Floats, z: Classes, seed: int) -> Interval:
    """Share of words in the cluster of their class, whichever of the two that is: never under half."""
    from sklearn.cluster import KMeans

    options: dict[str, Any] = {"n_init": 10, "random_state": seed}  # the stubs know of no number
    found = KMeans(2, **options).fit_predict(rows)
    hits = int((found == z).sum())
    return wilson_interval(max(hits, len(z) - hits), len(z))


def _svm(rows: Floats, z: Classes, seed: int) -> Interval:
    from sklearn.svm import SVC

    model = SVC(kernel="rbf", random_state=seed).fit(rows[:SVM_TRAIN], z[:SVM_TRAIN])
    hits = int((model.predict(rows[SVM_TRAIN:]) == z[SVM_TRAIN:]).sum())
    return wilson_interval(hits, len(z) - SVM_TRAIN)


def _jobs(space: Space, edit: Edit, jobs: Floats) -> Interval:
    lean = space.lean(np.array(space.searched.vectors)) > 0
    near = _nearest(_units(edit(np.array(space.searched.vectors))), _units(edit(jobs)), JOB_NEIGHBOURS + 1)[:, 1:]
    return _correlated(space.lean(jobs), lean[near].mean(axis=1), lambda a, b: float(np.corrcoef(a, b)[0, 1]))


def kept(space: Space, edits: Mapping[str, Edit]) -> None:
    vocabulary = np.array(space.searched.vectors)
    asked = np.random.default_rng(space.seed).choice(SEARCHED, ASKED, replace=False)
    before = _nearest(_units(vocabulary), _units(vocabulary[asked]), NEAR + 1, but=asked)
    questions, family = _questions(space.searched)
    judged = {name: _judged(space.glove, name) for name in ("simlex999", "wordsim353")}
    rows = []
    for name, edit in edits.items():
        units = _units(edit(vocabulary))
        near = _nearest(units, units[asked], NEAR + 1, but=asked)
        overlap = np.array([len(set(a) & set(b)) / NEAR for a, b in zip(before, near, strict=True)])
        right = _answered(units, questions)
        row = [name, _shown(bootstrap_interval(overlap))]
        row += [_shown(wilson_interval(int(right[part].sum()), int(part.sum()))) for part in (~family, family)]
        for pairs, scores in judged.values():
            first, second = (_units(edit(pairs[:, side])) for side in (0, 1))
            row.append(_shown(_correlated((first * second).sum(axis=1), scores, _rank_correlation), 1, 3))
        rows.append(row)
    header = ["eraser", f"neighbours kept, of {NEAR} (n = {ASKED:,}), %"]
    header += [f"analogies (n = {int((~family).sum()):,}), %", f"of family (n = {int(family.sum())}), %"]
    header += [f"{name} (n = {len(scores)}): Spearman" for name, (_, scores) in judged.items()]
    table(f"Kept, among the {SEARCHED:,} most frequent words", header, rows)


def _questions(words: WordVectors) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Analogies of known words, and which of them are about family, where the answer is a gender."""
    found = load_analogies()
    known = [i for i, four in enumerate(found.words) if all(word in words for word in four)]
    return np.array([words.find(found.words[i]) for i in known]), np.array(
        [found.section[i] == "family" for i in known]
    )


def _answered(units: Floats, questions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """3CosAdd: is d the word nearest to b - a + c, those three left out?"""
    right = []
    for part in np.array_split(questions, max(1, len(questions) // 500)):
        a, b, c = (units[part[:, i]] for i in range(3))
        cosines = (b - a + c) @ units.T
        for i in range(3):
            cosines[np.arange(len(part)), part[:, i]] = -np.inf
        right.append(cosines.argmax(axis=1) == part[:, 3])
    return np.concatenate(right)


def _judged(words: WordVectors, name: str) -> tuple[Floats, NDArray[np.float64]]:
    pairs, scores = load_similarities(name)
    known = [i for i, (a, b) in enumerate(pairs) if a in words and b in words]
    return np.stack([words.of(pairs[i]) for i in known]), scores[known]


def _units(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _nearest(units: Floats, asked: Floats, k: int, but: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Places of the nearest, nearest first; `k - 1` where each asked word is left out, by its place in `but`."""
    found = []
    for start in range(0, len(asked), 500):
        cosines = asked[start : start + 500] @ units.T
        if but is not None:
            cosines[np.arange(len(cosines)), but[start : start + 500]] = -np.inf
        taken = np.argpartition(-cosines, k, axis=1)[:, :k]
        ranked = np.argsort(-np.take_along_axis(cosines, taken, axis=1), axis=1)
        found.append(np.take_along_axis(taken, ranked, axis=1))
    near = np.concatenate(found)
    return near if but is None else near[:, : k - 1]


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _correlated(
    a: NDArray[np.float64], b: NDArray[np.float64], measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
) -> Interval:
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(a), len(a)) for _ in range(_RESAMPLES))
    return percentile_interval(measure(a, b), [measure(a[at], b[at]) for at in drawn], "bootstrap over words")


def _shown(interval: Interval, scale: float = 100, digits: int = 1) -> str:
    low, value, high = (f"{scale * end:.{digits}f}" for end in (interval.low, interval.value, interval.high))
    return f"{value} [{low}, {high}]"


def _p(p: float) -> str:
    return f"{p:.3f}" if 0.001 <= p <= 0.999 else "< .001" if p < 0.5 else "> .999"


AFTER = {"associations": associations, "together": together, "kept": kept}
MEASURES = {"leak": leak, "halves": halves, **AFTER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fit", choices=["biased", "defining", "both"], help="words that the erasers are fitted on")
    parser.add_argument(
        "--measures", nargs="+", choices=list(MEASURES), default=[name for name in MEASURES if name != "halves"]
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    space = Space(args.seed)
    fits = [words.fit for words in {"biased": [space.biased], "defining": [space.meant]}.get(args.fit, space.kinds)]
    print(f"fitted on {sum(len(z) for _, z in fits):,} words ({args.fit}), seed {args.seed}", flush=True)
    if args.fit == "both":
        random = random_projection(len(space.direction), len(fits), args.seed)
        edits: Mapping[str, Edit] = {"none": lambda rows: rows, "random, rank 2": random}
        edits = {**edits, **{f"{name} & {name}": joined(name, *fits) for name in ("orth", "leace")}}
    else:
        edits = contestants(*fits[0], space.defining, args.seed)
    for name in args.measures:
        MEASURES[name](space, edits)


if __name__ == "__main__":
    main()
