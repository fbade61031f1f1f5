"""QLEACE: equal means *and* covariances of all classes, by optimal transport to their barycenter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface._errors import EffaceWarning, InputError, NotFittedError, NothingErasedWarning
from efface._validate import check_device, check_positive_int
from efface.core.column_names import check_same_rows
from efface.core.config import Config, option
from efface.core.labels import Kind, check_kind
from efface.core.method import Method, register
from efface.core.row_labels import Labels
from efface.erasers.base import Eraser, Report, check_shapes
from efface.erasers.fitter import Fitter, fit_of
from efface.erasers.lowrank import check_width, no_autocast
from efface.linalg.shrinkage import shrunk_in_units
from efface.linalg.transport import ot_barycenter, ot_map, ot_midpoint
from efface.moments.classwise import ClassMoments, as_labels, check_label
from efface.moments.grouping import groupby

_ROUNDING = 1e-8
"""An edit of less than this many standard deviations is rounding."""

_INCOMPLETE = 1e-2
"""A covariance that misses the barycenter by more than this, relatively, is not erased."""


@dataclass(frozen=True, kw_only=True)
class QuadraticConfig(Config):
    """Options of QLEACE; see `QuadraticFitter`."""

    shrinkage: bool = option(True, "shrink each class's covariance: tames classes with few rows")
    kind: Literal["auto", "categorical"] = option("auto", "categorical takes whole floats for classes, too")


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticEraser(Eraser):
    """`r(x, z) = T_z (x - mu_z) + mu`: each class is moved to the Wasserstein barycenter of all classes.

    Attributes:
        class_means: mu_z `(k, d)`.
        global_mean: mu `(d,)`, the mean of all data, which the edit keeps.
        ot_maps: T_z `(k, d, d)`, positive semidefinite.

    Guarantees, on the data it was fitted on (without shrinkage, with class covariances of full rank): all
    classes have the mean mu and the same covariance, so that no quadratic predictor (QDA, say) beats a
    constant; among maps of that kind the least mean squared edit, if classes are Gaussian.

    Does not guarantee: anything of predictors of higher order, which may learn *more* from the edit (the
    labels leak into it: arXiv:2502.02820 finds that deep networks do); equal covariances with shrinkage on,
    where the shrunk ones are made equal; anything of rows whose label is wrong.

    Source: arXiv:2502.02820, section 3.

    >>> x = torch.tensor([[-1.0], [1.0], [3.0], [9.0]])
    >>> eraser = QuadraticEraser.fit(x, torch.tensor([0, 0, 1, 1]), shrinkage=False)
    >>> eraser(x, torch.tensor([0, 0, 1, 1])).flatten()
    tensor([1., 5., 1., 5.])
    """

    class_means: Tensor
    global_mean: Tensor
    ot_maps: Tensor
    method: str = field(default="quadratic", kw_only=True)

    takes_labels = True

    def check(self) -> None:
        """Refuse tensors that do not go together."""
        check_shapes(self, class_means=("k", "d"), global_mean=("d",), ot_maps=("k", "d", "d"))

    @classmethod
    def fit(cls, x: Any, z: Any, **kwargs: Any) -> QuadraticEraser:
        """Fit on x `(..., d)` and labels z in one call; arguments as `QuadraticFitter.fit`."""
        return QuadraticFitter.fit(x, z, **kwargs).eraser

    def optimal_transport(self, z: int, x: Tensor) -> Tensor:
        """Move `x` `(..., d)`, all of class `z`, to the barycenter."""
        z = check_label(z, len(self.class_means))
        return _move(x, self.class_means[z], self.ot_maps[z], self.global_mean)

    def __call__(self, x: Any, z: Any) -> Any:
        """Erase the concept from `x` given its labels; `x` is not changed.

        Args:
            x: `(..., d)`.
            z: `(...)` integer labels, or one-hot rows `(..., k)`.

        Raises:
            InputError: If a label was not fitted, or shapes disagree.
        """
        return self.erased(
            lambda t: _by_class(self.optimal_transport, t, self.class_numbers(t, z), self.class_means), x, z
        )


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticEditor(Eraser):
    """`r(x, s, t) = T_st (x - mu_s) + mu_t`: moves one class onto another (a counterfactual).

    Attributes:
        class_means: mu_z `(k, d)`.
        ot_maps: T_st `(k, k, d, d)`: k^2 d^2 numbers, 0.7 GB in float32 for 18 classes in 768 dimensions.

    Does not guarantee: more than equal mean and covariance with the target class.
    """

    class_means: Tensor
    ot_maps: Tensor
    method: str = field(default="quadratic", kw_only=True)

    takes_labels = True

    def check(self) -> None:
        """Refuse tensors that do not go together."""
        check_shapes(self, class_means=("k", "d"), ot_maps=("k", "k", "d", "d"))

    def transport(self, x: Tensor, source_z: int, target_z: int) -> Tensor:
        """Move `x` `(..., d)`, all of class `source_z`, onto class `target_z`."""
        s, t = (check_label(z, len(self.class_means)) for z in (source_z, target_z))
        return _move(x, self.class_means[s], self.ot_maps[s, t], self.class_means[t])

    def __call__(self, x: Any, source_z: Any, target_z: int) -> Any:
        """Move `x` from its classes onto one; `x` is not changed.

        Args:
            x: `(..., d)`.
            source_z: `(...)` integer labels, or one-hot rows `(..., k)`.
            target_z: A label.
        """
        target_z = check_label(target_z, len(self.class_means))
        return self.erased(
            lambda t: _by_class(lambda s, g: self.transport(g, s, target_z), t, source_z, self.class_means), x, source_z
        )


class QuadraticFitter(Fitter):
    """Gathers counts, means and covariances of each class, and solves for barycenter and transport maps.

    The barycenter weighs the classes by their share of the data, and is that of the very covariances that
    the maps start from. Everything is summed and solved in float64.

    Args:
        x_dim: Width d of x.
        num_classes: Number k of classes; labels are 0 to k - 1. Keeps k d^2 float64 numbers.
        device: Where statistics live.
        dtype: Dtype of the erasers, float32 by default.
        shrinkage: Shrink each covariance towards a multiple of the identity (arXiv:1308.2608), with columns in units
            of their spread within classes, which tames classes with few rows; covariances are then equal after the
            edit as far as shrinkage is small.
        kind: `"auto"` takes integers, booleans and one-hot rows; `"categorical"` whole floats too.

    Does not guarantee: see `QuadraticEraser`.
    """

    method = "quadratic"
    config_type = QuadraticConfig
    by_class = True
    moments: ClassMoments

    def __init__(
        self,
        x_dim: int,
        num_classes: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool = True,
        kind: Kind = "auto",
    ) -> None:
        if check_kind(kind) == "continuous":
            raise InputError("quadratic erasure needs classes: bin a continuous concept first, e.g. torch.bucketize")
        self.shrinkage = shrinkage
        super().__init__(x_dim, check_positive_int(num_classes, "num_classes"), kind=kind, device=device, dtype=dtype)
        self.num_classes = self.z_dim

    def _new_moments(self, device: str | torch.device | None, dtype: torch.dtype) -> ClassMoments:
        return ClassMoments(self.x_dim, self.z_dim, device=device, dtype=dtype)

    def options(self) -> dict[str, Any]:
        """Constructor arguments beyond the dimensions, as plain data."""
        return super().options() | {"shrinkage": self.shrinkage}

    # ---------------------------------------------------------------------------------------- gathering

    @classmethod
    def fit(cls, x: Any, z: Any, *, mask: Any = None, weight: Any = None, **options: Any) -> Self:
        """Make a fitter for x `(..., d)` and labels z and update it once; options as the constructor's.

        The number of classes is the highest label plus one, or the width of one-hot rows, unless
        `num_classes` is given.
        """
        return cls._fitted(x, z, options.pop("num_classes", None), mask, weight, options)

    def _take(self, x: Tensor, labels: Labels, mask: Tensor | None, weight: Tensor | None) -> None:
        """Add rows whose labels are decided; one-hot rows are classes, too."""
        is_coded = labels.kind == "categorical" and labels.values.is_floating_point()
        z = labels.numbers if is_coded else labels.values
        labels = replace(labels, kind="categorical")
        self._check_as_before(labels)
        self.moments.update_tensors(x, z, mask, weight)
        self._remember(labels)

    def update_single(self, x: Any, z: int, *, mask: Any = None, weight: Any = None) -> Self:
        """Take in a batch `(..., d)`, all of class `z`."""
        check_same_rows(x=x, mask=mask, weight=weight)
        columns = self._columns_with(x)
        self.moments.update_single(x, z, mask=mask, weight=weight)
        self.decided, self.columns, self._eraser = "categorical", columns, None
        return self

    # ------------------------------------------------------------------------------------------ reading

    @property
    def n(self) -> Tensor:
        """`(k,)` rows seen in each class, int64."""
        return self.moments.n

    @property
    def mean_x(self) -> Tensor:
        """`(k, d)` class means."""
        return self.moments.mean_x.to(self.dtype)

    @property
    def mean_z(self) -> Tensor:
        """`(k,)` share of each class."""
        return self.moments.prior.to(self.dtype)

    @property
    def sigma_xx(self) -> Tensor:
        """`(k, d, d)` class covariances: shrunk if `shrinkage`, else unbiased."""
        return self._sigma_xx()[0].to(self.dtype)

    @property
    def sigma_xx_(self) -> Tensor:
        """`(k, d, d)` class scatters: the unbiased covariances times n - 1."""
        return self.moments.scatter_xx.to(self.dtype)

    def editor(self, device: str | torch.device | None = None) -> QuadraticEditor:
        """The maps between all pairs of classes, for what was seen so far: see `QuadraticEditor` for their size.

        Args:
            device: Where to put the editor; by default where the statistics are.
        """
        device = self.moments.device if device is None else check_device(device)
        sigma, _ = self._sigma_xx()
        # One source at a time: the float64 maps of all pairs would take twice the editor's own memory.
        maps = torch.stack([ot_map(source, sigma).to(device, self.dtype) for source in sigma])
        return self._with_names(QuadraticEditor(self.mean_x.to(device), maps, config=self.config))

    def _sigma_xx(self) -> tuple[Tensor, float]:
        """Class covariances in float64, and the largest weight of a shrinkage target in them."""
        self._check_classes()
        weight = self.moments.weight[:, None, None]
        sigma = self.moments.scatter_xx
        if not self.shrinkage:
            return sigma / (weight - 1), 0.0
        within = sigma.diagonal(dim1=-2, dim2=-1).real.sum(0) / weight.sum()
        sigma, alpha = shrunk_in_units(sigma.div_(weight), weight, within.sqrt())
        return sigma, float(1 - alpha.min())

    def _check_classes(self) -> None:
        n = self.n.tolist()
        if not any(n):
            raise NotFittedError("no rows were seen: call update first")
        if self.z_dim < 2 or n.count(0) == self.z_dim - 1:
            raise InputError(
                f"all {sum(n)} rows are of one class, so there is no concept to erase: fit on two at least"
            )
        if missing := [label for label, count in enumerate(n) if count == 0]:
            raise InputError(
                f"no rows of class {', '.join(map(str, missing))} were seen (num_classes={self.z_dim}): number the "
                "classes that there are with torch.unique(z, return_inverse=True)[1]"
            )
        if few := [c for c, m in enumerate(self.moments.classes) if m.n < 2 or m.weight <= 1]:
            raise InputError(
                f"class {', '.join(map(str, few))} has fewer than two rows, which have no covariance: add rows, "
                "or merge or drop the class"
            )

    def _solve(self) -> QuadraticEraser:
        sigma, shrunk = self._sigma_xx()
        prior = self.moments.prior
        # The midpoint is the barycenter of two in closed form.
        center = ot_midpoint(sigma[0], sigma[1], *prior.tolist()) if self.z_dim == 2 else ot_barycenter(sigma, prior)
        maps = ot_map(sigma, center)
        self._warn_if_incomplete(maps @ sigma @ maps.mH, center)
        means, mean = self.moments.mean_x, self.moments.global_mean
        eraser = QuadraticEraser(means.to(self.dtype), mean.to(self.dtype), maps.to(self.dtype))
        edit, rank = self._edit(maps, sigma)
        report = Report(
            method=self.method,
            kind="categorical",
            n=int(self.n.sum()),
            rank=rank,
            residual=self._residual(eraser, center),
            edit=edit,
            shrinkage=shrunk,
        )
        if rank == 0:
            warnings.warn(
                "nothing is erased: all classes have the same mean and covariance; the eraser is the identity",
                NothingErasedWarning,
                stacklevel=3,
            )
        return replace(eraser, config=self.config, report=report)

    def _edit(self, maps: Tensor, sigma: Tensor) -> tuple[float, int]:
        """Relative size of the edit, and its rank, from the second moment of `x' - x`."""
        prior = self.moments.prior[:, None, None]
        shift = self.moments.mean_x - self.moments.global_mean
        between = (prior * shift[:, :, None].conj() * shift[:, None, :]).sum(0)
        change = maps - torch.eye(self.x_dim, dtype=maps.dtype, device=maps.device)
        moved = (prior * (change @ sigma @ change.mH)).sum(0) + between
        total = float(((prior * sigma).sum(0) + between).diagonal().real.sum())
        if total == 0:
            return 0.0, 0
        floor = _ROUNDING**2 * total / self.x_dim
        return float(moved.diagonal().real.sum()) / total, int((torch.linalg.eigvalsh(moved) > floor).sum())

    def _residual(self, eraser: QuadraticEraser, center: Tensor) -> float:
        """Largest correlation with a class that the eraser leaves as it is stored, rounding included."""
        means, prior = self.moments.mean_x, self.moments.prior
        off = means - eraser.class_means.to(means.dtype)
        after = (off[:, None, :] @ eraser.ot_maps.to(means.dtype).mH)[:, 0]
        gap = (after - prior.to(means.dtype) @ after).abs() * (prior / (1 - prior)).sqrt()[:, None]
        sd = center.diagonal().real.clamp_min(0).sqrt()
        return float(torch.where(sd > 0, gap / sd, 0.0).max())

    def _warn_if_incomplete(self, pushed: Tensor, center: Tensor) -> None:
        """A class without spread in some direction cannot be given any by a map."""
        norm = torch.linalg.matrix_norm(center).clamp_min(torch.finfo(torch.float64).tiny)
        off = torch.linalg.matrix_norm(pushed - center) / norm
        if float(off.max()) > _INCOMPLETE:
            label = int(off.argmax())
            warnings.warn(
                f"erasure is incomplete: the covariance of class {label} ({int(self.n[label])} rows, {self.x_dim} "
                f"features) is singular and ends {float(off.max()):.0%} off the barycenter; write shrinkage=True, "
                "or fit on more rows",
                EffaceWarning,
                stacklevel=4,
            )


def _by_class(fn: Any, x: Tensor, z: Any, class_means: Tensor) -> Tensor:
    """`fn(label, rows)` for each class of rows of `x`, put back in order."""
    k, d = class_means.shape
    check_width(x, d)
    labels = as_labels(z, tuple(x.shape[:-1]), k).to(x.device)
    if x.numel() == 0:
        return x.clone()
    return groupby(x.reshape(-1, d), labels).map(fn).coalesce().view(x.shape)


def _move(x: Tensor, source: Tensor, T: Tensor, target: Tensor) -> Tensor:
    """`T (x - source) + target`, formed in the finer dtype of x and T and returned in that of x."""
    check_width(x, len(source))
    with no_autocast(x):
        dtype = torch.promote_types(x.dtype, T.dtype)
        return ((x.to(dtype) - source.to(dtype)) @ T.to(dtype).mH + target.to(dtype)).to(x.dtype)


register(
    Method(
        name="quadratic",
        subjects=("rows",),
        paper="arXiv:2502.02820",
        summary="equal means and covariances of all classes by optimal transport, needs the labels when applied",
        fit=fit_of(QuadraticFitter),
        fitter=QuadraticFitter,
        erasure=QuadraticEraser,
        config=QuadraticConfig,
        access=("rows", "labels"),
        access_on=("rows", "labels"),
        guarantee="on the rows of the fit all classes have one mean and one covariance (without shrinkage)",
        no_guarantee="anything of predictors of higher order, which may learn more: the labels leak into the edit",
        concepts=("categorical",),
        labels_at_apply=True,
    )
)
