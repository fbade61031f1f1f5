"""Quadratic LEACE as arXiv:2502.02820 writes it, in plain numpy: inverses, matrix roots, many iterations.

Written for well-conditioned float64 data, from the formulas and nothing else.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv, sqrtm

Array = NDArray[np.float64]


def transport_map(K1: Array, K2: Array) -> Array:
    """`K1^{-1/2} (K1^{1/2} K2 K1^{1/2})^{1/2} K1^{-1/2}`."""
    root = _root(K1)
    return inv(root) @ _root(root @ K2 @ root) @ inv(root)


def _root(K: Array) -> Array:
    return np.real(np.asarray(sqrtm(K)))


def barycenter(Ks: Array, weights: Array, steps: int = 500) -> Array:
    """The fixed point of `K = sum_i w_i (K^{1/2} K_i K^{1/2})^{1/2}` (arXiv:1511.05355, eqs. 6 and 7)."""
    K = np.einsum("i,iab->ab", weights, Ks)
    for _ in range(steps):
        T = sum(w * transport_map(K, Ki) for w, Ki in zip(weights, Ks, strict=True))
        K = T @ K @ T
    return K


def fit(x: Array, z: NDArray[np.int64], *, steps: int = 100) -> tuple[Array, Array, Array]:
    """Class means, global mean and maps to the barycenter of the unbiased class covariances."""
    groups = [x[z == label] for label in range(z.max() + 1)]
    means = np.stack([g.mean(0) for g in groups])
    sigmas = np.stack([np.atleast_2d(np.cov(g, rowvar=False)) for g in groups])
    prior = np.array([len(g) for g in groups]) / len(x)
    center = barycenter(sigmas, prior, steps)
    return means, x.mean(0), np.stack([transport_map(s, center) for s in sigmas])


def erase(x: Array, z: NDArray[np.int64], means: Array, mean: Array, maps: Array) -> Array:
    """`T_z (x - mu_z) + mu`, row by row."""
    return np.stack([maps[c] @ (row - means[c]) + mean for row, c in zip(x, z, strict=True)])
