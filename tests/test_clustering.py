from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, special
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests import reference

from m2st import ClusteringParams, MultiScaleClustering
from m2st._clustering._mixture import (
    _HOPS,
    State,
    descend,
    filled_labels,
    initial_labels,
    normalised_adjacency,
    null_cost,
    propagate,
    row_sums,
    softmax,
    squared_distances,
)
from m2st._clustering._representation import (
    check_embeddings,
    common_factors,
    factorise,
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


def ring(n_obs: int) -> sparse.csr_matrix:
    """Graph in which each observation has two neighbours."""
    i = np.arange(n_obs)
    j = (i + 1) % n_obs
    return sparse.csr_matrix((np.ones(2 * n_obs), (np.r_[i, j], np.r_[j, i])), shape=(n_obs, n_obs))


def started(
    scales: list[np.ndarray], n_domains: int, params: ClusteringParams, seed: int = 0
) -> tuple[list[np.ndarray], State]:
    """Blocks and state of a first start."""
    blocks = factorise(scales, params).project(scales)
    nulls = [null_cost(block, params) for block in blocks]
    labels = initial_labels(blocks[-1], n_domains, seed % 6, seed)
    return blocks, State.start(blocks, nulls, np.eye(n_domains)[labels], params)


@pytest.mark.parametrize("seed", range(3))
def test_recovers_planted_domains(seed: int) -> None:
    scales, truth = blobs(seed)
    found = MultiScaleClustering.from_params(4, QUICK, random_state=seed).fit(scales)
    assert adjusted_rand_score(truth, found.labels_) > 0.95


def test_scales_complete_each_other() -> None:
    """No scale alone tells the four domains apart; both together do."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 4
    scales = [
        np.outer(part, [2.0, 0, 0]) + 0.2 * rng.normal(size=(200, 3))
        for part in (truth % 2 - 0.5, truth // 2 - 0.5)
    ]
    found = MultiScaleClustering.from_params(4, QUICK).fit(scales).labels_
    assert adjusted_rand_score(truth, found) > 0.95


def test_scatter_shared_by_the_domains_does_not_mislead() -> None:
    """Domains side by side, each far longer than the distance between them."""
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    scale = np.column_stack(
        [10 * rng.normal(size=400), 4.0 * truth + 0.4 * rng.normal(size=400), rng.normal(size=400)]
    )
    found = MultiScaleClustering(2).fit([scale]).labels_
    assert adjusted_rand_score(truth, found) > 0.95
    assert adjusted_rand_score(truth, KMeans(2, n_init=5, random_state=0).fit_predict(scale)) < 0.1


def test_outliers_do_not_take_a_domain() -> None:
    scales, truth = blobs(0)
    for scale in scales:
        scale[:3] *= 8
    found = MultiScaleClustering(4).fit(scales).labels_
    assert adjusted_rand_score(truth[3:], found[3:]) > 0.9


def test_domains_of_unequal_size_are_found_and_told() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [800, 40, 30])
    scale = rng.normal(size=(870, 6)) + 5.0 * np.eye(3, 6)[truth] * [0, 1, 1, 0, 0, 0]
    params = ClusteringParams(specific_dim=2)
    found = MultiScaleClustering.from_params(3, params).fit([scale])
    assert adjusted_rand_score(truth, found.labels_) > 0.9
    shares = np.bincount(found.labels_) / 870
    np.testing.assert_allclose(found.sizes_, (shares + 0.1 / 3) / 1.1, atol=0.01)
    even = replace(params, equal_sizes=None)
    equal = MultiScaleClustering.from_params(3, even).fit([scale])
    np.testing.assert_allclose(equal.sizes_, 1 / 3)
    # Few observations of another section: the shares count as much as they say.
    near = scale[truth == 0][:5] + np.array([0, 2.5, 0, 0, 0, 0])
    by_share = found.predict_proba([near])
    by_none = replace(found.to_domains(), sizes=None).predict_proba([near])
    assert (by_share[:, 0] > by_none[:, 0]).all()


def test_a_pair_apart_from_the_tissue_is_no_domain() -> None:
    rng = np.random.default_rng(1)
    scales, truth = blobs(1)
    for scale in scales:
        scale[:2] = rng.normal(size=scale.shape[1]) * 30
    found = MultiScaleClustering(4).fit(scales)
    assert np.bincount(found.labels_).min() >= 10
    assert adjusted_rand_score(truth[2:], found.labels_[2:]) > 0.9


@pytest.mark.parametrize(
    ("n_domains", "set_to", "width"), [(3, None, 15), (17, None, 17), (12, 4, 4)]
)
def test_common_representation_is_as_wide_as_there_are_domains(
    n_domains: int, set_to: int | None, width: int
) -> None:
    scales = [np.random.default_rng(0).normal(size=(60, 20))]
    params = ClusteringParams(common_dim=set_to, n_init=1)
    found = MultiScaleClustering.from_params(n_domains, params).fit(scales)
    assert found.common_.shape == (60, width)


def test_a_scale_of_noise_gets_no_weight() -> None:
    scales, truth = blobs(0)
    rng = np.random.default_rng(1)
    scales.append(100 * rng.normal(size=(200, 8)))
    params = ClusteringParams(common_dim=4, specific_dim=4)
    found = MultiScaleClustering.from_params(4, params).fit(scales)
    assert adjusted_rand_score(truth, found.labels_) > 0.95
    assert found.scale_weights_[2] < 0.05


@given(
    n_obs=st.integers(3, 60),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    n_domains=st.integers(1, 5),
    common_dim=st.integers(1, 5),
    specific_dim=st.integers(1, 8),
    weight_entropy=st.floats(1e-2, 10),
    degrees_of_freedom=st.none() | st.floats(0.5, 100),
    equal_sizes=st.none() | st.floats(1e-3, 10),
    smoothness=st.floats(0, 20),
    seed=st.integers(0, 100),
)
def test_objective_never_rises(
    n_obs: int,
    widths: list[int],
    n_domains: int,
    common_dim: int,
    specific_dim: int,
    weight_entropy: float,
    degrees_of_freedom: float | None,
    equal_sizes: float | None,
    smoothness: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    n_domains = min(n_domains, n_obs)
    params = ClusteringParams(
        common_dim=common_dim,
        specific_dim=specific_dim,
        weight_entropy=weight_entropy,
        degrees_of_freedom=degrees_of_freedom,
        equal_sizes=equal_sizes,
        smoothness=smoothness,
        tol=0,
    )
    scales = [rng.standard_t(2, size=(n_obs, width)) for width in widths]
    blocks, state = started(scales, n_domains, params, seed)
    objective = [state.objective(params)]
    descend(blocks, state, objective, params, n_iter=20)
    state.adjacency = normalised_adjacency(ring(n_obs), n_obs)
    objective.append(state.objective(params))
    descend(blocks, state, objective, params, n_iter=20)
    rises = np.diff(objective)
    assert rises.max() <= 1e-9 * max(1, abs(objective[0]))
    assert state.weights.min() >= 0
    assert state.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(state.responsibilities.sum(axis=1), 1)


@pytest.mark.parametrize("freedom", [None, 3])
def test_objective_is_the_documented_one(freedom: float | None) -> None:
    scales, _ = blobs(0, n_obs=30)
    params = ClusteringParams(
        weight_entropy=0.5,
        degrees_of_freedom=freedom,
        equal_sizes=0.2,
        smoothness=2,
        common_dim=3,
        specific_dim=2,
    )
    blocks, state = started(scales, 4, params)
    state.adjacency = normalised_adjacency(ring(30), 30)
    history = [0.0]
    descend(blocks, state, history, params, n_iter=3)
    literal = reference.objective(
        blocks,
        state.responsibilities,
        [mixture.centers for mixture in state.mixtures],
        [mixture.covariance for mixture in state.mixtures],
        [mixture.floor for mixture in state.mixtures],
        [mixture.null for mixture in state.mixtures],
        state.weights,
        ring(30).toarray(),
        state.shares / 4,
        freedom=freedom,
        delta=0.5,
        eta=2,
        equal=0.2,
        hops=_HOPS,
    )
    assert state.objective(params) == pytest.approx(literal)
    assert history[-1] == pytest.approx(literal)


def test_weights_are_at_their_minimum_given_the_others() -> None:
    rng = np.random.default_rng(0)
    scales, _ = blobs(2, n_obs=40)
    blocks, state = started(scales, 4, QUICK)
    descend(blocks, state, [0.0], QUICK, n_iter=3)
    best = state.objective(QUICK)
    kept = state.weights
    for _ in range(20):
        nearby = kept * np.exp(0.05 * rng.normal(size=kept.shape))
        state.weights = nearby / nearby.sum()
        assert state.objective(QUICK) >= best - 1e-12


@pytest.mark.parametrize("n_obs", [1, 5, 9000])
def test_rows_add_up_to_the_bit_as_numpy_and_scipy_say(n_obs: int) -> None:
    rng = np.random.default_rng(0)
    for width in range(1, 25):
        values = rng.normal(scale=10, size=(n_obs, width))
        np.testing.assert_array_equal(row_sums(values), values.sum(axis=1))
        np.testing.assert_array_equal(softmax(values), special.softmax(values, axis=1))


def test_a_single_domain_costs_nothing() -> None:
    """So that a scale's term is what the domains explain of it."""
    scales, _ = blobs(0)
    found = MultiScaleClustering.from_params(1, ClusteringParams(n_init=1, tol=1e-10)).fit(scales)
    uniform = -QUICK.weight_entropy * np.log(len(found.scale_weights_))
    assert found.objective_[-1] == pytest.approx(uniform, abs=1e-3)


def test_representations_are_principal_components_of_all_and_of_the_rest() -> None:
    """With as many directions as a scale has, nothing of it is lost."""
    scales, _ = blobs(0)
    blocks = factorise(scales, ClusteringParams(common_dim=3, specific_dim=10)).project(scales)
    centred = [scale - scale.mean(axis=0) for scale in scales]
    standard = [scale / np.sqrt(np.mean(np.sum(scale**2, axis=1))) for scale in centred]
    left, values, axes = np.linalg.svd(np.concatenate(standard, axis=1), full_matrices=False)
    common = left[:, :3] * values[:3]
    np.testing.assert_allclose(blocks[-1] @ blocks[-1].T, common @ common.T, atol=1e-10)
    for m, loading in enumerate(np.split(axes[:3], [10], axis=1)):
        rest = standard[m] - common @ loading
        np.testing.assert_allclose(blocks[m] @ blocks[m].T, rest @ rest.T, atol=1e-10)
    np.testing.assert_allclose(
        common_factors(scales, ClusteringParams(common_dim=3)).project(scales)[0], blocks[-1]
    )


def test_streamed_and_whole_embeddings_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scales, _ = blobs(1)
    whole = factorise(scales, QUICK).project(scales)
    monkeypatch.setattr("m2st._clustering._representation._CHUNK", 7)
    for one, other in zip(whole, factorise(scales, QUICK).project(scales), strict=True):
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-10)


