"""Tables of domains by section: composition, its change between conditions, sums of counts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_coordinates,
    check_int,
    check_key,
    check_key_added,
    check_numbers,
    fractional,
    recorded_key,
)
from m2st._naming import HINT, Side

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["compare_composition", "composition", "pseudobulk"]

logger = logging.getLogger(__name__)

# Of one variance between sections, no more than that is known.
_LEAST_SECTIONS = 2
_MOST_SECTIONS = 10_000
_N_OBS = "n_obs"


def composition(
    adata: AnnData,
    sample_key: str,
    *,
    spatial_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> pd.DataFrame:
    """Share of each domain in each section, with an interval that knows of neighbours.

    Neighbours in tissue are alike, so that 4,000 spots are not 4,000 independent observations. The
    interval is Wilson's, of the effective number of observations. Each section is cut into eight
    blocks of equal numbers of observations. The variance of the shares between blocks tells how
    many independent observations the section is worth (Kish's design effect).

    Parameters
    ----------
    adata
        n_obs observations with domains and coordinates. Observations without one of the two are
        left out.
    sample_key
        Column of ``obs`` with the section of each observation.
    spatial_key
        Key of ``obsm`` with the coordinates. None takes the coordinates that the spatial graph was
        built from, else ``"spatial"``.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    A row for each section and domain, absent domains included, with these columns:

    * ``sample`` and ``domain``
    * ``n_obs``: observations of the domain in the section
    * ``share`` of the section, from 0 to 1, and its interval at 95 %, ``low`` and ``high``; NaN for
      a section without domains
    * ``n_effective``: independent observations that the section is worth, the same in all its rows

    Raises
    ------
    KeyError
        If domains, sections or coordinates are missing.
    TypeError
        If the columns hold no labels.
    ValueError
        If an observation with a domain has no section.

    Notes
    -----
    The interval is about the tissue around the section: what share would another piece of it have?
    In simulated patchwork it held the true share in 96 % of sections or more with patches of 2.5 %
    of the width of a section, in 91 % with 5 %, in 87 % with 10 % (``benchmarks/composition.md``).
    Layers that cross the whole section occur once in each: only further sections can tell how their
    shares vary. Whether the domains are right is another question, for ``obs["m2st_confidence"]``.

    References
    ----------
    Kish L. Survey Sampling. Wiley, 1965. Korn EL, Graubard BI. Confidence intervals for proportions
    with small expected number of positive counts estimated from survey data. Survey Methodology 24,
    1998. Lahiri SN. Resampling Methods for Dependent Data. Springer, 2003 (blocks in space).

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=40, n_domains=3, n_samples=2)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> table = m2st.tl.composition(adata, "sample")
    >>> table.pivot(index="sample", columns="domain", values="share").shape
    (2, 3)
    """
    found = read_composition(adata, sample_key, spatial_key=spatial_key, key_added=key_added)
    n_sections, n_domains = found.counts.shape
    return pd.DataFrame(
        {
            "sample": np.repeat(found.sections, n_domains),
            "domain": np.tile(found.domains, n_sections),
            _N_OBS: found.counts.ravel(),
            "share": found.shares.ravel(),
            "low": found.low.ravel(),
            "high": found.high.ravel(),
            "n_effective": np.repeat(found.n_effective, n_domains),
        }
    )


def compare_composition(
    adata: AnnData,
    condition_key: str,
    sample_key: str,
    *,
    reference: str | None = None,
    spatial_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> pd.DataFrame:
    r"""Compare the shares of domains between conditions, with sections as replicates.

    Shares sum to 1, so they are compared as centred log-ratios: the logarithm of the share of a
    domain over the geometric mean of all domains of the section. Each domain gets a moderated t
    test (limma's), and p-values are adjusted over all rows by Benjamini and Hochberg.

    Parameters
    ----------
    adata
        n_obs observations with domains and coordinates. Observations without one of the two are
        left out.
    condition_key
        Column of ``obs`` with the condition, one for all observations of a section. Sections
        without a condition are left out.
    sample_key
        Column of ``obs`` with the replicate: the section. If donors have several sections each,
        these are no independent replicates: give the column of the donor here.
    reference
        Condition that all others are compared with. None takes the first one.
    spatial_key
        Key of ``obsm`` with the coordinates, as for `composition`. Those of different sections
        that one replicate has may overlap.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    A row for each condition but the reference, and each domain, with these columns:

    * ``condition``, ``reference`` and ``domain``
    * ``share`` and ``share_reference``: means over the sections, from 0 to 1
    * ``log_ratio``: difference of the mean log-ratios, natural logarithm, and its interval at 95 %,
      ``low`` and ``high``, not adjusted for the number of domains
    * ``t``, ``p_value`` and ``p_adjusted``

    A domain that no section has gets NaN.

    Raises
    ------
    KeyError
        If domains, sections, conditions or coordinates are missing.
    TypeError
        If the columns hold no labels.
    ValueError
        If a section has several conditions, or no domains; if a condition has one section only; if
        there are fewer than two conditions or domains; if the shares do not differ between the
        sections of a condition.

    Notes
    -----
    Zeros have no logarithm. Half an effective observation (see `composition`) is added to each
    domain of a section:

    .. math:: x_{sk} = \log(\tilde n_s\, p_{sk} + 1/2), \qquad
        z_{sk} = x_{sk} - \tfrac{1}{K} \textstyle\sum_j x_{sj}

    Departure from limma: the degrees of freedom of the prior are at most the residual ones, and the
    total at most :math:`K - 1` times these. Few domains cannot tell how alike their variances are,
    and the test would find too much. The error rates are in ``benchmarks/composition.md``.

    This shrinks effects a little: with 17 effective observations, 0.64 becomes 0.56.

    The effect is relative. If one domain grows, the shares of all others fall, and so do their
    log-ratios: hardly with many domains, by half of the growth with three. Look for the domain with
    the largest effect. Sections of the groups may differ in their size, not in how they were cut:
    a field with more white matter has more of it.

    References
    ----------
    Aitchison J. The Statistical Analysis of Compositional Data. Chapman and Hall, 1986. Smyth GK.
    Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments. Statistical Applications in Genetics and Molecular Biology 3, 2004. Phipson B et
    al. propeller: testing for differences in cell type proportions in single cell data.
    Bioinformatics 38, 2022.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=40, n_domains=3, n_samples=4)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> treated = adata.obs["sample"].isin(["section3", "section4"])
    >>> adata.obs["group"] = treated.map({True: "treated", False: "control"})
    >>> table = m2st.tl.compare_composition(adata, "group", "sample", reference="control")
    >>> table[["condition", "domain"]].values.tolist()
    [['treated', 'L1'], ['treated', 'L2'], ['treated', 'WM']]
    """
    from m2st._composition import compare, log_ratios

    found = read_composition(adata, sample_key, spatial_key=spatial_key, key_added=key_added)
    conditions = _conditions(adata, condition_key, sample_key)
    known = conditions.codes >= 0
    names = _ordered(conditions, reference, condition_key, sample_key)
    shares, groups = found.shares[known], pd.Index(names).get_indexer(conditions[known])
    empty = np.isnan(shares).any(axis=1)
    if empty.any():
        name = found.sections[known][empty][0]
        msg = (
            f"Expected domains in every section, found none in {name!r}. Leave this section out, "
            f"or its condition in `adata.obs[{condition_key!r}]`."
        )
        raise ValueError(msg)
    present = (shares > 0).any(axis=0)
    if present.sum() < 2:
        msg = (
            f"Expected at least 2 domains in the sections that are compared, found "
            f"{present.sum()}: one domain has all of each section."
        )
        raise ValueError(msg)
    ratios = log_ratios(shares[:, present], found.n_effective[known])
    change = compare(ratios, groups, len(names))
    if change is None:
        msg = (
            "Expected shares of domains that differ between the sections of a condition, found "
            f"the same in all. Check that `adata.obs[{sample_key!r}]` names different sections, "
            "and no copies."
        )
        raise ValueError(msg)
    means = np.stack([shares[groups == group].mean(axis=0) for group in range(len(names))])
    n_domains = len(found.domains)
    table: dict[str, Any] = {
        "condition": np.repeat(names[1:], n_domains),
        "reference": names[0],
        "domain": np.tile(found.domains, len(names) - 1),
        "share": means[1:].ravel(),
        "share_reference": np.tile(means[0], len(names) - 1),
    }
    columns = ("log_ratio", "low", "high", "t", "p_value", "p_adjusted")
    for column, values in zip(columns, change, strict=True):
        full = np.full((len(names) - 1, n_domains), np.nan)
        full[:, present] = values
        table[column] = full.ravel()
    return pd.DataFrame(table)


def pseudobulk(
    adata: AnnData,
    sample_key: str,
    *,
    layer: str | None = None,
    min_obs: int = 10,
    key_added: str = _keys.DEFAULT,
) -> AnnData:
    """Sum counts over the observations of each domain in each section, for edgeR, limma, PyDESeq2.

    Parameters
    ----------
    adata
        n_obs observations with domains, in memory or with the expression in a file. Observations
        without a domain are left out.
    sample_key
        Column of ``obs`` with the section of each observation, or with the donor.
    layer
        Layer with raw counts; None takes ``X``.
    min_obs
        Least number of observations of a domain in a section. Sums over fewer are left out.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    An AnnData with a row for each section and domain, by section first, and the same genes:

    ``X``
        int64 of shape (n_sums, n_vars): the sums.
    ``obs``
        The section, the domain and ``n_obs``, the number of observations. Columns of `adata.obs`
        that have one value in each section, such as the condition, are carried over.
    ``var``
        That of `adata`.

    Raises
    ------
    KeyError
        If domains, sections or the layer are missing.
    TypeError
        If the columns hold no labels.
    ValueError
        If the values are no counts; if an observation with a domain has no section; if no domain
        has `min_obs` observations in any section.

    Notes
    -----
    Sums over sections are the replicates of the test, not spots. Test one domain at a time between
    conditions. Do not test genes between domains in this way and believe the p-values: the same
    expression found the domains.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=40, n_domains=3, n_samples=4)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> treated = adata.obs["sample"].isin(["section3", "section4"])
    >>> adata.obs["group"] = treated.map({True: "treated", False: "control"})
    >>> sums = m2st.tl.pseudobulk(adata, "sample")
    >>> sums.shape
    (12, 40)
    >>> deep = sums[sums.obs["m2st_domain"] == "WM"].copy()

    Then, with PyDESeq2:

    >>> from pydeseq2.dds import DeseqDataSet  # doctest: +SKIP
    >>> dds = DeseqDataSet(adata=deep, design="~group")  # doctest: +SKIP
    >>> dds.deseq2()  # doctest: +SKIP
    """
    from anndata import AnnData
    from anndata.utils import make_index_unique

    from m2st._features import blocks

    check_int("min_obs", min_obs, minimum=1)
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    domains, sections = _read_labels(adata, sample_key, keys)
    matrix, name = Side(adata, "adata", "layer").expression(layer)
    n_domains = len(domains.categories)
    pairs = np.where(domains.codes >= 0, sections.codes.astype(np.intp) * n_domains, -1)
    pairs[pairs >= 0] += domains.codes[pairs >= 0]
    sizes = np.bincount(pairs[pairs >= 0], minlength=n_domains * len(sections.categories))
    kept = np.flatnonzero(sizes >= min_obs)
    if not len(kept):
        msg = (
            f"Expected a domain with at least `min_obs={min_obs}` observations in a section, "
            f"found at most {sizes.max(initial=0)}. Pass a smaller number."
        )
        raise ValueError(msg)
    rows = np.full(len(sizes), -1)
    rows[kept] = np.arange(len(kept))
    rows = np.where(pairs >= 0, rows[pairs], -1)
    taken = np.flatnonzero(rows >= 0)
    ones = np.ones(len(taken))
    members = sparse.csr_matrix((ones, (rows[taken], taken)), shape=(len(kept), adata.n_obs))
    sums = np.zeros((len(kept), adata.n_vars))
    for part, columns, block in blocks(matrix):
        values = _whole(block, name)
        sums[:, columns] += (members[:, part] @ values).toarray()
    left_out = np.count_nonzero(sizes) - len(kept)
    if left_out:
        logger.info("%d sums over fewer than %d observations are left out.", left_out, min_obs)
    of_section, of_domain = np.divmod(kept, n_domains)
    obs = pd.DataFrame(
        {
            sample_key: pd.Categorical.from_codes(of_section, _names(sections)),
            keys.domain: pd.Categorical.from_codes(of_domain, _names(domains)),
            _N_OBS: sizes[kept],
        }
    )
    counted = adata.obs[domains.codes >= 0]
    constant, examples = _constant_columns(counted, sections.codes[domains.codes >= 0])
    for column in [one for one in constant if one not in {*obs, keys.confidence}]:
        obs[column] = counted[column].iloc[examples[of_section]].array
    names = [f"{one}_{other}" for one, other in zip(obs[sample_key], obs[keys.domain], strict=True)]
    obs.index = make_index_unique(pd.Index(names))
    return AnnData(X=np.rint(sums).astype(np.int64), obs=obs, var=adata.var.copy())


class Composition(NamedTuple):
    """Shares of domains (columns) in sections (rows), and their intervals."""

    sections: NDArray[np.object_]
    domains: NDArray[np.object_]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_effective: NDArray[np.float64]
    """Shape (n_sections,)."""


def read_composition(
    adata: AnnData, sample_key: str, *, spatial_key: str | None, key_added: str
) -> Composition:
    """Count domains in sections, and find how sure their shares are."""
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    domains, sections = _read_labels(adata, sample_key, keys)
    points, placed = _read_points(adata, spatial_key)
    return count_domains(domains, sections, points, placed)


def count_domains(
    domains: pd.Categorical,
    sections: pd.Categorical,
    points: NDArray[np.float64],
    placed: NDArray[np.bool_],
) -> Composition:
    """Count domains in sections, of the observations that have both and a place."""
    from m2st._composition import effective_number, share_interval

    shape = len(sections.categories), len(domains.categories)
    counts, n_effective = np.zeros(shape, dtype=np.int64), np.full(shape[0], np.nan)
    known = placed & (domains.codes >= 0) & (sections.codes >= 0)
    for section in range(shape[0]):
        rows = np.flatnonzero(known & (sections.codes == section))
        codes = domains.codes[rows].astype(np.intp)
        counts[section] = np.bincount(codes, minlength=shape[1])
        if len(rows):
            n_effective[section] = effective_number(points[rows], codes, shape[1])
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    low, high = share_interval(shares, n_effective[:, None])
    section_names, domain_names = _names(sections), _names(domains)
    return Composition(section_names, domain_names, counts, shares, low, high, n_effective)


def _names(labels: pd.Categorical) -> NDArray[np.object_]:
    """Names of the categories."""
    return np.array([str(name) for name in labels.categories], dtype=object)


def _read_labels(
    adata: AnnData, sample_key: str, keys: _keys.Keys
) -> tuple[pd.Categorical, pd.Categorical]:
    """Domain and section of each observation; those with a domain have a section."""
    domains = _categories(adata, keys.domain, hint=HINT)
    if not (domains.codes >= 0).any():
        msg = f"Expected domains in `adata.obs[{keys.domain!r}]`, found none. {HINT}"
        raise ValueError(msg)
    sections = _read_sections(adata, sample_key)
    n_missing = int(((sections.codes < 0) & (domains.codes >= 0)).sum())
    if n_missing:
        msg = (
            f"Expected a section for each observation in `adata.obs[{sample_key!r}]`, found none "
            f"for {n_missing} of {adata.n_obs}. Fill them in or leave these observations out."
        )
        raise ValueError(msg)
    return domains, sections


def _read_sections(adata: AnnData, sample_key: str) -> pd.Categorical:
    """Section of each observation."""
    hint = "Name the column of sections: `sample_key=`."
    sections = _categories(adata, sample_key, hint=hint).remove_unused_categories()
    if len(sections.categories) > _MOST_SECTIONS:
        msg = (
            f"Expected at most {_MOST_SECTIONS:,} sections in `adata.obs[{sample_key!r}]`, found "
            f"{len(sections.categories):,}. {hint}"
        )
        raise ValueError(msg)
    return sections


def _categories(adata: AnnData, key: str, *, hint: str = "") -> pd.Categorical:
    """A column of labels as categories."""
    check_key(key, adata.obs, where="adata.obs", hint=hint)
    try:
        return pd.Categorical(adata.obs[key])
    except TypeError as error:
        msg = f"Expected labels in `adata.obs[{key!r}]`, found values such as lists."
        raise TypeError(msg) from error


def _read_points(
    adata: AnnData, spatial_key: str | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Coordinates of every observation, and which of them have a place."""
    key = spatial_key or recorded_key(adata, "spatial_key") or _keys.COORDINATES
    hint = "Name the key of the coordinates with `spatial_key=`."
    check_key(key, adata.obsm, where="adata.obsm", hint=hint)
    name = f"adata.obsm[{key!r}]"
    points = np.asarray(check_numbers(adata.obsm[key], name=name), dtype=np.float64)
    placed = np.asarray(np.isfinite(points).reshape(adata.n_obs, -1).all(axis=1))
    if not placed.any():
        msg = f"Expected finite coordinates in `{name}`, found none. Check that they were read."
        raise ValueError(msg)
    check_coordinates(points[placed], name=name)
    return points, placed


