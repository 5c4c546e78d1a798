"""Large data: what must not grow with the square of the number of observations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