def test_some_observations_are_taken_without_a_copy_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales, _ = blobs(1)
    taken = np.flatnonzero(np.arange(len(scales[0])) % 5)
    with_gaps = [scale.copy() for scale in scales]
    for scale in with_gaps:
        scale[::5] = np.nan
    monkeypatch.setattr("m2st._clustering._representation._CHUNK", 7)
    few = [scale[taken] for scale in scales]
    params = ClusteringParams(common_dim=3)
    expected, found = common_factors(few, params), common_factors(with_gaps, params, taken)
    for one, other in zip(expected.project(few), found.project(with_gaps, taken), strict=True):
        np.testing.assert_array_equal(one, other)


def test_distances_in_pieces_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    block, centers = rng.normal(size=(50, 4)), rng.normal(size=(3, 4))
    spread = np.cov(rng.normal(size=(30, 4)), rowvar=False)
    away = block[:, None] - centers
    expected = np.einsum("ikd,de,ike->ik", away, np.linalg.inv(spread), away)
    for n_rows in (1000, 7):
        monkeypatch.setattr("m2st._clustering._mixture._CHUNK", n_rows)
        np.testing.assert_allclose(squared_distances(block, centers, spread), expected)


def test_starts_on_a_sample_lead_to_the_same_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    scales, truth = blobs(2, n_obs=600, noise=0.6)
    whole = MultiScaleClustering.from_params(4, QUICK).fit(scales, connectivities=ring(600))
    monkeypatch.setattr("m2st._clustering._estimator._START_SAMPLE", 150)
    found = MultiScaleClustering.from_params(4, QUICK).fit(scales, connectivities=ring(600))
    assert found.start_objectives_.shape == (3,)
    assert (np.diff(found.objective_) <= 1e-9).all()
    assert found.objective_[-1] == pytest.approx(whole.objective_[-1], abs=1e-3)
    assert adjusted_rand_score(whole.labels_, found.labels_) > 0.98
    assert adjusted_rand_score(truth, found.labels_) > 0.9


