"""Domains beside the labels of a reference, and names for them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from m2st._registration import (
    correlations,
    enrichment,
    group_sums,
    standardised,
    suggest,
    survey,
    telling_genes,
)

# ---- arrays


def counts(n_obs: int = 60, n_genes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Counts of three groups, the last observation in none."""
    rng = np.random.default_rng(0)
    codes = np.arange(n_obs) % 3
    codes[-1] = -1
    rates = rng.gamma(2, 2, (4, n_genes))
    return rng.poisson(rates[codes]).astype(np.float32), codes


def log_values(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    totals = values.sum(axis=1, dtype=float)
    return np.log1p(values / (totals / np.median(totals[taken]))[:, None])


def test_statistics_are_those_of_scipy() -> None:
    values, codes = counts()
    found = enrichment(group_sums(values, survey(values), codes, 3))
    logs = log_values(values, codes >= 0)[codes >= 0]
    known = codes[codes >= 0]
    expected = [stats.ttest_ind(logs[known == k], logs[known != k]).statistic for k in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mean_z_scores_are_those_of_the_definition() -> None:
    values, codes = counts()
    found = standardised(group_sums(values, survey(values), codes, 3))
    scores = stats.zscore(log_values(values, codes >= 0)[codes >= 0])
    expected = [scores[codes[codes >= 0] == k].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_storage_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values, codes = counts()
    expected = enrichment(group_sums(values, survey(values), codes, 3))
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 40)
    for kind in (np.asarray, sparse.csr_matrix, sparse.csc_matrix):
        matrix = kind(values)
        found = enrichment(group_sums(matrix, survey(matrix), codes, 3))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_logarithms_are_taken_as_they_are() -> None:
    values, codes = counts(n_genes=40)
    logs = log_values(values, codes >= 0).astype(np.float32)
    found = survey(logs)
    assert found.logged
    assert not survey(values).logged
    np.testing.assert_allclose(
        enrichment(group_sums(logs, found, codes, 3)),
        enrichment(group_sums(values, survey(values), codes, 3)),
        rtol=1e-4,
    )


def test_constant_genes_empty_groups_and_observations_without_counts() -> None:
    values, codes = counts()
    values[:, 0] = 0
    values[7] = 0
    codes[codes == 1] = 3
    sums = group_sums(values, survey(values), codes, 4)
    assert sums.n_obs.ravel().tolist() == [20, 0, 19, 19]
    for found in (enrichment(sums), standardised(sums)):
        assert np.isnan(found[1]).all()
        others = found[[0, 2, 3]]
        assert (others[:, 0] == 0).all()
        assert np.isfinite(others).all()
        assert (others[:, 1:] != 0).all()


def test_genes_that_tell_are_the_highest_of_each_label() -> None:
    statistics = np.array([[9.0, 1, 8, -9, 0], [0, 7, 1, -9, 6]])
    assert telling_genes(statistics, 1).tolist() == [0, 1]
    assert telling_genes(statistics, 2).tolist() == [0, 1, 2, 4]


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(3, 20)), rng.normal(size=(2, 20))
    np.testing.assert_allclose(correlations(ours, theirs), np.corrcoef(ours, theirs)[:3, 3:])
    ours[1] = np.nan
    assert np.isnan(correlations(ours, theirs)).any(axis=1).tolist() == [False, True, False]


def test_each_domain_gets_a_name_of_its_own() -> None:
    table = np.array([[0.5, 0.1], [0.9, 0.2], [0.1, 0.24], [np.nan, np.nan], [-0.2, 0.6]])
    found = suggest(table, ["1", "2", "3", "4", "5"], ["WM", "3"])
    # The third keeps its name, which the second label would have had.
    assert found.names == ["WM (2)", "WM", "3", "4", "3 (2)"]
    np.testing.assert_allclose(found.margins, [0.4, 0.7, 0.14, np.nan, 0.8])
