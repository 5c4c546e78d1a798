"""Domains within domains: a tree over them, and groups that it joins."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_features,
    check_int,
    check_key,
    check_key_added,
    check_numbers,
)
from m2st._naming import HINT

if TYPE_CHECKING:
    from anndata import AnnData

# Entries of a record that belong to other domains than those that are written.
_OF_DOMAINS = ("cluster", "register", "tree", "n_domains")


def domain_tree(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> NDArray[np.float64]:
    """Arrange the domains in a tree, in which the nearest are merged first.

    Domains stand for their centres in the common representation, ``obsm["X_m2st"]``, and distances
    are in units of the covariance that they share. Each merge is the one that costs least: Ward's
    criterion. The domains themselves stay as they are.

    Parameters
    ----------
    adata
        n_obs observations with domains and their common representation.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    K - 1 merges as `scipy.cluster.hierarchy.linkage` has them, shape (K - 1, 4). The third column
    is the cost of a merge in nats per observation.

    Writes
    ------
    ``uns["m2st"]["tree"]["merges"]``
        What is returned; domains are counted from 0, in the order of their categories.

    Raises
    ------
    KeyError
        If there are no domains, or no representation.
    ValueError
        If a domain has no observation, or there is only one.

    Notes
    -----
    The tree describes the domains that were found. A clustering with fewer domains may cut
    elsewhere: `m2st.tl.cluster` finds them directly.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, 4, progress=False)
    >>> m2st.tl.domain_tree(adata).shape
    (3, 4)
    >>> figure = m2st.pl.domain_tree(adata)
    """
    from m2st._clustering import domain_tree as grow

    check_adata(adata)
    keys = check_key_added(adata, key_added)
    domains, representation = _domains_of(adata, keys)
    known = domains.codes >= 0
    merges = grow(
        representation[known], domains.codes[known].astype(np.intp), len(domains.categories)
    )
    adata.uns.setdefault(keys.record, {})["tree"] = {"merges": merges}
    return merges


def merge_domains(
    adata: AnnData, n_domains: int, *, key_added: str, domain_key: str = _keys.DEFAULT
) -> None:
    """Join the domains that are nearest to each other, as a result of its own.

    The tree of `domain_tree` is cut where `n_domains` groups are left. A group has the names of its
    domains: ``1+4``.

    Parameters
    ----------
    adata
        n_obs observations with domains and their common representation.
    n_domains
        Number of groups, fewer than there are domains.
    key_added
        Name of the new result, in place of ``m2st`` in all keys that are written.
    domain_key
        Name of the result whose domains are joined. It stays as it is.

    Writes
    ------
    ``obs["<key_added>_domain"]``
        Categorical: the groups, by their first domain.
    ``obs["<key_added>_confidence"]``
        NaN: it is not known how far the members agree on a group. It is not below the confidence in
        its domain.
    ``uns["<key_added>"]``
        A copy of the record, and in ``"cluster"`` the name of the result that was joined.

    Raises
    ------
    KeyError
        If there are no domains, or no representation.
    ValueError
        If the number of groups is out of range; if a domain has no observation; if `key_added` is
        the name of the joined result, or of something else.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, 4, progress=False)
    >>> m2st.tl.merge_domains(adata, 2, key_added="m2st_joined")
    >>> adata.obs["m2st_joined_domain"].nunique()
    2
    """
    from m2st._clustering import cut_tree
    from m2st._clustering import domain_tree as grow

    check_adata(adata)
    check_int("n_domains", n_domains, minimum=1)
    keys, source = nested_keys(adata, key_added, domain_key)
    domains, representation = _domains_of(adata, source)
    names = [str(name) for name in domains.categories]
    if n_domains >= len(names):
        msg = (
            f"Expected `n_domains` below the {len(names)} domains of {source.name!r}, found "
            f"{n_domains}. Give a smaller number."
        )
        raise ValueError(msg)
    codes = domains.codes.astype(np.intp)
    known = codes >= 0
    groups = cut_tree(grow(representation[known], codes[known], len(names)), n_domains)
    joined = ["+".join(np.array(names)[groups == group]) for group in range(n_domains)]
    written = np.where(known, groups[codes], -1)
    write_nested(
        adata,
        keys,
        source,
        pd.Categorical.from_codes(written, joined),
        np.full(adata.n_obs, np.nan),
        {"n_domains": n_domains, "parent": source.name},
    )


def nested_keys(adata: AnnData, key_added: str, domain_key: str) -> tuple[_keys.Keys, _keys.Keys]:
    """Keys of a new result, and of the one whose domains it is made of."""
    keys, source = check_key_added(adata, key_added), check_key_added(adata, domain_key)
    if keys == source:
        msg = (
            f"Expected `key_added=` to name another result than `domain_key=`, found "
            f"{key_added!r} for both. Choose another name: the domains stay as they are."
        )
        raise ValueError(msg)
    check_key(source.domain, adata.obs, where="adata.obs", hint=HINT)
    return keys, source


def write_nested(
    adata: AnnData,
    keys: _keys.Keys,
    source: _keys.Keys,
    domains: pd.Categorical,
    confidence: NDArray[np.float64],
    entry: dict[str, Any],
) -> None:
    """Write domains that were made of others, with a copy of the record of these."""
    record = deepcopy(dict(adata.uns.get(source.record, {})))
    before = record.get("cluster", {})
    kept = {name: before[name] for name in ("method", "params") if name in before}
    kept["embedding_key"] = before.get("embedding_key", source.name)
    for name in _OF_DOMAINS:
        record.pop(name, None)
    record["n_members"] = record.get("n_members", 1)
    record["cluster"] = {**kept, **entry}
    adata.obs[keys.domain] = domains
    adata.obs[keys.confidence] = confidence
    if keys.second in adata.obs:  # of other domains
        del adata.obs[keys.second]
    adata.obsm.pop(keys.embedding, None)
    adata.uns.pop(_keys.colors(keys.domain), None)
    adata.uns[keys.record] = record


def _domains_of(
    adata: AnnData, keys: _keys.Keys
) -> tuple[pd.Categorical, NDArray[np.floating[Any]]]:
    """Domains, each with observations, and the representation that they are compared in."""
    check_key(keys.domain, adata.obs, where="adata.obs", hint=HINT)
    hint = "Run `m2st.tl.cluster(adata, n_domains)`, which writes it."
    check_key(keys.embedding, adata.obsm, where="adata.obsm", hint=hint)
    representation = check_numbers(adata.obsm[keys.embedding], name=keys.embedding)
    domains = pd.Categorical(adata.obs[keys.domain])
    missing = np.isnan(representation).any(axis=1)
    if not missing.all():
        check_features(representation[~missing], name=f"adata.obsm[{keys.embedding!r}]")
    domains[missing] = None
    sizes = np.bincount(domains.codes[domains.codes >= 0], minlength=len(domains.categories))
    if len(sizes) < 2:
        msg = f"Expected at least two domains in `adata.obs[{keys.domain!r}]`, found {len(sizes)}."
        raise ValueError(msg)
    if not sizes.all():
        empty = str(domains.categories[int(sizes.argmin())])
        msg = (
            f"Expected observations in each domain of `adata.obs[{keys.domain!r}]`, found none in "
            f"{empty!r}. Remove it: `adata.obs[{keys.domain!r}] = "
            f"adata.obs[{keys.domain!r}].cat.remove_unused_categories()`."
        )
        raise ValueError(msg)
    return domains, representation
