"""Control tasks: labels that only somebody who knows the words by heart can read (Hewitt and Liang, arXiv:1909.03368).

A probe that reads them as well as the real labels has learnt which word it sees, not what the model knows of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface.audit.vectors.labels import Labels
from efface.core.arrays import read_array
from efface.core.doors import check_call
from efface.core.labels import on_host

_FEW = 2


def control_labels(items: ArrayLike, labels: Labels, *, seed: int = 0) -> Labels:
    """A random label for each kind of item, drawn from the distribution of the real ones (their section 2).

    Args:
        items: What each row is a token of, `(n,)`, e.g. token ids or words.
        labels: The real labels of the rows; classes.
        seed: Seed of the draw.

    Returns:
        Labels `(n,)`; rows of one item have one label. Classes that were not drawn are left out.

    Raises:
        InputError: If `items` are not one a row, or all rows get the same label.

    Does not guarantee: that the shares of the rows are those of the real labels; of few kinds of items, the draw of
    the common ones decides. The control task has its own chance level.

    >>> z = Labels.of([0, 1, 0, 1, 0, 1], "z")
    >>> control_labels(["a", "b", "c", "a", "b", "c"], z, seed=1).values
    array([1, 1, 0, 1, 1, 0])
    """
    check_call(control_labels, locals())
    kinds, codes = np.unique(on_host(read_array(items, "control").values), return_inverse=True)
    if codes.shape != (len(labels),):
        raise InputError(f"control has shape {codes.shape}: give one item for each of the {len(labels)} rows of z")
    shares = np.bincount(labels.values) / len(labels)
    drawn: NDArray[np.int64] = np.random.default_rng(seed).choice(len(shares), size=len(kinds), p=shares)[codes]
    if len(np.unique(drawn)) < _FEW:
        raise InputError(
            f"control has {len(kinds)} kind(s) of item, and all were given the same random label: "
            "give the word or token that each row stands for, or another seed"
        )
    return Labels.of(drawn, "control task")
