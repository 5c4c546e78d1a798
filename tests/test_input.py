"""What enters, through every door: storage, seeds, settings, and objects that are no AnnData."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

import m2st
from m2st._training import train

QUICK = m2st.AutoencoderParams(n_members=1, scale_dims=(8, 4), hidden_dim=8, n_epochs=2)
ONCE = m2st.ClusteringParams(n_init=1, short_iter=2, max_iter=20)


def tissue(n_obs: int = 60, n_vars: int = 30) -> AnnData:
    """Counts of two halves of a tissue on a square array, ten spots wide."""
    rng = np.random.default_rng(0)
    rate = np.full((n_obs, n_vars), 1.0)
    rate[: n_obs // 2, : n_vars // 3] = 6
    adata = AnnData(rng.poisson(rate).astype(np.float32))
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n_obs), 10)).astype(float)
    return adata


def run(adata: AnnData, n_domains: Any = 2, **settings: Any) -> AnnData:
    """Run quickly; settings may replace what makes it quick."""
    quick = {"autoencoder": QUICK, "clustering": ONCE, "progress": False}
    m2st.run(adata, n_domains, **(quick | settings))
    return adata


# ---- seeds

SEEDED: dict[str, Callable[[AnnData, Any], object]] = {
    "run": lambda a, seed: run(a, random_state=seed),
    "prepare": lambda a, seed: m2st.pp.prepare(a, random_state=seed),
    "prepare_rep": lambda a, seed: m2st.pp.prepare_rep(a, "X", random_state=seed),
    "prepare_paper": lambda a, seed: m2st.pp.prepare_paper(a, random_state=seed),
    "embed": lambda a, seed: m2st.tl.embed(a, QUICK, random_state=seed, progress=False),
    "cluster": lambda a, seed: m2st.tl.cluster(a, 2, ONCE, random_state=seed),
    "choose_n_domains": lambda a, seed: m2st.tl.choose_n_domains(a, [2], ONCE, random_state=seed),
    "clustering": lambda a, seed: m2st.MultiScaleClustering(2, ONCE, random_state=seed).fit([a.X]),
    "train": lambda a, seed: train(a.X, a.obsp["spatial_connectivities"], QUICK, random_state=seed),
    "simulate": lambda a, seed: m2st.datasets.simulate_cortex(200, 80, 4, random_state=seed),
    "silhouette": lambda a, seed: m2st.metrics.silhouette(
        a.X, np.arange(60) % 2, max_obs=20, random_state=seed
    ),
}


@pytest.fixture(scope="module")
def clustered() -> AnnData:
    return run(tissue())


@pytest.mark.filterwarnings("ignore:60 of 60 observations only have counts")
@pytest.mark.parametrize("door", SEEDED)
def test_seeds_have_one_rule(door: str, clustered: AnnData) -> None:
    before = clustered.copy()
    for seed, error, words in (
        (-1, ValueError, "to be at least 0, found -1"),
        (2**32, ValueError, r"of at most 4294967295 \(2\*\*32 - 1\), found 4294967296"),
        (1.5, TypeError, r"to be a whole number, found 1\.5 \(float\)"),
        ("a", TypeError, r"to be a whole number, found 'a' \(str\)"),
        (True, TypeError, r"to be a whole number, found True \(bool\)"),
        (None, TypeError, r"to be a whole number, found None \(NoneType\)"),
    ):
        with pytest.raises(error, match=f"Expected `random_state` {words}"):
            SEEDED[door](clustered, seed)
    assert clustered.uns["m2st"].keys() == before.uns["m2st"].keys()
    SEEDED[door](before, np.uint32(2**32 - 1))


def test_the_seed_in_the_record_is_a_plain_number() -> None:
    record = run(tissue(), random_state=np.int32(5)).uns["m2st"]
    found = [record[step]["random_state"] for step in ("prepare", "embed", "cluster")]
    assert [(type(seed), seed) for seed in found] == [(int, 5)] * 3


def test_a_bad_seed_is_told_before_any_work() -> None:
    adata = tissue()
    with pytest.raises(ValueError, match="Expected `random_state`"):
        run(adata, random_state=-1)
    assert not adata.obsp
    assert not adata.uns