def test_smoothness_removes_single_labels() -> None:
    """Two halves of a ring; features alone get a few observations wrong."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 100)
    scales = [2.0 * truth[:, None] + rng.normal(size=(200, 4))]

    def boundaries(labels: np.ndarray) -> int:
        return int(np.count_nonzero(labels != np.roll(labels, 1)))

    rough = MultiScaleClustering(2).fit(scales, connectivities=None).labels_
    smooth = MultiScaleClustering(2).fit(scales, connectivities=ring(200)).labels_
    assert boundaries(smooth) < boundaries(rough)
    assert adjusted_rand_score(truth, smooth) >= adjusted_rand_score(truth, rough)
    off = MultiScaleClustering(2, smoothness=0).fit(scales, connectivities=ring(200))
    np.testing.assert_array_equal(off.labels_, rough)


def test_the_walk_is_symmetric_positive_and_blind_to_weights() -> None:
    graph = ring(12).tolil()
    graph[0, 5] = graph[5, 0] = 7.0
    weighted = 3 * graph + sparse.identity(12)
    one, other = (normalised_adjacency(matrix, 12).toarray() for matrix in (graph, weighted))
    np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(one, one.T)
    walked = propagate(normalised_adjacency(graph, 12), np.eye(12))
    np.testing.assert_allclose(walked, np.linalg.matrix_power(one, _HOPS), atol=1e-12)
    assert np.linalg.eigvalsh(walked).min() > -1e-12


def test_labels_by_hand() -> None:
    responsibilities = np.array([[0.6, 0.4, 0], [0.6, 0.4, 0], [0.3, 0.5, 0.2], [0.3, 0.4, 0.3]])
    # Nobody prefers the third domain; the fourth observation loses least.
    assert filled_labels(responsibilities).tolist() == [0, 0, 1, 2]


def test_a_domain_is_never_emptied_to_fill_another() -> None:
    responsibilities = np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.8, 0.1, 0.1]])
    assert sorted(filled_labels(responsibilities).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("n_domains", [1, 2, 7, 12])
def test_exactly_n_domains_come_out(n_domains: int) -> None:
    rng = np.random.default_rng(0)
    # Only three distinct observations: most domains start empty.
    scales = [np.repeat(rng.normal(size=(3, 4)), 4, axis=0)]
    labels = MultiScaleClustering.from_params(n_domains, QUICK).fit(scales).labels_
    assert set(labels.tolist()) == set(range(n_domains))


def test_constant_embeddings_do_not_break() -> None:
    found = MultiScaleClustering.from_params(2, QUICK).fit([np.ones((10, 3)), np.zeros((10, 2))])
    assert set(found.labels_.tolist()) == {0, 1}
    assert np.isfinite(found.objective_).all()


def test_domains_are_numbered_by_size_and_match_their_centres() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [20, 50, 130])
    scales = [6 * np.eye(3)[truth] + 0.1 * rng.normal(size=(200, 3))]
    found = MultiScaleClustering.from_params(3, QUICK).fit(scales)
    assert np.bincount(found.labels_).tolist() == [130, 50, 20]
    distance = ((found.common_[:, None] - found.centers_[-1][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), found.labels_)
    np.testing.assert_array_equal(found.responsibilities_.argmax(axis=1), found.labels_)


def test_unit_and_offset_of_a_scale_do_not_matter() -> None:
    scales, _ = blobs(0)
    one = MultiScaleClustering.from_params(4, QUICK).fit(scales).labels_
    other = MultiScaleClustering.from_params(4, QUICK).fit([1e6 * scales[0] + 5, scales[1]]).labels_
    assert adjusted_rand_score(one, other) == pytest.approx(1)


def test_permuting_observations_permutes_labels(rng: np.random.Generator) -> None:
    scales, _ = blobs(0)
    order = rng.permutation(200)
    graph = ring(200)
    one = MultiScaleClustering.from_params(4, QUICK).fit(scales, connectivities=graph).labels_
    other = (
        MultiScaleClustering.from_params(4, QUICK)
        .fit([scale[order] for scale in scales], connectivities=graph[order][:, order])
        .labels_
    )
    assert adjusted_rand_score(one[order], other) == pytest.approx(1)


def test_other_observations_get_the_domains_of_the_first() -> None:
    scales, truth = blobs(0)
    found = MultiScaleClustering.from_params(4, QUICK).fit([scale[:150] for scale in scales])
    responsibilities = found.predict_proba([scale[150:] for scale in scales])
    both = np.r_[found.labels_, responsibilities.argmax(axis=1)]
    assert adjusted_rand_score(truth, both) > 0.95
    again = found.predict_proba([scale[:150] for scale in scales])
    assert (again.argmax(axis=1) == found.labels_).mean() > 0.99
    smooth = found.predict_proba(scales, connectivities=ring(200))
    np.testing.assert_allclose(smooth.sum(axis=1), 1)
    with pytest.raises(ValueError, match=r"Expected embeddings of widths \[10, 6\], found \[6\]"):
        found.predict_proba(scales[1:])
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        MultiScaleClustering(4).predict_proba(scales)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        MultiScaleClustering(4).refit([])


def test_best_start_is_kept_and_seeds_repeat() -> None:
    scales, _ = blobs(3, noise=1.5)
    first = MultiScaleClustering(4, random_state=5).fit(scales)
    again = MultiScaleClustering(4, random_state=5).fit(scales)
    # With all weight on the common representation, the objective is that of the start.
    assert first.objective_[-1] <= first.start_objectives_.min() + 1e-12
    assert len(first.start_objectives_) == ClusteringParams().n_init
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.common_, again.common_)


def test_entropy_spreads_the_weights() -> None:
    scales, _ = blobs(0)
    scales[1] = np.random.default_rng(1).normal(size=scales[1].shape)
    spread = [
        np.ptp(
            MultiScaleClustering.from_params(
                4, ClusteringParams(weight_entropy=weight_entropy, n_init=2)
            )
            .fit(scales)
            .scale_weights_
        )
        for weight_entropy in (0.1, 100.0)
    ]
    assert spread[0] > 10 * spread[1]


def test_a_better_start_improves_and_a_worse_one_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two domains taken for one, and one for two, is an optimum that no small step leaves."""
    scales, truth = blobs(3, n_obs=400)
    graph = ring(400)
    mistaken = np.where(truth == 1, 0, truth)
    mistaken[np.flatnonzero(truth == 2)[::2]] = 1
    best = MultiScaleClustering.from_params(4, QUICK).fit(scales, connectivities=graph)
    with monkeypatch.context() as patch:
        patch.setattr("m2st._clustering._estimator.initial_labels", lambda *_: mistaken)
        found = MultiScaleClustering.from_params(4, QUICK).fit(scales, connectivities=graph)
    assert adjusted_rand_score(truth, found.labels_) < 0.8
    before = found.objective_[-1]
    kept = found.labels_
    found.refit([mistaken, np.arange(400) % 2], connectivities=graph)
    assert found.labels_ is kept
    assert found.refit([mistaken, truth], connectivities=graph) is found
    assert found.objective_[-1] < before
    assert found.objective_[-1] == pytest.approx(best.objective_[-1], abs=1e-3)
    assert (np.diff(found.objective_) <= 1e-9).all()
    assert adjusted_rand_score(truth, found.labels_) > 0.98


