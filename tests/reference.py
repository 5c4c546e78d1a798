"""Slow, literal versions of the equations, to hold the package against.

Symbols are the paper's; matrices have the paper's orientation, representations (d, N).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def attention(
    x: Array, adjacency: Array, weight: Array, theta: Array, *, slope: float, n_heads: int
) -> Array:
    """Equations (2) to (4), one node and one edge at a time.

    `weight` is (heads × width, in_dim); `theta` (heads, 2 × width) holds the part for the target i
    and then the part for the source j. Self-loops are added, multi-edges count once.
    """
    n_obs, width = len(x), weight.shape[0] // n_heads
    out = np.zeros((n_obs, n_heads * width))
    for k in range(n_heads):
        w = weight[k * width : (k + 1) * width]
        for i in range(n_obs):
            neighbours = [j for j in range(n_obs) if j == i or adjacency[i, j] != 0]
            logits = []
            for j in neighbours:
                e = theta[k] @ np.concatenate([w @ x[i], w @ x[j]])
                logits.append(e if e > 0 else slope * e)
            shares = np.exp(logits) / np.sum(np.exp(logits))
            for share, j in zip(shares, neighbours, strict=True):
                out[i, k * width : (k + 1) * width] += share * (w @ x[j])
    return out


def scaled_cosine_error(x: Array, z: list[Array], masked: list[int], gamma: float) -> float:
    """Equation (10)."""
    total = 0.0
    for z_m in z:
        for i in masked:
            cosine = x[i] @ z_m[i] / (np.linalg.norm(x[i]) * np.linalg.norm(z_m[i]))
            total += (1 - cosine) ** gamma / len(masked)
    return total / len(z)


def robust_cost(r: Array, covariance: Array, freedom: float | None) -> float:
    """ρ of a residual: minus the log density of a normal or t distribution, up to a constant."""
    distance = r @ np.linalg.inv(covariance) @ r
    tails = distance / 2
    if freedom is not None:
        tails = (freedom + len(r)) / 2 * np.log(1 + distance / freedom)
    return float(tails + 0.5 * np.log(np.linalg.det(covariance)))


def objective(
    blocks: list[Array],
    u: Array,
    v: list[Array],
    covariances: list[Array],
    floors: list[float],
    nulls: list[float],
    alpha: Array,
    adjacency: Array,
    pi: Array,
    *,
    freedom: float | None,
    delta: float,
    eta: float,
    equal: float,
    hops: int,
) -> float:
    """The clustering's objective, term by term and observation by observation.

    `blocks` (N, d), `u` (N, C), `v` (C, d), `pi` (C,). The variances are kept above
    `floors` by a penalty.
    """
    n_obs, n_domains = u.shape
    total = 0.0
    for m, block in enumerate(blocks):
        cost = 0.5 * floors[m] * np.trace(np.linalg.inv(covariances[m])) - nulls[m]
        for i in range(n_obs):
            for k in range(n_domains):
                rho = robust_cost(block[i] - v[m][k], covariances[m], freedom)
                cost += u[i, k] * rho / n_obs
        total += alpha[m] * cost + delta * alpha[m] * np.log(alpha[m])
    step = adjacency + np.eye(n_obs)
    step = step / np.sqrt(np.outer(step.sum(axis=1), step.sum(axis=1)))
    walk = np.linalg.matrix_power(step, hops)
    for k in range(n_domains):
        total -= equal / n_domains * np.log(n_domains * pi[k])
    for i in range(n_obs):
        for k in range(n_domains):
            share = u[i, k] / (n_domains * pi[k])
            total += u[i, k] * np.log(share) / n_obs if u[i, k] > 0 else 0.0
            for j in range(n_obs):
                total -= eta / (2 * n_obs) * u[i, k] * walk[i, j] * u[j, k]
    return float(total)


def _unit_rows(matrix: Array) -> Array:
    """Divide each row by its length; a row of zeros stays."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(length == 0, 1, length)


def published_clustering(
    embeddings: list[Array],
    n_domains: int,
    *,
    specific_dim: int = 10,
    beta: float = 1.0,
    lam: float = 1.0,
    inverse_delta: float = 1.0,
    n_iter: int = 100,
    random_state: int = 0,
) -> NDArray[np.intp]:
    """The update rule of the published code, for comparison: its objective may rise.

    Embeddings are min-max scaled per column; H_s starts from a random orthonormal matrix; rows of
    H_s, H_c, W and P are divided by their length after each solve; centres take the fixed point of
    their stationarity; weights are exp(-cost / δ) with the spectral norm as cost; always `n_iter`
    iterations.
    """
    rng = np.random.default_rng(random_state)
    h = []
    for e in embeddings:
        span = np.ptp(e, axis=0)
        h.append((e - e.min(axis=0)) / np.where(span == 0, 1, span))
    n_obs, n_scales = len(h[0]), len(h)
    h_s = [np.linalg.qr(rng.normal(size=(n_obs, specific_dim)))[0].T for _ in h]
    h_c = np.linalg.qr(rng.normal(size=(n_obs, n_domains)))[0].T
    w = [_unit_rows(np.linalg.pinv(h_c @ h_c.T) @ (h_c @ h_m)) for h_m in h]
    p = [
        _unit_rows(np.linalg.pinv(s @ s.T) @ (s @ h_m - s @ h_c.T @ w_m))
        for s, h_m, w_m in zip(h_s, h, w, strict=True)
    ]
    labels = rng.integers(n_domains, size=n_obs)
    alpha = np.full(n_scales + 1, 1 / (n_scales + 1))
    v = [rng.normal(size=(len(s), n_domains)) / np.sqrt(n_obs) for s in [*h_s, h_c]]
    for _ in range(n_iter):
        u = np.eye(n_domains)[labels].T
        for m in range(n_scales):
            left = (beta + alpha[m]) * np.eye(specific_dim) + p[m] @ p[m].T
            right = p[m] @ h[m].T - p[m] @ w[m].T @ h_c + alpha[m] * v[m] @ u
            h_s[m] = _unit_rows(np.linalg.solve(left, right))
            gram = h_s[m] @ h_s[m].T
            p[m] = _unit_rows(np.linalg.pinv(gram) @ (h_s[m] @ h[m] - h_s[m] @ h_c.T @ w[m]))
            w[m] = _unit_rows(np.linalg.pinv(h_c @ h_c.T) @ (h_c @ h[m] - h_c @ h_s[m].T @ p[m]))
        left = (beta + alpha[-1]) * np.eye(n_domains) + sum(w_m @ w_m.T for w_m in w)
        right = alpha[-1] * v[-1] @ u
        for m in range(n_scales):
            right = right + w[m] @ h[m].T - w[m] @ p[m].T @ h_s[m]
        h_c = _unit_rows(np.linalg.solve(left, right))
        blocks = [*h_s, h_c]
        for m, block in enumerate(blocks):
            left = alpha[m] * u @ u.T + 2 * lam * (v[m].T @ v[m] - np.eye(n_domains))
            v[m] = alpha[m] * block @ u.T @ np.linalg.pinv(left)
        costs = np.array(
            [np.linalg.norm(b - v_m @ u, 2) ** 2 for b, v_m in zip(blocks, v, strict=True)]
        )
        alpha = np.exp(-inverse_delta * costs)
        alpha = alpha / alpha.sum()
        distance = np.zeros((n_obs, n_domains))
        for m, block in enumerate(blocks):
            distance += alpha[m] * np.sum((block[:, :, None] - v[m][:, None, :]) ** 2, axis=0)
        labels = distance.argmin(axis=1)
    return labels
