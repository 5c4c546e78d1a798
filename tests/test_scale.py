"""Large data: what must not grow with the square of the number of observations."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from m2st import AutoencoderParams
from m2st._checks import check_features
from m2st._ensemble import needed_memory

# A square matrix of bytes would take 37 GiB; the run takes about two, and libraries map some more.
CAPPED = """
import resource
limit = 10 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import anndata
import numpy as np
import m2st

n_obs = 200_000
rng = np.random.default_rng(0)
places = rng.uniform(0, 450, (n_obs, 2))
bands = (places[:, 1] // 150).astype(int)
features = rng.normal(size=(3, 10))[bands] + rng.normal(size=(n_obs, 10))
adata = anndata.AnnData(obsm={"spatial": places, "X_mine": features.astype(np.float32)})
settings = m2st.AutoencoderParams(n_members=2, scale_dims=(16, 8), hidden_dim=32, n_epochs=20)
clustering = m2st.ClusteringParams(n_init=2)
m2st.run(
    adata, 3, use_rep="X_mine", autoencoder=settings, clustering=clustering, progress=False
)
assert adata.obs["m2st_confidence"].between(0, 1).all()
print(m2st.metrics.ari(bands, adata.obs["m2st_domain"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is capped on Linux")
def test_nothing_is_quadratic_at_200_000_observations() -> None:
    found = subprocess.run(
        [sys.executable, "-c", CAPPED],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) > 0.9


# Peak memory of a run, and the estimate of it, both in GiB.
ESTIMATED = """
import resource
import anndata
import numpy as np
import m2st
from m2st._ensemble import needed_memory

n_obs = 60_000
rng = np.random.default_rng(0)
places = rng.uniform(0, 245, (n_obs, 2))
bands = (places[:, 1] // 82).astype(int)
features = rng.normal(size=(3, 15))[bands] + rng.normal(size=(n_obs, 15))
adata = anndata.AnnData(obsm={"spatial": places, "X_mine": features.astype(np.float32)})
m2st.pp.spatial_graph(adata)
settings = m2st.AutoencoderParams(n_members=5, n_epochs=2)
few = m2st.ClusteringParams(n_init=2)
m2st.tl.embed(adata, settings, use_rep="X_mine", n_jobs=1, progress=False)
m2st.tl.cluster(adata, 10, few, n_jobs=1)
graph = adata.obsp["spatial_connectivities"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
print(needed_memory(adata.obsm["X_mine"], graph, settings, 5, 1))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in KiB on Linux")
def test_estimate_of_memory_is_near_the_peak() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ESTIMATED],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    peak, estimate = map(float, found.stdout.split())
    assert estimate == pytest.approx(peak, rel=0.3)


def test_estimate_of_memory_counts_the_averages_once() -> None:
    n_obs, n_features = 10_000, 15
    features = np.zeros((n_obs, n_features), dtype=np.float32)
    graph = sparse.csr_matrix((n_obs, n_obs), dtype=np.float32)

    def averages(n_members: int) -> float:
        with_them, without = (
            needed_memory(features, graph, AutoencoderParams(average_hops=hops), n_members, 1)
            for hops in (4, 0)
        )
        return 2**30 * (with_them - without)

    assert averages(1) > 4 * n_obs * n_features
    assert averages(5) == pytest.approx(averages(1))


def test_a_check_takes_little_memory_and_counts_the_rows_that_are_asked() -> None:
    values = np.ones((200_000, 40), dtype=np.float32)
    values[::2] = np.nan
    valid = np.arange(len(values)) % 2 == 1
    tracemalloc.start()
    check_features(values, valid=valid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 4
    values[[1, 150_001]] = np.inf
    message = "found NaN or infinity in 2 of 100000 observations"
    with pytest.raises(ValueError, match=message):
        check_features(values, valid=valid)
