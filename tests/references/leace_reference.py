"""LEACE, SAL, oracle and moments as the papers write them: numpy, float64, two passes, no cleverness."""

import numpy as np


def moments(x, z, weight=None):
    """Means and scatters in two passes."""
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    mean_x, mean_z = w @ x / w.sum(), w @ z / w.sum()
    xc, zc = x - mean_x, z - mean_z
    xw = xc * w[:, None]
    return mean_x, mean_z, xw.T @ xc, xw.T @ zc, (zc * w[:, None]).T @ zc


def whitening(sigma, rank):
    """W = (sigma^{1/2})^+ and W^+ (LEACE paper, Theorem 4.2), given the rank."""
    lam, v = np.linalg.eigh(sigma)
    keep = np.arange(len(lam)) >= len(lam) - rank
    root = np.sqrt(np.where(keep, lam, 1.0))
    return v * np.where(keep, 1 / root, 0) @ v.T, v * np.where(keep, root, 0) @ v.T


def leace_projection(x, z, whiten=True, rank=None):
    """P* = I - W^+ P_{W sigma_xz} W (Theorem 4.2), or the orthogonal projection for whiten=False."""
    _, _, s_xx, s_xz, _ = moments(x, z)
    d = s_xx.shape[0]
    w, w_plus = whitening(s_xx / (len(x) - 1), d if rank is None else rank) if whiten else (np.eye(d), np.eye(d))
    u, s, _ = np.linalg.svd(w @ s_xz / (len(x) - 1), full_matrices=False)
    u = u[:, s > 1e-6 * s.max()]
    return np.eye(d) - w_plus @ u @ u.T @ w


def oracle_residual(x, z):
    """X - sigma_xz sigma_zz^+ (Z - E Z) (Oracle LEACE, Theorem 1)."""
    _, mean_z, _, s_xz, s_zz = moments(x, z)
    return x - (np.asarray(z, np.float64) - mean_z) @ (s_xz @ np.linalg.pinv(s_zz)).T
