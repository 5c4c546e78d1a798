"""The paper's own clustering against its equations, written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from tests import reference

from m2st._clustering import KINDS
from m2st._clustering._dual import DualClustering, _procrustes, _State
from m2st._params import DualParams

Array = np.ndarray


def planted(
    seed: int, n_scales: int = 2, n_domains: int = 3, n_obs: int = 120, distance: float = 6.0
) -> tuple[list[Array], Array]:
    """Embeddings whose domains lie apart in each scale."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n_obs) % n_domains
    return [
        rng.normal(size=(n_obs, width)) + distance * rng.normal(size=(n_domains, width))[truth]
        for width in rng.integers(6, 12, n_scales)
    ], truth


def objective(scales: list[Array], found: DualClustering, labels: Array) -> float:
    """Objective (12), one observation at a time; embeddings centred, mean squared norm 1."""
    n_obs, n_domains = len(labels), found.n_domains
    total = 0.0
    for m, scale in enumerate(scales):
        h = scale - scale.mean(axis=0)
        h = h / np.sqrt((h**2).sum() / n_obs)
        for i in range(n_obs):
            split = (
                found.common_[i] @ found.common_loadings_[m]
                + found.specific_[m][i] @ found.specific_loadings_[m]
            )
            total += np.sum((h[i] - split) ** 2) / n_obs
    for m, block in enumerate([*found.specific_, found.common_]):
        v, alpha = found.centers_[m], found.scale_weights_[m]
        for i in range(n_obs):
            total += found.ridge * np.sum(block[i] ** 2) / n_obs
            total += alpha * np.sum((block[i] - v[labels[i]]) ** 2) / n_obs
        for k in range(n_domains):
            for other in range(n_domains):
                total += found.orthogonality * (v[k] @ v[other] - (k == other)) ** 2
        total += found.weight_entropy * alpha * np.log(alpha)
    return float(total)


@pytest.mark.parametrize("n_scales", [1, 2, 4])
def test_objective_is_equation_12(n_scales: int) -> None:
    scales, _ = planted(n_scales, n_scales)
    found = DualClustering(3, specific_dim=2, n_init=1, max_iter=200).fit(scales)
    assert found.objective_[-1] == pytest.approx(objective(scales, found, found.labels_))


@pytest.mark.parametrize("seed", range(12))
def test_objective_never_rises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales, _ = planted(seed, seed % 4 + 1, n_domains=seed % 5 + 1, distance=seed / 4)
    found = DualClustering(
        seed % 5 + 1,
        specific_dim=seed % 6 + 1,
        ridge=float(rng.choice([0, 0.01, 1, 100])),
        orthogonality=float(rng.choice([0, 0.01, 1, 100])),
        weight_entropy=float(10 ** rng.uniform(-3, 2)),
        n_init=2,
        random_state=seed,
    ).fit(scales)
    # Equal up to the rounding of sums.
    assert np.diff(found.objective_).max() <= 1e-12 * np.abs(found.objective_).max()
    assert found.objective_[-1] < found.objective_[0]


def test_worked_by_hand() -> None:
    """Two domains on a line: what every block has to be follows without a computer.

    One scale of one column, 1 and -1, its mean squared norm 1 already. The common representation
    takes all of it, W = 1 up to sign, so nothing is left for the specific one: H_s = 0, V^1 → 0.
    With β = 0, λ = 0: H_c = (x + α v) / (1 + α) and v the mean of H_c give H_c = x at the end.
    """
    x = np.repeat([[1.0], [-1.0]], 5, axis=0)
    found = DualClustering(
        2, common_dim=1, specific_dim=1, ridge=0, orthogonality=0, n_init=1, tol=0, max_iter=500
    ).fit([x])
    sign = found.common_loadings_[0][0, 0]
    assert abs(sign) == pytest.approx(1)
    np.testing.assert_allclose(found.common_ * sign, x, atol=1e-6)
    np.testing.assert_allclose(found.specific_[0], 0, atol=1e-6)
    np.testing.assert_allclose(np.sort((found.centers_[-1] * sign).ravel()), [-1, 1], atol=1e-6)
    # Both k-means terms are 0, so the weights are equal, and only their entropy is left: -δ ln 2.
    np.testing.assert_allclose(found.scale_weights_, 0.5, atol=1e-6)
    assert found.objective_[-1] == pytest.approx(-np.log(2), abs=1e-6)


