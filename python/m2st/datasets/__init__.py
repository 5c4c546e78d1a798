"""Data sets: simulated, of Bioconductor's hubs, and as their authors published them."""

from m2st.datasets._cells import simulate_cells
from m2st.datasets._hub import bioconductor, from_r_file, spatial_libd, st_example
from m2st.datasets._published import annotate, slide_seq
from m2st.datasets._simulated import simulate_cortex

__all__ = [
    "annotate",
    "bioconductor",
    "from_r_file",
    "simulate_cells",
    "simulate_cortex",
    "slide_seq",
    "spatial_libd",
    "st_example",
]