def _conditions(adata: AnnData, condition_key: str, sample_key: str) -> pd.Categorical:
    """Condition of each section; missing where no observation of it has one."""
    conditions = _categories(adata, condition_key).rename_categories(str)
    sections = _read_sections(adata, sample_key)
    codes = pd.Series(conditions.codes).groupby(sections.codes).agg(["min", "max"])
    codes = codes.reindex(range(len(sections.categories)))
    several = np.flatnonzero(codes["min"] != codes["max"])
    if len(several):
        inside = conditions[sections.codes == several[0]]
        values = [repr(name) for name in inside.remove_unused_categories().categories]
        if inside.isna().any():
            values.append("none")
        msg = (
            f"Expected one condition for all observations of a section, found {len(values)} in "
            f"{str(sections.categories[several[0]])!r}: {', '.join(values[:5])}. Check "
            f"`adata.obs[{condition_key!r}]` and `adata.obs[{sample_key!r}]`."
        )
        raise ValueError(msg)
    return pd.Categorical.from_codes(codes["min"].to_numpy(), conditions.categories)


def _ordered(
    conditions: pd.Categorical, reference: str | None, condition_key: str, sample_key: str
) -> list[str]:
    """Conditions that have sections, the reference first; each needs several."""
    counts = conditions.value_counts()
    names = [str(name) for name in conditions.categories if counts[name]]
    if len(names) < 2:
        msg = (
            f"Expected sections of at least 2 conditions in `adata.obs[{condition_key!r}]`, found "
            f"{len(names)}. Name another column."
        )
        raise ValueError(msg)
    if reference is not None and str(reference) not in names:
        msg = (
            f"Expected `reference` to be a condition of `adata.obs[{condition_key!r}]`, found "
            f"{reference!r}. Conditions: {', '.join(map(repr, names))}."
        )
        raise ValueError(msg)
    single = [name for name in names if counts[name] < _LEAST_SECTIONS]
    if single:
        msg = (
            f"Expected at least {_LEAST_SECTIONS} sections of each condition, found 1 of "
            f"{single[0]!r}. The spots of one section are no replicates: how far sections of one "
            "condition differ cannot be known from them. Add sections, or look at the shares: "
            f"`m2st.tl.composition(adata, {sample_key!r})`."
        )
        raise ValueError(msg)
    first = names[0] if reference is None else str(reference)
    return [first, *(name for name in names if name != first)]


