"""Write the data on which the modules for Nextflow and Galaxy are tested.

150 spots in three layers: tables of counts and places for one, h5ad for the other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import m2st

here = Path(__file__).parent
tables, h5ad = here / "nextflow" / "tests" / "data", here / "galaxy" / "test-data"
for folder in (tables, h5ad):
    folder.mkdir(exist_ok=True)
adata = m2st.datasets.simulate_cortex(n_obs=150, n_genes=100, n_domains=3)
counts = pd.DataFrame(adata.X.toarray().astype(int), adata.obs_names, adata.var_names)
counts.to_csv(tables / "counts.csv")
places = np.asarray(adata.obsm["spatial"])
pd.DataFrame(places, adata.obs_names, ["x", "y"]).to_csv(tables / "positions.csv")
m2st.io.write(adata, h5ad / "section.h5ad", overwrite=True)
