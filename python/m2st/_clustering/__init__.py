"""Entropy-weighted multi-scale clustering (paper, part B).

=========  ==========================================  ==================  =======================
symbol     meaning                                     shape here          outside name
=========  ==========================================  ==================  =======================
H^m        embedding of scale m, centred and scaled    (n_obs, d_m)        ``embeddings``
H_c        representation common to all scales         (n_obs, d_c)        ``common_``
H_s^m      representation specific to scale m          (n_obs, d_s)        ``specific_``
W^m, P^m   loadings of the common, the specific one    (d_c|d_s, d_m)      --
U          responsibility of each observation              (n_obs, n_domains)  ``responsibilities_``
V^m        centres of the domains                      (n_domains, d)      ``centers_``
Σ^m        covariance that all domains share           (d, d)              ``covariances_``
α^m        weight of a scale; the last is the common   (M + 1,)            ``scale_weights_``
δ          entropy of the weights                      --                  ``weight_entropy``
η          smoothness of the domains in space          --                  ``smoothness``
ν          degrees of freedom                          --                  ``degrees_of_freedom``
=========  ==========================================  ==================  =======================

Representations are stored by observation, the transpose of the paper's.
"""

from m2st._clustering._consensus import Consensus, consensus, find_solutions, number_of_domains
from m2st._clustering._domains import KINDS, Domains
from m2st._clustering._dual import DualClustering
from m2st._clustering._estimator import MultiScaleClustering
from m2st._clustering._methods import METHODS, Estimator
from m2st._clustering._representation import Factors, common_factors
from m2st._clustering._sections import join_sections
from m2st._clustering._tree import cut_tree, domain_tree

__all__ = [
    "KINDS",
    "METHODS",
    "Consensus",
    "Domains",
    "DualClustering",
    "Estimator",
    "Factors",
    "MultiScaleClustering",
    "common_factors",
    "consensus",
    "cut_tree",
    "domain_tree",
    "find_solutions",
    "join_sections",
    "number_of_domains",
]
