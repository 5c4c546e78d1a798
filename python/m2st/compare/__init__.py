"""m2ST beside BayesSpace, Seurat, BANKSY and methods of one's own, on the same counts."""

from m2st.compare._banksy import banksy_domains
from m2st.compare._for_r import banksy, spatial_scores
from m2st.compare._methods import METHODS, Comparison, compare_methods

__all__ = [
    "METHODS",
    "Comparison",
    "banksy",
    "banksy_domains",
    "compare_methods",
    "spatial_scores",
]