def test_every_setting_is_a_parameter() -> None:
    estimator = MultiScaleClustering.from_params(3, QUICK, random_state=7)
    assert {field.name for field in fields(ClusteringParams)} == set(estimator.get_params()) - {
        "n_domains",
        "random_state",
    }
    assert estimator.n_init == QUICK.n_init
    twin = clone(estimator)
    assert twin.get_params() == estimator.get_params()
    assert estimator.set_params(n_domains=2, smoothness=1).smoothness == 1
    scales, _ = blobs(0)
    assert not hasattr(twin, "labels_")
    np.testing.assert_array_equal(twin.fit_predict(scales), twin.labels_)
    assert twin.n_features_in_ == 16
    with pytest.raises(ValueError, match="Expected `n_init` to be at least 1, found 0"):
        MultiScaleClustering(2, n_init=0).fit(scales)


def test_a_single_array_is_one_scale() -> None:
    scales, _ = blobs(0)
    one = MultiScaleClustering(4, n_init=3).fit(scales[0])
    other = MultiScaleClustering(4, n_init=3).fit(scales[:1])
    np.testing.assert_array_equal(one.labels_, other.labels_)
    np.testing.assert_array_equal(one.predict(scales[0]), other.predict(scales[:1]))
    assert one.n_features_in_ == 10
    with pytest.raises(ValueError, match="X has 6 features"):
        one.predict(scales[1])


