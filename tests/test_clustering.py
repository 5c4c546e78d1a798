from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from tests import reference

from m2st import ClusteringParams, MultiScaleClustering
from m2st._clustering import (
    _best_labels,
    _check_embeddings,
    _descend,
    _initial_labels,
    _initial_state,
    _objective,
    _standardise,
)

QUICK = ClusteringParams(n_init=3)


def blobs(
    seed: int, *, n_domains: int = 4, n_obs: int = 200, noise: float = 0.3
) -> tuple[list[np.ndarray], np.ndarray]:
    """Two embeddings of the same planted domains."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n_obs) % n_domains
    scales = []
    for width in (10, 6):
        centers = 3 * np.linalg.qr(rng.normal(size=(width, n_domains)))[0].T
        scales.append(centers[truth] + noise * rng.normal(size=(n_obs, width)))
    return scales, truth


@pytest.mark.parametrize("seed", range(3))
def test_recovers_planted_domains(seed: int) -> None:
    scales, truth = blobs(seed)
    found = MultiScaleClustering(4, QUICK, random_state=seed).fit(scales)
    assert adjusted_rand_score(truth, found.labels_) > 0.95


def test_scales_complete_each_other() -> None:
    """No scale alone tells the four domains apart; both together do."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 4
    scales = [
        np.outer(part, [2.0, 0, 0]) + 0.2 * rng.normal(size=(200, 3))
        for part in (truth % 2 - 0.5, truth // 2 - 0.5)
    ]
    found = MultiScaleClustering(4, QUICK).fit(scales).labels_
    assert adjusted_rand_score(truth, found) > 0.95


@settings(deadline=None, max_examples=25)
@given(
    n_obs=st.integers(3, 60),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    n_domains=st.integers(1, 5),
    common_dim=st.none() | st.integers(1, 5),
    specific_dim=st.integers(1, 8),
    ridge=st.floats(1e-3, 10),
    orthogonality=st.floats(0, 2),
    entropy=st.floats(1e-2, 10),
    seed=st.integers(0, 100),
)
def test_objective_never_rises(
    n_obs: int,
    widths: list[int],
    n_domains: int,
    common_dim: int | None,
    specific_dim: int,
    ridge: float,
    orthogonality: float,
    entropy: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    n_domains = min(n_domains, n_obs)
    params = ClusteringParams(
        common_dim=common_dim,
        specific_dim=specific_dim,
        ridge=ridge,
        orthogonality=orthogonality,
        entropy=entropy,
        tol=0,
    )
    scales = [_standardise(rng.standard_t(2, size=(n_obs, width))) for width in widths]
    first = _initial_state(scales, n_domains, params)
    state = first.with_labels(_initial_labels(first, n_domains, 0, seed), n_domains)
    objective = [_objective(scales, state, params)]
    _descend(scales, state, objective, params, n_iter=30)
    rises = np.diff(objective)
    assert rises.max() <= 1e-10 * max(1, abs(objective[0]))
    assert set(state.labels.tolist()) == set(range(n_domains))
    assert state.weights.min() >= 0
    assert state.weights.sum() == pytest.approx(1)


def test_objective_is_equation_12() -> None:
    scales, _ = blobs(0, n_obs=30)
    scales = [_standardise(scale) for scale in scales]
    params = ClusteringParams(ridge=0.3, orthogonality=0.2, entropy=0.5)
    first = _initial_state(scales, 4, params)
    state = first.with_labels(_initial_labels(first, 4, 0, 0), 4)
    history: list[float] = [0.0]
    _descend(scales, state, history, params, n_iter=3)
    widths = np.cumsum([scale.shape[1] for scale in scales])[:-1]
    literal = reference.objective(
        scales,
        state.blocks[-1].T,
        [block.T for block in state.blocks[:-1]],
        np.split(state.common_loadings, widths, axis=1),
        state.specific_loadings,
        [centers.T for centers in state.centers],
        np.eye(4)[state.labels].T,
        state.weights,
        beta=0.3,
        lam=0.2 * 30,
        delta=0.5 * 30,
    )
    assert _objective(scales, state, params) == pytest.approx(literal / 30)
    assert history[-1] == pytest.approx(literal / 30)


def test_loadings_are_orthonormal_so_scale_cannot_leak() -> None:
    scales = [_standardise(scale) for scale in blobs(1)[0]]
    params = ClusteringParams()
    first = _initial_state(scales, 4, params)
    state = first.with_labels(_initial_labels(first, 4, 0, 0), 4)
    _descend(scales, state, [0.0], params, n_iter=20)
    for loadings in [state.common_loadings, *state.specific_loadings]:
        np.testing.assert_allclose(loadings @ loadings.T, np.eye(len(loadings)), atol=1e-10)


def test_each_block_is_at_its_minimum_given_the_others() -> None:
    """Small steps away from each closed-form block never lower the objective."""
    from m2st._clustering import _costs, _kmeans_terms, _update_representations

    rng = np.random.default_rng(0)
    scales = [_standardise(scale) for scale in blobs(2, n_obs=40)[0]]
    params = ClusteringParams(ridge=0.2)
    first = _initial_state(scales, 4, params)
    state = first.with_labels(_initial_labels(first, 4, 0, 0), 4)
    _update_representations(scales, state, params)
    best = _objective(scales, state, params)
    kept = state.blocks[-1]
    for _ in range(20):
        state.blocks[-1] = kept + 1e-3 * rng.normal(size=kept.shape)
        assert _objective(scales, state, params) > best
    state.blocks[-1] = kept
    from scipy.special import softmax

    terms = _kmeans_terms(_costs(state), state.labels)
    state.weights = softmax(-terms / params.entropy)
    best = _objective(scales, state, params)
    kept = state.weights
    for _ in range(20):
        nearby = kept * np.exp(0.05 * rng.normal(size=kept.shape))
        state.weights = nearby / nearby.sum()
        assert _objective(scales, state, params) > best


def test_labels_by_hand() -> None:
    costs = np.array([[0.0, 1, 9], [0, 1, 9], [5, 0, 7], [5, 0, 6]])
    # Nobody prefers the third domain; the fourth observation loses as much as the third, 6 < 7.
    assert _best_labels(costs).tolist() == [0, 0, 1, 2]


def test_a_domain_is_never_emptied_to_fill_another() -> None:
    costs = np.array([[0.0, 1, 5], [1, 0, 1], [0, 2, 9]])
    labels = _best_labels(costs)
    assert sorted(labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("n_domains", [1, 2, 7, 12])
def test_exactly_n_domains_come_out(n_domains: int) -> None:
    rng = np.random.default_rng(0)
    # Only three distinct observations: most domains start empty.
    scales = [np.repeat(rng.normal(size=(3, 4)), 4, axis=0)]
    labels = MultiScaleClustering(n_domains, QUICK).fit(scales).labels_
    assert set(labels.tolist()) == set(range(n_domains))


def test_constant_embeddings_do_not_break() -> None:
    found = MultiScaleClustering(2, QUICK).fit([np.ones((10, 3)), np.zeros((10, 2))])
    assert set(found.labels_.tolist()) == {0, 1}
    assert np.isfinite(found.objective_).all()


def test_domains_are_numbered_by_size_and_match_their_centres() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [20, 50, 130])
    scales = [6 * np.eye(3)[truth] + 0.1 * rng.normal(size=(200, 3))]
    found = MultiScaleClustering(3, QUICK).fit(scales)
    assert np.bincount(found.labels_).tolist() == [130, 50, 20]
    distance = ((found.common_[:, None] - found.centers_[-1][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), found.labels_)


def test_unit_and_offset_of_a_scale_do_not_matter() -> None:
    scales, _ = blobs(0)
    one = MultiScaleClustering(4, QUICK).fit(scales).labels_
    other = MultiScaleClustering(4, QUICK).fit([1e6 * scales[0] + 5, scales[1]]).labels_
    assert adjusted_rand_score(one, other) == pytest.approx(1)


def test_permuting_observations_permutes_labels(rng: np.random.Generator) -> None:
    scales, _ = blobs(0)
    order = rng.permutation(200)
    one = MultiScaleClustering(4, QUICK).fit(scales).labels_
    other = MultiScaleClustering(4, QUICK).fit([scale[order] for scale in scales]).labels_
    assert adjusted_rand_score(one[order], other) == pytest.approx(1)


def test_best_start_is_kept_and_seeds_repeat() -> None:
    scales, _ = blobs(3, noise=1.5)
    first = MultiScaleClustering(4, random_state=5).fit(scales)
    again = MultiScaleClustering(4, random_state=5).fit(scales)
    short = ClusteringParams().short_iter
    assert first.objective_[short] == first.start_objectives_.min()
    assert len(first.start_objectives_) == ClusteringParams().n_init
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.common_, again.common_)


def test_entropy_spreads_the_weights() -> None:
    scales, _ = blobs(0)
    scales[1] = np.random.default_rng(1).normal(size=scales[1].shape)
    spread = [
        np.ptp(
            MultiScaleClustering(4, ClusteringParams(entropy=entropy, n_init=2))
            .fit(scales)
            .scale_weights_
        )
        for entropy in (0.1, 100.0)
    ]
    assert spread[0] > 10 * spread[1]


def test_scikit_learn_manners() -> None:
    estimator = MultiScaleClustering(3, QUICK, random_state=7)
    twin = clone(estimator)
    assert twin.get_params() == estimator.get_params()
    assert estimator.set_params(n_domains=2).n_domains == 2
    scales, _ = blobs(0)
    assert not hasattr(twin, "labels_")
    np.testing.assert_array_equal(twin.fit_predict(scales), twin.labels_)


def test_warns_when_not_converged() -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iterations"):
        MultiScaleClustering(4, ClusteringParams(max_iter=1, short_iter=1, n_init=1)).fit(
            blobs(0)[0]
        )


def test_better_than_the_published_update_rule() -> None:
    """On planted domains; the published rule has no descent to rely on."""
    scores = []
    for seed in range(3):
        scales, truth = blobs(seed, n_obs=120, noise=0.8)
        ours = MultiScaleClustering(4, QUICK, random_state=seed).fit(scales).labels_
        published = reference.published_clustering(
            scales, 4, specific_dim=4, n_iter=20, random_state=seed
        )
        scores.append([adjusted_rand_score(truth, labels) for labels in (ours, published)])
    ours, published = np.mean(scores, axis=0)
    assert ours > published


def test_bad_input() -> None:
    scales, _ = blobs(0)
    with pytest.raises(ValueError, match="Expected at least one embedding, found none"):
        _check_embeddings([])
    with pytest.raises(ValueError, match=r"the same observations, found \[200, 199\] rows"):
        MultiScaleClustering(2).fit([scales[0], scales[1][1:]])
    with pytest.raises(ValueError, match=r"`embeddings\[1\]` to be finite, found NaN"):
        MultiScaleClustering(2).fit([scales[0], np.full((200, 2), np.nan)])
    with pytest.raises(ValueError, match="no more `n_domains` than observations, 200, found 201"):
        MultiScaleClustering(201).fit(scales)
    with pytest.raises(ValueError, match="Expected `n_domains` to be at least 1, found 0"):
        MultiScaleClustering(0).fit(scales)