def _whole(block: Any, name: str) -> Any:
    """Counts of a block as float64; refuses what are none."""
    values = block.data
    finite = bool(np.isfinite(values).all())
    if not finite or values.min(initial=0) < 0:
        seen = f"values down to {values.min():.3g}" if finite else "NaN or infinity"
    else:
        broken = fractional(values)
        seen = f"fractions such as {broken[0]:.4g}" if broken.size else ""
    if seen:
        msg = (
            f"Expected raw counts in `{name}`, found {seen}. Name the layer that holds the counts "
            "with `layer=`."
        )
        raise ValueError(msg)
    whole = block.astype(np.float64)
    whole.data = np.rint(whole.data)
    return whole


def _constant_columns(
    obs: pd.DataFrame, sections: NDArray[np.integer[Any]]
) -> tuple[list[str], NDArray[np.intp]]:
    """Columns with one value in each section, and a row of each section to take it from."""
    examples = np.zeros(int(sections.max()) + 1, dtype=np.intp)
    examples[sections] = np.arange(len(sections))
    found = []
    for column in obs.columns:
        try:
            codes = pd.factorize(obs[column])[0]
        except TypeError:  # of values that cannot be told apart, such as lists
            continue
        if (codes == codes[examples[sections]]).all():
            found.append(column)
    return found, examples