@parametrize_with_checks([MultiScaleClustering(3, n_init=2)])
def test_scikit_learn_checks(estimator: MultiScaleClustering, check: Callable[..., None]) -> None:
    check(estimator)


def test_warns_when_not_converged() -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iterations"):
        MultiScaleClustering(4, max_iter=1, short_iter=1, n_init=1).fit(blobs(0, noise=2)[0])


def test_better_than_the_published_update_rule() -> None:
    """On planted domains; the published rule has no descent to rely on."""
    scores = []
    for seed in range(3):
        scales, truth = blobs(seed, n_obs=120, noise=0.8)
        ours = MultiScaleClustering.from_params(4, QUICK, random_state=seed).fit(scales).labels_
        published = reference.published_clustering(
            scales, 4, specific_dim=4, n_iter=20, random_state=seed
        )
        scores.append([adjusted_rand_score(truth, labels) for labels in (ours, published)])
    ours, published = np.mean(scores, axis=0)
    assert ours > published


def test_bad_input() -> None:
    scales, _ = blobs(0)
    with pytest.raises(ValueError, match="Expected at least one embedding, found none"):
        check_embeddings([])
    with pytest.raises(ValueError, match=r"the same observations, found \[200, 199\] rows"):
        MultiScaleClustering(2).fit([scales[0], scales[1][1:]])
    with pytest.raises(ValueError, match=r"`embeddings\[1\]` to be finite, found NaN"):
        MultiScaleClustering(2).fit([scales[0], np.full((200, 2), np.nan)])
    with pytest.raises(ValueError, match="no more `n_domains` than observations, 200, found 201"):
        MultiScaleClustering(201).fit(scales)
    with pytest.raises(ValueError, match="Expected `n_domains` to be at least 1, found 0"):
        MultiScaleClustering(0).fit(scales)
    with pytest.raises(ValueError, match=r"shape \(200, 200\)"):
        MultiScaleClustering(2).fit(scales, connectivities=ring(50))


@pytest.mark.parametrize(("amplitude", "tied"), [(5.0, True), (5.3, False)])
def test_of_tied_starts_the_smoothest_is_taken(amplitude: float, *, tied: bool) -> None:
    """Groups scattered over the tissue explain as much as bands of it, or clearly more."""
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(900), 30)
    bands, scattered = rows // 10, rng.permutation(np.repeat(range(3), 300))
    embedding = rng.normal(size=(900, 6))
    embedding[:, :3] += 5.0 * np.eye(3)[bands]
    embedding[:, 3:] += amplitude * np.eye(3)[scattered]
    near = np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns) == 1
    first, followed = (
        MultiScaleClustering(3, common_dim=6, specific_dim=1, n_followed=number).fit(
            [embedding], connectivities=sparse.csr_matrix(near.astype(float))
        )
        for number in (None, 8)
    )
    assert adjusted_rand_score(first.labels_, scattered) > 0.95
    assert adjusted_rand_score(followed.labels_, bands if tied else scattered) > 0.95
    assert (followed.objective_[-1] < first.objective_[-1]) == tied
    np.testing.assert_array_equal(followed.start_objectives_, first.start_objectives_)