@pytest.mark.parametrize("n_scales", [1, 2, 3])
def test_planted_domains_are_found(n_scales: int) -> None:
    scales, truth = planted(0, n_scales)
    labels = DualClustering(3, specific_dim=2).fit(scales).labels_
    assert adjusted_rand_score(truth, labels) == 1


def test_published_rule_finds_planted_domains() -> None:
    scales, truth = planted(0)
    scores = [
        adjusted_rand_score(
            truth,
            DualClustering(
                3, specific_dim=2, orthogonality=0.01, solver="published", random_state=seed
            )
            .fit(scales)
            .labels_,
        )
        for seed in range(5)
    ]
    assert max(scores) > 0.9


@pytest.mark.parametrize("seed", [0, 3, 7, 8])
def test_published_rule_is_what_it_says(seed: int) -> None:
    scales, _ = planted(seed, n_scales=seed % 3 + 1, distance=3)
    found = DualClustering(
        3, specific_dim=4, orthogonality=0.01, max_iter=30, solver="published", random_state=seed
    ).fit(scales)
    literal = reference.published_clustering(
        scales, 3, specific_dim=4, lam=0.01, n_iter=30, random_state=seed
    )
    assert len(np.unique(literal)) == 3  # else the empty domain is filled here
    assert adjusted_rand_score(literal, found.labels_) == 1


def test_objective_of_the_paper_has_no_minimum() -> None:
    """Loadings up and representations down: (12) falls, and our constraint forbids it."""
    scales, _ = planted(1)
    found = DualClustering(3, specific_dim=2, n_init=1).fit(scales)
    given = [scale - scale.mean(axis=0) for scale in scales]
    given = [scale / np.sqrt(np.mean(np.sum(scale**2, axis=1))) for scale in given]

    def value(factor: float) -> float:
        state = _State(
            found.common_ / factor,
            [h / factor for h in found.specific_],
            [w * factor for w in found.common_loadings_],
            [p * factor for p in found.specific_loadings_],
            [v / factor for v in found.centers_],
            found.scale_weights_,
            found.labels_,
        )
        free = DualClustering(3, specific_dim=2, orthogonality=0)
        return free._objective(given, state)

    values = [value(factor) for factor in (1, 2, 4, 8)]
    assert np.diff(values).max() < 0
    for p in found.specific_loadings_:
        np.testing.assert_allclose(p @ p.T, np.eye(2), atol=1e-10)
    w = np.concatenate(found.common_loadings_, axis=1)
    np.testing.assert_allclose(w @ w.T, np.eye(3), atol=1e-10)


def test_loadings_are_the_best_orthonormal_ones() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2, 5))
    best = np.trace(_procrustes(target).T @ target)
    for _ in range(200):
        other = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
        assert np.trace(other.T @ target) <= best


@pytest.mark.parametrize("solver", ["descent", "published"])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_other_observations_are_placed(solver: str, ridge: float) -> None:
    """Half of the observations from the other half: the ridge solution, then the nearest centre."""
    scales, truth = planted(0, n_obs=240)
    params = DualParams(specific_dim=2, orthogonality=0.01, ridge=ridge, solver=solver)
    found = DualClustering.from_params(3, params, random_state=1)
    found.fit([scale[::2] for scale in scales])
    domains = found.to_domains()
    others = [scale[1::2] for scale in scales]
    placed = domains.predict_proba(others)
    np.testing.assert_array_equal(np.unique(placed), [0, 1])
    fitted = domains.predict_proba([scale[::2] for scale in scales]).argmax(axis=1)
    assert adjusted_rand_score(fitted, found.labels_) > 0.9
    both = adjusted_rand_score(truth[::2], found.labels_)
    assert adjusted_rand_score(truth[1::2], placed.argmax(axis=1)) > both - 0.1
    read = KINDS[domains.kind].from_arrays(domains.to_arrays(), domains.to_settings())
    np.testing.assert_array_equal(read.predict_proba(others), placed)
    with pytest.raises(ValueError, match=r"Expected embeddings of widths .*, found \[2\]"):
        domains.predict_proba([np.zeros((3, 2))])


