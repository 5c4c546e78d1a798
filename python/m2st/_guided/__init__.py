"""Domains guided by an annotation: labels of some observations, and all others get theirs.

========  ====================================================  =======================
symbol    meaning                                               shape
========  ====================================================  =======================
x         averages of the features over four and eight steps    (n_obs, 2 · n_features)
μ, Σ      centres of the domains, covariance that they share    (n_domains, ·), (·, ·)
π         share of each domain among the labels                 (n_domains,)
o         offset of a section                                   (·,)
d         offset of a domain in a section                       (n_domains, ·)
A         share of each domain at a place of the reference      (n_places, n_domains)
========  ====================================================  =======================
"""

from m2st._guided._domains import ALIKE, Guidance, GuidedDomains

__all__ = ["ALIKE", "Guidance", "GuidedDomains"]
