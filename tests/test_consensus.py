from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from m2st._clustering import consensus, number_of_domains


def member(
    truth: np.ndarray, order: list[int], *, wrong: np.ndarray | None = None, sure: float = 0.9
) -> np.ndarray:
    """Memberships with the domains in another order, and some observations elsewhere."""
    n_domains = len(order)
    labels = truth.copy()
    if wrong is not None:
        labels[wrong] = (labels[wrong] + 1) % n_domains
    rest = (1 - sure) / (n_domains - 1)
    return np.where(np.eye(n_domains)[labels] == 1, sure, rest)[:, order]


def test_order_of_domains_does_not_matter() -> None:
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    found = consensus([member(truth, order) for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2])])
    np.testing.assert_array_equal(found.labels, truth)
    np.testing.assert_allclose(found.agreement, 1)
    np.testing.assert_allclose(found.stability, 1)
    np.testing.assert_allclose(found.responsibilities, np.where(np.eye(3)[truth] == 1, 0.9, 0.05))


def test_majority_outvotes_single_errors() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3
    members = [
        member(truth, list(rng.permutation(3)), wrong=rng.choice(300, 60, replace=False))
        for _ in range(15)
    ]
    found = consensus(members)
    each = np.mean([adjusted_rand_score(truth, m.argmax(axis=1)) for m in members])
    assert adjusted_rand_score(truth, found.labels) > 0.95 > each + 0.3


def test_stability_names_the_domain_that_moves() -> None:
    truth = np.repeat([0, 1, 2], [100, 60, 40])
    rng = np.random.default_rng(0)
    unsure = np.flatnonzero(truth == 1)
    members = [
        member(truth, [0, 1, 2], wrong=rng.choice(unsure, 20, replace=False)) for _ in range(6)
    ]
    found = consensus(members)
    assert found.stability[0] == pytest.approx(1)
    assert found.stability[1] < 0.8


def test_one_member_is_its_own_consensus() -> None:
    truth = np.repeat([0, 1], [30, 20])
    found = consensus([member(truth, [1, 0], sure=0.8)])
    np.testing.assert_array_equal(found.labels, truth)
    np.testing.assert_allclose(found.responsibilities.max(axis=1), 0.8)


def test_every_domain_keeps_an_observation() -> None:
    responsibilities = np.tile([0.5, 0.3, 0.2], (10, 1))
    found = consensus([responsibilities, responsibilities])
    assert set(found.labels.tolist()) == {0, 1, 2}


def test_number_of_domains_by_hand() -> None:
    """Members agree on 3, and the fourth domain explains little."""
    one, other = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 2, 2])
    found = number_of_domains(
        [2, 3, 4],
        {2: [one, one], 3: [one, one], 4: [one, other]},
        {1: 0.0, 2: -1.0, 3: -2.0, 4: -2.2, 5: -2.3},
    )
    np.testing.assert_allclose(found.gain, [1, 1, 0.2])
    np.testing.assert_allclose(found.stability[:2], 1)
    np.testing.assert_allclose(found.score[:2], [0, 0.8])
    assert found.stability[2] < 0.5
    assert found.score[2] == pytest.approx(found.stability[2] * 0.5)
    assert found.chosen == 3


def test_number_of_domains_of_a_single_member() -> None:
    labels = np.arange(6) % 2
    found = number_of_domains([2], {2: [labels]}, {1: 0.0, 2: -1.0, 3: -1.1})
    assert (found.chosen, found.stability.tolist()) == (2, [1.0])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="Expected responsibilities of one shape, found none"):
        consensus([])
    with pytest.raises(ValueError, match=r"found \[\(3, 2\), \(4, 2\)\]"):
        consensus([np.ones((3, 2)) / 2, np.ones((4, 2)) / 2])