def test_other_observations_have_the_ridge_solution() -> None:
    """Written out: the least of the first two terms of (12), loadings given."""
    scales, _ = planted(3)
    found = DualClustering(3, specific_dim=2, ridge=0.7, n_init=1).fit(scales)
    (p_1, p_2), (w_1, w_2) = found.specific_loadings_, found.common_loadings_
    stacked = np.block([[p_1, np.zeros_like(p_2)], [np.zeros_like(p_1), p_2], [w_1, w_2]])
    together = np.concatenate(
        [
            (s - s.mean(axis=0)) / np.sqrt(np.mean(((s - s.mean(axis=0)) ** 2).sum(axis=1)))
            for s in scales
        ],
        axis=1,
    )
    blocks = np.concatenate(found.to_domains().factors.project(scales), axis=1)
    for x, z in zip(together[:5], blocks[:5], strict=True):
        # Gradient of ‖x − z L‖² + β ‖z‖².
        np.testing.assert_allclose(stacked @ (x - z @ stacked), 0.7 * z, atol=1e-10)


def test_reorder_numbers_the_domains_anew() -> None:
    scales, _ = planted(0)
    found = DualClustering(3, specific_dim=2, n_init=1).fit(scales)
    before, centers = found.labels_, found.centers_[0]
    np.testing.assert_array_equal(found.responsibilities_, np.eye(3)[before])
    assert found.reorder(np.array([2, 0, 1])) is found
    np.testing.assert_array_equal(found.labels_, np.array([1, 2, 0])[before])
    np.testing.assert_array_equal(found.responsibilities_, np.eye(3)[found.labels_])
    np.testing.assert_array_equal(found.centers_[0], centers[[2, 0, 1]])


def test_as_many_domains_as_asked_for_by_size() -> None:
    scales, _ = planted(5, distance=0, n_obs=30)
    for solver in ("descent", "published"):
        found = DualClustering(6, specific_dim=2, n_init=2, max_iter=20, solver=solver).fit(scales)
        sizes = np.bincount(found.labels_)
        assert len(sizes) == 6
        assert sizes.min() > 0
        assert np.diff(sizes).max() <= 0


def test_same_seed_same_bits_and_any_unit() -> None:
    scales, _ = planted(2)
    one, again = (DualClustering(3, specific_dim=2).fit(scales) for _ in range(2))
    np.testing.assert_array_equal(one.objective_, again.objective_)
    larger = DualClustering(3, specific_dim=2).fit([1024 * scale for scale in scales])
    np.testing.assert_array_equal(one.labels_, larger.labels_)


def test_bad_settings_are_refused() -> None:
    scales, _ = planted(0)
    for settings, message in (
        ({"ridge": -1}, "`ridge`"),
        ({"orthogonality": float("nan")}, "`orthogonality`"),
        ({"weight_entropy": 0}, "`weight_entropy`"),
        ({"solver": "newton"}, "`solver` to be one of 'descent', 'published', found 'newton'"),
        ({"n_init": 0}, "`n_init` to be at least 1, found 0"),
        ({"common_dim": 0}, "`common_dim` to be at least 1, found 0"),
        ({"specific_dim": 99}, "`specific_dim` of at most .*, the width of the narrowest"),
    ):
        with pytest.raises(ValueError, match=message):
            DualClustering(3, **settings).fit(scales)
    with pytest.raises(ValueError, match="no more `n_domains` than observations, 120, found 121"):
        DualClustering(121, specific_dim=2).fit(scales)
