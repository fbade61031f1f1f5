"""What the estimators have in common: where the concept comes from, what is dropped, how batches are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from efface._errors import InputError
from efface._text import shown
from efface._validate import to_tensor
from efface.core.arrays import countable, shared
from efface.core.column_names import check_same_rows
from efface.core.labels import Column
from efface.core.row_labels import Labels
from efface.estimators.columns import column_at, columns_named, each_of, is_table, read_columns, readable
from efface.estimators.concept import ConceptEncoder
from efface.estimators.inputs import of_length, position, too_many, weighted
from efface.estimators.ranges import column_edits, joint_range, tell_of_ranges

_FLOATS = (np.float64, np.float32)
# scikit-learn has no annotations, and pyright infers too narrow ones from its defaults.
_check_array: Any = check_array
_validate_data: Any = validate_data


@dataclass(kw_only=True, eq=False, repr=False)
class EraserTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of the estimators: gathers the concept, feeds a fitter, keeps names and dtypes.

    Its fields are its parameters, as scikit-learn wants them: an argument of the initialiser each, kept as it is.
    Subclasses say which fitter (`_make_fitter`), whether it needs classes (`_classes_only`), and whether it takes
    one class a row (`_one_class_a_row`), so that of several columns the combinations are its classes.

    After `fit`, `edit_` is the share of its variance by which each feature was changed, `(d,)`; `ranges_` is the least
    and the greatest value of each, `(2, d)`, and `transform` warns where it takes values out of them.
    """

    # Asked for by default, so that a Pipeline under metadata routing passes the column on without more ado.
    __metadata_request__fit = {"sensitive_features": True}
    __metadata_request__partial_fit = {"sensitive_features": True}

    _classes_only = False
    _one_class_a_row = False

    sensitive_columns: Sequence[str | int] | str | int | None = None
    keep_sensitive: bool = False
    concept: str | None = None
    kind: str | Mapping[str, str] = "auto"
    n_features_in_: int = field(init=False)

    def _make_fitter(self, x_dim: int, z_dim: int, dtype: Any) -> Any:
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- fitting

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Self:
        """Learn to erase the concept from X.

        Args:
            X: `(n, d)` features: array, pandas or polars table.
            y: `(n,)` target. Left alone, unless `concept="y"`.
            sensitive_features: `(n,)` or `(n, m)` concept: strings, categories, booleans and integers are
                classes, floats are quantities; several columns are erased jointly.
            sample_weight: `(n,)` frequencies, not negative: a row of weight 2 counts as two rows.

        Raises:
            InputError: If no concept is given, or it cannot be used.
        """
        self._forget()
        features, z, weight = self._take(X, y, sensitive_features, sample_weight, classes=None, at_least=2)
        # Solve now, so that errors and warnings come from fit and not from transform.
        erased = self._erase(features, z) if self.eraser_.takes_labels else self._erase(features)
        self.edit_ = column_edits(features, erased, weight)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sensitive_features: Any = None,
        sample_weight: Any = None,
        classes: Any = None,
    ) -> Self:
        """Learn from one batch of a stream; `fit` on all of it at once gives the same eraser.

        Args:
            X: `(n, d)` features.
            y: `(n,)` target. Left alone, unless `concept="y"`.
            sensitive_features: `(n,)` or `(n, m)` concept, as in `fit`.
            sample_weight: `(n,)` frequencies.
            classes: In the first call, all classes of the concept: a list; for several columns a mapping
                from column name to a list, or one list a column. By default those of the first batch.

        Raises:
            InputError: If a batch brings a new class; the statistics are then as before the call.
        """
        self._take(X, y, sensitive_features, sample_weight, classes=classes, at_least=1)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Any:
        """Fit on X and give back X with the concept erased; arguments as `fit`."""
        self.fit(X, y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        return self.transform(X)  # pyright: ignore[reportAttributeAccessIssue]

    def _forget(self) -> None:
        for name in ("fitter_", "encoder_", "sensitive_indices_", "edit_", "ranges_"):
            self.__dict__.pop(name, None)

    def _take(
        self, X: Any, y: Any, sensitive: Any, sample_weight: Any, *, classes: Any, at_least: int
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Learn from a batch; gives its features, labels as the eraser takes them, and weights."""
        first = not hasattr(self, "fitter_")
        check_same_rows(X=X, y=y, sensitive_features=sensitive, sample_weight=sample_weight)
        features, inside = self._split(X, reset=first, at_least=at_least)
        columns = self._concept_columns(y, sensitive, inside, len(features))
        features, columns, weight = weighted(features, columns, sample_weight, at_least=at_least)
        if first:
            encoder = self._make_encoder(columns, classes, weight)
            fitter = self._make_fitter(features.shape[1], encoder.width, shared(features[:0]).dtype)
            fitter.columns = self._names_kept()
        else:
            encoder, fitter = self.encoder_, self.fitter_
        z = shared(encoder.encode(columns, learning=True))
        fitter.update(to_tensor(features, "X"), Labels("z", encoder.kind, z), weight=weight)
        encoder.remember(columns)
        self.encoder_, self.fitter_ = encoder, fitter
        self.ranges_ = joint_range(features, None if first else self.ranges_)
        return features, z.numpy(), weight

    def _make_encoder(self, columns: list[Column], classes: Any, weight: Any) -> ConceptEncoder:
        return ConceptEncoder(
            columns,
            kind=self.kind,
            classes=classes,
            n_bins=getattr(self, "n_bins", None),
            weight=weight,
            classes_only=self._classes_only,
            joint=self._one_class_a_row,
        )

    # ------------------------------------------------------------------------- where the concept is

    def _concept_columns(self, y: Any, sensitive: Any, inside: list[Column] | None, n: int) -> list[Column]:
        """The columns to erase, from the one place they are given in."""
        if self.concept not in (None, "y"):
            raise InputError(f"concept must be None or 'y', got {shown(self.concept)}")
        places = {"sensitive_columns": inside is not None, "concept='y'": self.concept == "y"}
        places["sensitive_features"] = sensitive is not None
        given = [place for place, here in places.items() if here]
        if len(given) != 1:
            raise InputError(self._no_concept() if not given else too_many(given))
        if inside is not None:
            return inside
        if self.concept == "y" and y is None:
            # scikit-learn's own words, which its checks look for.
            raise InputError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        name = "y" if self.concept == "y" else "sensitive_features"
        return of_length(read_columns(y if name == "y" else sensitive, name), n)

    def _no_concept(self) -> str:
        name = type(self).__name__
        return (
            f"{name} was given no concept to erase. Say what it is in one of three ways: "
            "fit(X, sensitive_features=s), in a Pipeline after sklearn.set_config(enable_metadata_routing=True) "
            "as pipeline.fit(X, y, sensitive_features=s) or "
            "cross_validate(..., params={'sensitive_features': s}); "
            f"or {name}(sensitive_columns=['sex']) if the concept is a column of X; "
            f"or {name}(concept='y') if the concept is y itself, which is never erased unasked"
        )

    def _split(
        self, X: Any, *, reset: bool, at_least: int = 1, labelled: bool | None = None
    ) -> tuple[NDArray[Any], list[Column] | None]:
        """Features to edit `(n, d)`, and the sensitive columns if they are columns of X.

        When it is applied (`labelled` says whether the concept is needed for that) they may be missing from a table, or
        not filled in, as they often are at prediction time.
        """
        X = readable(X)
        if labelled is not None and (rest := self._without_sensitive(X)) is not None:
            with columns_named(rest):
                return _check_array(rest, dtype=_FLOATS, estimator=self, input_name="X"), None
        if self.sensitive_columns is None:
            with columns_named(X):
                return _validate_data(self, X, reset=reset, dtype=_FLOATS, ensure_min_samples=at_least), None
        table = X if is_table(X) else _check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
        _validate_data(self, X if is_table(X) else table, reset=reset, skip_check_array=True)
        if reset:
            self.sensitive_indices_ = self._find_sensitive(table.shape[1])
        rest = column_at(table, self._kept().tolist())
        with columns_named(rest):
            features = _check_array(rest, dtype=_FLOATS, estimator=self, input_name="X", ensure_min_samples=at_least)
        if labelled is False and is_table(X):
            return features, None
        names = getattr(self, "feature_names_in_", [f"[:, {i}]" for i in range(table.shape[1])])
        inside = [(column_at(table, int(i)), f"X column {names[i]!s}") for i in self.sensitive_indices_]
        return features, [column for (column,) in each_of(partial(read_columns, *each) for each in inside)]

    def _without_sensitive(self, X: Any) -> Any:
        """The features of a table that lacks sensitive columns, and nothing else; None of any other X."""
        fitted = [str(name) for name in getattr(self, "feature_names_in_", ())]
        if self.sensitive_columns is None or not fitted or not is_table(X):
            return None
        given, kept = [str(name) for name in X.columns], [fitted[i] for i in self._kept()]
        places = [i for i, name in enumerate(given) if name in kept or name not in fitted]
        lacks = given != fitted and [given[i] for i in places] == kept
        return column_at(X, places) if lacks else None

    def _kept(self) -> NDArray[np.int64]:
        """Positions of the columns that are not sensitive."""
        dropped = getattr(self, "sensitive_indices_", [])
        return np.setdiff1d(np.arange(self.n_features_in_), dropped).astype(np.int64)

    def _names_kept(self) -> tuple[str, ...]:
        """Names of the columns that are not sensitive; none if X had none."""
        names = getattr(self, "feature_names_in_", None)
        return () if names is None else tuple(map(str, names[self._kept()]))

    def _find_sensitive(self, width: int) -> NDArray[np.int64]:
        wanted = self.sensitive_columns
        wanted = [wanted] if isinstance(wanted, (str, int)) else list(countable(wanted) or ())
        names = [str(n) for n in getattr(self, "feature_names_in_", ())]
        found = np.unique(each_of(partial(position, w, names, width) for w in wanted)).astype(np.int64)
        if not wanted:
            raise InputError("sensitive_columns is empty: name at least one column, or leave it out")
        if len(found) == width:
            raise InputError(
                f"X has {width} feature(s), all of them sensitive (n_features = {width}): nothing is left to keep"
            )
        return found

    # --------------------------------------------------------------------------------------- applying

    def _apply(self, X: Any, sensitive: Any = None, *, labelled: bool) -> NDArray[Any]:
        """Erase from X, with labels if the method needs them."""
        check_is_fitted(self)
        check_same_rows(X=X, sensitive_features=sensitive)
        features, inside = self._split(X, reset=False, labelled=labelled)
        z = [self.encoder_.encode(self._labels(sensitive, inside, len(features)))] if labelled else []
        erased = self._erase(features, *z)
        tell_of_ranges(features, erased, self.ranges_, self._names_kept() or [str(i) for i in self._kept()])
        return self._with_sensitive(X, erased)

    def _erase(self, features: NDArray[Any], *z: NDArray[Any]) -> NDArray[Any]:
        # As a tensor: names have been compared, by scikit-learn.
        return self.eraser_(to_tensor(features, "X"), *z).numpy()

    def _labels(self, sensitive: Any, inside: list[Column] | None, n: int) -> list[Column]:
        if inside is not None and sensitive is not None:
            raise InputError(too_many(["sensitive_columns", "sensitive_features"]))
        if inside is not None:
            return inside
        if sensitive is None:
            raise InputError(
                f"{type(self).__name__} needs the concept when it transforms, too: write "
                "transform(X, sensitive_features=s), or use LeaceTransformer, which needs it in fit alone"
            )
        return of_length(read_columns(sensitive, "sensitive_features"), n)

    def _with_sensitive(self, X: Any, erased: NDArray[Any]) -> NDArray[Any]:
        if self.sensitive_columns is None or not self.keep_sensitive:
            return erased
        if self._without_sensitive(X) is not None:
            raise InputError(
                "keep_sensitive=True and X lacks sensitive columns: give them, or leave keep_sensitive out"
            )
        try:
            out = _check_array(X, dtype=erased.dtype, copy=True)
        except (TypeError, ValueError) as error:
            raise InputError(f"keep_sensitive=True needs numbers in the sensitive columns: {error}") from error
        out[:, self._kept()] = erased
        return out

    # ---------------------------------------------------------------------------------------- reading

    @property
    def eraser_(self) -> Any:
        """The fitted eraser, a value of `efface.erasers`."""
        check_is_fitted(self)
        return self.fitter_.eraser

    @property
    def report_(self) -> Any:
        """What the fit found and did, as plain data."""
        return self.eraser_.report

    @property
    def rank_(self) -> int:
        """Rank of the edit: how many directions it takes out."""
        return self.report_.rank

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the columns of the output: those of the input, without the sensitive ones if dropped."""
        names: Any = super().get_feature_names_out(countable(input_features))
        return names if self.keep_sensitive else names[self._kept()]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fitter_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.concept == "y"
        tags.input_tags.sparse = True
        tags.input_tags.string = self.sensitive_columns is not None
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class UnlabelledTransformer(EraserTransformer):
    """Base of the estimators whose eraser needs X alone once it is fitted."""

    def transform(self, X: Any) -> Any:
        """X with the concept erased.

        Args:
            X: `(n, d)` features, as in `fit`; a table may lack the `sensitive_columns`.

        Raises:
            InputError: If a value is missing or the width is another.
        """
        return self._apply(X, labelled=False)


class LabelledTransformer(EraserTransformer):
    """Base of the estimators whose eraser needs the concept of each row that it edits."""

    __metadata_request__transform = {"sensitive_features": True}

    def transform(self, X: Any, *, sensitive_features: Any = None) -> Any:
        """X with the concept erased.

        Args:
            X: `(n, d)` features, as in `fit`.
            sensitive_features: `(n,)` or `(n, m)` concept of these rows (of the labels y if `concept="y"`);
                not wanted if it is in columns of X.

        Raises:
            InputError: If the concept is not given, or has a class never seen in `fit`.
        """
        return self._apply(X, sensitive_features, labelled=True)

    def fit_transform(self, X: Any, y: Any = None, *, sensitive_features: Any = None, sample_weight: Any = None) -> Any:
        """Fit on X and give back X with the concept erased; arguments as `fit`."""
        self.fit(X, y, sensitive_features=sensitive_features, sample_weight=sample_weight)
        return self.transform(X, sensitive_features=y if self.concept == "y" else sensitive_features)
