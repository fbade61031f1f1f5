"""Erase a sensitive attribute inside a scikit-learn pipeline, with cross-validation.

The diabetes table of scikit-learn: ten measurements of 442 patients, and how far the disease went in a year.
One of the columns is the sex of the patient. Dropping that column is not enough: the others tell it, too.
Here it is erased from them inside a Pipeline, so that each fold learns the erasure from its own training rows.

    python examples/01_tables/pipeline_with_routing.py
"""

# %% The table: features, the sensitive column, the target.
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from efface.estimators import LeaceTransformer

table: Any = load_diabetes(scaled=False, as_frame=True)
sex = table.data["sex"].map({1.0: "one", 2.0: "two"}).rename("sex")
X = table.data.drop(columns="sex")
y = table.target

# %% Routing: whoever asks for `sensitive_features` gets it. LeaceTransformer asks by default, Ridge does not.
sklearn.set_config(enable_metadata_routing=True)


# %% The same folds for both; inside each, scaling, erasure and regression are fitted on the training rows.
def score(model: Any, target: pd.Series, *, erase: bool) -> np.ndarray:
    eraser = [LeaceTransformer()] if erase else []
    params = {"sensitive_features": sex} if erase else None
    return cross_validate(make_pipeline(StandardScaler(), *eraser, model), X, target, cv=10, params=params)[
        "test_score"
    ]


def show(values: np.ndarray) -> str:
    return f"{values.mean():.3f} +- {values.std(ddof=1) / len(values) ** 0.5:.3f}"


# %% The task, and how well sex is read from the features that the regression sees, before and after.
models = {
    "disease explained (R2)": (Ridge(), y),
    "sex read by logistic regression": (LogisticRegression(), sex),
    "sex read by random forest": (RandomForestClassifier(100, random_state=0), sex),
}
rows = {
    name: {when: show(score(model, target, erase=when == "after")) for when in ("before", "after")}
    for name, (model, target) in models.items()
}
print("mean and standard error over ten folds")
print(pd.DataFrame(rows).T.to_string())
print(f"always answering the larger group: {sex.value_counts(normalize=True).max():.3f}")

# %% What the erasure did, on all rows.
leace = LeaceTransformer().fit(StandardScaler().fit_transform(X), sensitive_features=sex)
report = leace.report_
print(f"\n{report.rank} direction taken out of {X.shape[1]}, {report.edit:.1%} of the variance;", end=" ")
print(f"largest correlation with sex left: {report.residual:.0e}")
print("A linear model cannot use sex any more. A forest still reads it in part: LEACE erases linear traces only.")
