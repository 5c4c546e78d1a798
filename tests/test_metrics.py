"""The metrics against values worked out by hand, and under changes that must not matter."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2st import metrics

PAIRWISE = (metrics.ari, metrics.nmi, metrics.nmi_max, metrics.purity)
SPATIAL = (metrics.chaos, metrics.pas)

# 2 x 2 table [[2, 1], [0, 3]]
TRUTH = ["a", "a", "a", "b", "b", "b"]
LABELS = [1, 1, 2, 2, 2, 2]


def grid(n: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)


def test_docstring_examples() -> None:
    assert doctest.testmod(metrics).failed == 0


# partitions against a truth ---------------------------------------------------------------------


def test_ari_by_hand() -> None:
    # pairs together: 1 + 3 = 4 in both; 3 + 3 = 6 in truth; 1 + 6 = 7 in labels; 15 in all
    expected = 6 * 7 / 15
    assert metrics.ari(TRUTH, LABELS) == pytest.approx((4 - expected) / ((6 + 7) / 2 - expected))


def test_nmi_by_hand_under_both_normalisations() -> None:
    h_truth = np.log(2)
    h_labels = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    joint = -(1 / 3 * np.log(1 / 3) + 1 / 6 * np.log(1 / 6) + 1 / 2 * np.log(1 / 2))
    mutual = h_truth + h_labels - joint
    assert metrics.nmi(TRUTH, LABELS) == pytest.approx(mutual / ((h_truth + h_labels) / 2))
    assert metrics.nmi_max(TRUTH, LABELS) == pytest.approx(mutual / h_truth)


def test_purity_by_hand_and_not_symmetric() -> None:
    assert metrics.purity(TRUTH, LABELS) == pytest.approx(5 / 6)
    assert metrics.purity(["a", "a", "a", "b"], [1, 2, 3, 4]) == 1.0
    assert metrics.purity([1, 2, 3, 4], ["a", "a", "a", "b"]) == 0.5


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40), st.data()
)
def test_names_and_order_do_not_matter(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    truth, labels = map(list, zip(*pairs, strict=True))
    order = data.draw(st.permutations(range(len(pairs))))
    names = data.draw(st.permutations(["w", "x", "y", "z"]))
    for score in PAIRWISE:
        changed = score([truth[i] for i in order], [names[labels[i]] for i in order])
        assert changed == pytest.approx(score(truth, labels), abs=1e-12)
        assert score(truth, truth) == pytest.approx(1)
    assert metrics.nmi_max(truth, labels) <= metrics.nmi(truth, labels) + 1e-12


@pytest.mark.parametrize(
    "labels",
    [
        [1, 1, 2, 2, None, 1],
        np.array([1, 1, 2, 2, np.nan, 1]),
        pd.array([1, 1, 2, 2, pd.NA, 1], dtype="Int64"),
        pd.Categorical(["p", "p", "q", "q", None, "p"], categories=["q", "p", "unused"]),
        pd.Series(["p", "p", "q", "q", pd.NA, "p"], index=[5, 4, 3, 2, 1, 0]),
    ],
    ids=["list", "float", "Int64", "categorical", "series"],
)
def test_missing_labels_are_left_out_in_pairs(labels: object) -> None:
    truth = ["a", "a", "b", "a", "b", np.nan]
    for score in PAIRWISE:
        assert score(truth, labels) == score(["a", "a", "b", "a"], [1, 1, 2, 2])


@pytest.mark.parametrize("score", PAIRWISE)
def test_pairwise_refuses(score) -> None:
    with pytest.raises(ValueError, match=r"found 2 in `truth`, 3 in `labels`"):
        score([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"a label in `truth` and `labels`, found none among 2"):
        score([1, None], [None, 1])
    with pytest.raises(ValueError, match=r"found none among 0"):
        score([], [])
    with pytest.raises(ValueError, match=r"`truth` of shape \(n_obs,\), found \(2, 1\)"):
        score([[1], [2]], [1, 2])


# on an embedding --------------------------------------------------------------------------------


def test_silhouette_by_hand() -> None:
    # distances within: 1; to the other pair: (9.5, 10.5) for the outer, (8.5, 9.5) for the inner
    widths = [1 - 1 / 10.5, 1 - 1 / 9.5, 1 - 1 / 9.5, 1 - 1 / 10.5]
    points = [[0.0], [1.0], [10.0], [11.0]]
    assert metrics.silhouette(points, ["a", "a", "b", "b"]) == pytest.approx(np.mean(widths))


def test_davies_bouldin_by_hand() -> None:
    points = [[0.0], [2.0], [10.0], [14.0]]  # spreads 1 and 2, centres 11 apart
    assert metrics.davies_bouldin(points, [1, 1, 2, 2]) == pytest.approx(3 / 11)


def test_embedding_scores_skip_missing_labels_and_their_rows(rng: np.random.Generator) -> None:
    points = rng.normal(size=(30, 3))
    labels = np.repeat(["a", "b", "c"], 10).astype(object)
    labels[4] = None
    holed = points.copy()
    holed[4] = np.nan
    kept = labels != None  # noqa: E711
    for score in (metrics.silhouette, metrics.davies_bouldin):
        assert score(holed, labels) == score(points[kept], labels[kept])


def test_silhouette_subset_is_seeded_and_close(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 2000)
    points = rng.normal(size=(2000, 2)) + 4 * labels[:, None]
    whole = metrics.silhouette(points, labels)
    part = metrics.silhouette(points, labels, max_obs=500, random_state=1)
    assert part != whole
    assert part == pytest.approx(whole, abs=0.05)
    assert part == metrics.silhouette(points, labels, max_obs=500, random_state=1)
    assert part != metrics.silhouette(points, labels, max_obs=500, random_state=2)


@pytest.mark.parametrize("score", [metrics.silhouette, metrics.davies_bouldin])
def test_embedding_scores_refuse(score) -> None:
    points = np.arange(8.0).reshape(4, 2)
    for labels in ([1, 1, 1, 1], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=r"at least 2 different labels .* found [14] among 4"):
            score(points, labels)
    with pytest.raises(ValueError, match=r"`embedding` with one row per label, 3, found .*4, 2"):
        score(points, [1, 1, 2])
    with pytest.raises(ValueError, match=r"`embedding` to be finite"):
        score(np.where(points == 3, np.nan, points), [1, 1, 2, 2])
    with pytest.raises(ValueError, match=r"a label in `labels`, found none among 4"):
        score(points, [None] * 4)


def test_silhouette_refuses_a_tiny_subset() -> None:
    with pytest.raises(ValueError, match=r"`max_obs` to be at least 3, found 2"):
        metrics.silhouette(np.eye(4), [1, 1, 2, 2], max_obs=2)


# in space ---------------------------------------------------------------------------------------


def test_chaos_by_hand() -> None:
    points = np.array([[0.0, 0], [1, 0], [10, 0], [13, 0], [4, 0]])
    labels = ["a", "a", "b", "b", "c"]  # edges 1, 1, 3, 3 and none, over 5 observations
    assert metrics.chaos(points, labels) == pytest.approx(8 / 5 / points[:, 0].std(ddof=1))


def test_chaos_standardises_each_axis() -> None:
    points = grid(6)
    labels = np.arange(36) % 4
    assert metrics.chaos(points * [1, 50] + 7, labels) == pytest.approx(
        metrics.chaos(points, labels)
    )


def test_pas_by_hand_with_ten_neighbours() -> None:
    # 12 places on a circle: the 10 nearest are all the others but the one opposite
    angle = np.arange(12) * np.pi / 6
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    # a lone label differs from 10 of 10; the others differ from at most 1
    assert metrics.pas(circle, ["b"] + ["a"] * 11) == pytest.approx(1 / 12)
    # halves by turns: 5 or 6 others alike of the 10: an opposite label is alike, so 4 and 6
    assert metrics.pas(circle, [0, 1] * 6) == 1.0
    # two half circles: the opposite label differs, so 5 alike and 5 not: not more than half
    assert metrics.pas(circle, [0] * 6 + [1] * 6) == 0.0


def test_pas_with_few_neighbours_and_duplicates() -> None:
    line = np.column_stack([np.arange(6.0), np.zeros(6)])
    assert metrics.pas(line, list("aabaaa"), n_neighbors=2) == pytest.approx(1 / 6)
    stacked = np.repeat([[0.0, 0.0], [5.0, 5.0]], 4, axis=0)
    assert metrics.pas(stacked, list("aaaabbbb"), n_neighbors=3) == 0.0
    assert metrics.pas(stacked, list("abbbbbbb"), n_neighbors=2) == pytest.approx(1 / 8)


@pytest.mark.parametrize("score", SPATIAL)
def test_spatial_scores_rise_with_noise_and_ignore_names_and_order(
    score, rng: np.random.Generator
) -> None:
    points = grid(12)
    smooth = (points[:, 0] // 4).astype(int)
    noisy = np.where(rng.random(144) < 0.3, rng.integers(0, 3, 144), smooth)
    assert score(points, smooth) < score(points, noisy)
    assert score(points, smooth) < score(points, rng.permutation(smooth))
    order = rng.permutation(144)
    assert score(points[order], noisy[order]) == pytest.approx(score(points, noisy), rel=1e-12)
    assert score(points, np.array(["z", "x", "y"])[noisy]) == score(points, noisy)
    assert score(100 * points - 3, noisy) == pytest.approx(score(points, noisy), rel=1e-9)


@pytest.mark.parametrize("score", SPATIAL)
def test_neighbours_stay_in_their_section(score, rng: np.random.Generator) -> None:
    points = grid(6)
    first, second = rng.integers(0, 3, 36), rng.integers(0, 3, 36)
    both = np.vstack([points, points])  # the sections lie on top of each other
    together = score(both, np.r_[first, second], samples=["one"] * 36 + ["two"] * 36)
    assert together == pytest.approx((score(points, first) + score(points, second)) / 2)
    assert together != score(both, np.r_[first, second])


@pytest.mark.parametrize("score", SPATIAL)
def test_spatial_scores_skip_missing_labels(score, rng: np.random.Generator) -> None:
    points = grid(6)
    labels = rng.integers(0, 3, 36).astype(float)
    labels[[3, 20]] = np.nan
    kept = ~np.isnan(labels)
    holed = points.copy()
    holed[3] = np.inf
    assert score(holed, labels) == score(points[kept], labels[kept])


@pytest.mark.parametrize("score", SPATIAL)
def test_spatial_scores_refuse(score) -> None:
    points = grid(4)
    labels = [0, 1] * 8
    with pytest.raises(ValueError, match=r"`coordinates` with one row per label, 3, found .*16, 2"):
        score(points, [1, 2, 3])
    with pytest.raises(ValueError, match=r"found 16 in `labels`, 2 in `samples`"):
        score(points, labels, samples=[1, 2])
    with pytest.raises(ValueError, match=r"found none among 16"):
        score(points, [None] * 16)
    with pytest.raises(ValueError, match=r"finite `coordinates`"):
        score(np.where(points == 3, np.nan, points), labels)
    with pytest.raises(ValueError, match=r"`coordinates` that differ"):
        score(np.ones((16, 2)), labels)
    with pytest.raises(ValueError, match=r"`coordinates` of shape"):
        score(np.ones((16, 5)), labels)


def test_pas_refuses_small_sections_and_no_neighbours() -> None:
    points = grid(4)
    with pytest.raises(ValueError, match=r"`n_neighbors` = 10 .* each section, found 8"):
        metrics.pas(points, [0, 1] * 8, samples=["a"] * 8 + ["b"] * 8)
    with pytest.raises(ValueError, match=r"`n_neighbors` to be at least 1"):
        metrics.pas(points, [0, 1] * 8, n_neighbors=0)
