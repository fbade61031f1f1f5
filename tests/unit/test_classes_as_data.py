"""A class in the place of one of its instances: it has their attributes by name, and none of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

import efface
from efface import InputError, LeaceEraser, LeaceFitter, OracleEraser, QuadraticEraser
from efface.audit.remembrance import Ledger
from efface.core.doors import is_applied
from efface.estimators import LeaceTransformer
from efface.scrubbing.batches import Batches

CLASSES = (
    *(np.float32, np.ndarray, pd.DataFrame, pd.Series, pl.DataFrame, pl.Series, pl.LazyFrame, pa.Table, pa.Array),
    *(torch.Tensor, scipy.sparse.csr_matrix, list, dict, int, torch.utils.data.DataLoader),
)
X, Z = torch.arange(24.0).reshape(6, 4) ** 2, torch.arange(6) % 3
IDS = {"input_ids": torch.ones(6, 3, dtype=torch.long)}
ORACLE, QUADRATIC, LEACE = OracleEraser.fit(X, Z), QuadraticEraser.fit(X, Z), LeaceEraser.fit(X, Z)
FITTED = LeaceTransformer(concept="y").fit(X, Z)

TAKEN: dict[str, Callable[[Any], Any]] = {
    "rows": lambda kind: LEACE(kind),
    "labels of an oracle": lambda kind: ORACLE(X, kind),
    "labels of an array": lambda kind: ORACLE(X.numpy(), kind),
    "labels of a quadratic eraser": lambda kind: QUADRATIC(X, kind),
    "rows of a fit": lambda kind: LeaceEraser.fit(kind, Z),
    "labels of a fit": lambda kind: LeaceEraser.fit(X, kind),
    "rows of a part": lambda kind: LeaceFitter(4, 3).update(kind, Z),
    "labels of a part": lambda kind: LeaceFitter(4, 3).update(X, kind),
    "rows of an audit": lambda kind: efface.audit.rows(kind, Z),
    "labels of an audit": lambda kind: efface.audit.rows(X, kind),
    "X of an estimator": lambda kind: LeaceTransformer(concept="y").fit(kind, Z),
    "y of an estimator": lambda kind: LeaceTransformer(concept="y").fit(X, kind),
    "X that is transformed": lambda kind: FITTED.transform(kind),
    "groups": lambda kind: efface.groupby(X, kind),
    "batches": lambda kind: Batches(kind, Z),
    "a column of batches": lambda kind: Batches({"input_ids": kind}, Z).__iter__().__next__(),
    "labels of batches": lambda kind: Batches(IDS, kind),
    "a ledger": lambda kind: Ledger.of_table(kind),
}


@pytest.mark.parametrize("call", TAKEN.values(), ids=TAKEN)
def test_a_class_is_no_data(call: Callable[[Any], Any]) -> None:
    for kind in CLASSES:
        with pytest.raises(InputError, match=f"the class {kind.__name__} itself"):
            call(kind)


def test_a_class_is_no_function() -> None:
    assert is_applied(LEACE) and is_applied(torch.zeros_like)
    assert not is_applied(LeaceEraser) and not is_applied(3)
