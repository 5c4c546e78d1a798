"""Names for domains: suggested by an annotated reference, or given by the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_dtype,
    check_int,
    check_key,
    check_key_added,
    check_names_as_labels,
    check_sparse,
    check_unique_names,
    warn,
)
from m2st._gene_names import explain_missing, genes_in_common, positions

if TYPE_CHECKING:
    from anndata import AnnData

    from m2st._registration import GroupSums

# Genes that both need to have: at least this number, and this share of the fewer.
_LEAST_GENES, _LEAST_SHARE = 20, 0.1
# As many categories as pictures take; barcodes are more.
_MOST_LABELS = 1000
# Columns of the table beside the labels.
_SUGGESTED, _MARGIN = "suggested", "margin"
HINT = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."


def register(
    adata: AnnData,
    reference: AnnData,
    label_key: str,
    *,
    layer: str | None = None,
    reference_layer: str | None = None,
    n_top_genes: int = 100,
    key_added: str = _keys.DEFAULT,
) -> pd.DataFrame:
    """Compare domains with the labels of an annotated reference, and suggest names (registration).

    For each domain and each label, a t statistic per gene compares log expression inside with all
    other observations. The table holds the Pearson correlation of these statistics, over the genes
    that tell the labels apart: the `n_top_genes` with the highest statistic of each label. Nothing
    is trained, and the domains stay as they are.

    Parameters
    ----------
    adata
        n_obs observations with domains.
    reference
        Annotated observations, of the same tissue and species. The technology may be another.
    label_key
        Column of ``reference.obs`` with the labels; observations may lack one.
    layer
        Layer of `adata` with the expression; None takes ``X``. Counts are divided by library sizes,
        and logarithms are taken. Values on a log scale are recognised and used as they are.
    reference_layer
        The same of the reference.
    n_top_genes
        Genes for each label, at least 10.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    A row for each domain, a column for each label with the correlation in [-1, 1], NaN for a domain
    without observations. Further columns: ``suggested``, a name of its own for each domain, and
    ``margin``, how far the highest correlation is ahead of the second.

    Writes
    ------
    ``uns["m2st"]["register"]``
        The table, `label_key`, and the number of genes.

    Raises
    ------
    KeyError
        If there are no domains, or a layer or the labels are missing.
    TypeError
        If an argument is no AnnData; if the labels are numbers.
    ValueError
        If fewer than 20 genes are shared, or fewer than a tenth of the smaller number of genes,
        with the likely cause; if there are fewer than two domains or labels with observations; if
        the expression is missing, negative or not finite.

    Notes
    -----
    The suggested name is the label with the highest correlation. Of several domains with one label,
    the one with the highest has its name, and the others a number behind it: ``WM``, ``WM (2)``.
    If no correlation reaches 0.25, spatialLIBD's threshold, the domain keeps its name.

    A small margin means that the domain fits two labels. Look at `m2st.pl.registration`.

    spatialLIBD sums counts over each pair of label and section first, and needs several sections.
    Here observations are compared, so that one section is enough. Neighbours are no independent
    samples: the statistics rank genes and test nothing.

    References
    ----------
    Maynard KR, Collado-Torres L et al. Transcriptome-scale spatial gene expression in the human
    dorsolateral prefrontal cortex. Nature Neuroscience 24, 2021. Pardo B et al. spatialLIBD: an
    R/Bioconductor package to visualize spatially-resolved transcriptomics data. BMC Genomics 23,
    2022 (functions ``registration_wrapper`` and ``layer_stat_cor``).

    Examples
    --------
    >>> import m2st
    >>> reference = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200, random_state=0)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"].cat.rename_categories(list("1234567"))
    >>> table = m2st.tl.register(adata, reference, "domain")
    >>> table["suggested"].tolist()
    ['L1', 'L2', 'L3', 'L4', 'L5', 'L6', 'WM']
    >>> m2st.tl.rename_domains(adata, table["suggested"])
    """
    from m2st._registration import correlations, enrichment, suggest, telling_genes

    check_int("n_top_genes", n_top_genes, minimum=10)
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_adata(reference)
    ours = Side(adata, "adata", "layer")
    theirs = Side(reference, "reference", "reference_layer")
    domains = ours.labels(keys.domain, hint=HINT)
    check_key(label_key, reference.obs, where="reference.obs")
    check_names_as_labels(reference.obs[label_key], where="reference.obs", key=label_key)
    labels = theirs.labels(label_key).remove_unused_categories()
    shared = _shared_genes(adata, reference)
    profile = ours.sums(layer, domains)
    reference_profile = theirs.sums(reference_layer, labels)
    held = reference_profile.n_obs.ravel() > 0
    names = [str(name) for name in domains.categories]
    label_names = [str(name) for name in labels.categories[held]]
    clash = {_SUGGESTED, _MARGIN} & set(label_names)
    if clash:
        msg = (
            f"Expected labels that leave the names of the table's columns, found {clash.pop()!r} "
            f"in `reference.obs[{label_key!r}]`. Rename this label."
        )
        raise ValueError(msg)
    expected = enrichment(reference_profile)[held][:, reference.var_names.get_indexer(shared)]
    observed = enrichment(profile)[:, adata.var_names.get_indexer(shared)]
    genes = telling_genes(expected, n_top_genes)
    found = correlations(observed[:, genes], expected[:, genes])
    suggestion = suggest(found, names, label_names)
    adata.uns.setdefault(keys.record, {})["register"] = {
        "label_key": label_key,
        "n_genes": len(genes),
        "domains": names,
        "labels": label_names,
        "correlation": found,
        "suggested": suggestion.names,
        "margin": suggestion.margins,
    }
    table = pd.DataFrame(found, index=pd.Index(names, name="domain"), columns=label_names)
    return table.assign(**{_SUGGESTED: suggestion.names, _MARGIN: suggestion.margins})


def score_markers(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    layer: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> pd.DataFrame:
    """Score each domain for sets of marker genes.

    The score is the mean z-score: log expression of each gene is standardised over all observations
    with a domain, then averaged over the observations of the domain and the genes of the set.

    Parameters
    ----------
    adata
        n_obs observations with domains.
    markers
        Genes of each set, by its name: ``{"white matter": ["MBP", "PLP1"]}``. Genes that are not in
        the data are left out.
    layer
        Layer with the expression, as for `register`.
    key_added
        Name of the result that has the domains.

    Returns
    -------
    A row for each domain, a column for each set; NaN for a domain without observations.

    Raises
    ------
    KeyError
        If there are no domains, or the layer is missing.
    TypeError
        If `markers` are no lists of names, or there are none.
    ValueError
        If none of a set's genes are there, with the likely cause; if there are fewer than two
        domains with observations, or no usable expression.

    Warns
    -----
    UserWarning
        If some genes of a set are not there.

    Notes
    -----
    scanpy's ``score_genes`` subtracts random control genes from each cell. Here the other domains
    are the control, so that panels with few genes have scores, too.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> table = m2st.tl.score_markers(adata, {"first": ["gene1", "gene2"]})
    >>> table.shape
    (7, 1)
    """
    from m2st._registration import standardised

    check_adata(adata)
    keys = check_key_added(adata, key_added)
    side = Side(adata, "adata", "layer")
    domains = side.labels(keys.domain, hint=HINT)
    sets = _columns_of_sets(adata, markers)
    scores = standardised(side.sums(layer, domains))
    return pd.DataFrame(
        {name: scores[:, columns].mean(axis=1) for name, columns in sets.items()},
        index=pd.Index(map(str, domains.categories), name="domain"),
    )


def rename_domains(
    adata: AnnData, names: Mapping[str, str] | pd.Series, *, key_added: str = _keys.DEFAULT
) -> None:
    """Give domains other names; their order, colours, confidence and record stay.

    Parameters
    ----------
    adata
        n_obs observations with domains.
    names
        New name of each domain by its present one, such as ``{"1": "white matter"}`` or the column
        ``suggested`` of the table from `register`. Domains that are not in it keep their names.
    key_added
        Name of the result that has the domains.

    Writes
    ------
    ``obs["m2st_domain"]``
        The same domains, in the same order, under the new names.
    ``obs["m2st_second_domain"]``
        Likewise, if there is a second solution, unless two domains of it would have one name.
    ``uns["m2st"]["register"]``
        The new names, if there is a table of `register`.

    Raises
    ------
    KeyError
        If there are no domains, or none of a name in `names`.
    TypeError
        If `names` is no mapping of texts to texts.
    ValueError
        If a name is empty, or two domains would have the same. Domains are not merged.

    Notes
    -----
    A model keeps the names that the domains had when it was fitted. After `m2st.Model.apply`,
    rename the domains of the other section with the same `names`.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> m2st.tl.rename_domains(adata, {"WM": "white matter"})
    >>> list(adata.obs["m2st_domain"].cat.categories)
    ['L1', 'L2', 'L3', 'L4', 'L5', 'L6', 'white matter']
    """
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_key(keys.domain, adata.obs, where="adata.obs", hint=HINT)
    domains = pd.Categorical(adata.obs[keys.domain])
    old = [str(name) for name in domains.categories]
    if isinstance(names, pd.DataFrame):
        msg = (
            "Expected `names` to give new names by present ones, found a table. Pass its column: "
            f"`names[{_SUGGESTED!r}]`."
        )
        raise TypeError(msg)
    if not isinstance(names, Mapping | pd.Series):
        msg = (
            "Expected `names` to give new names by present ones, such as "
            f"`{{{old[0] if old else '1'!r}: 'white matter'}}`, found {names!r}."
        )
        raise TypeError(msg)
    given: dict[Any, Any] = dict(names.items())
    unknown = [name for name in given if name not in old]
    if unknown:
        msg = (
            f"Expected domains of `adata.obs[{keys.domain!r}]` ({', '.join(old)}), found "
            f"{unknown[0]!r}. Check the present names."
        )
        raise KeyError(msg)
    for name in given.values():
        if not isinstance(name, str):
            msg = f"Expected texts as new names of domains, found {name!r} ({type(name).__name__})."
            raise TypeError(msg)
        if not name.strip():
            msg = f"Expected new names of domains that are not empty, found {name!r}."
            raise ValueError(msg)
    new = [given.get(name, name) for name in old]
    doubled = next((name for name in new if new.count(name) > 1), None)
    if doubled is not None:
        both = " and ".join(repr(name) for name, to in zip(old, new, strict=True) if to == doubled)
        msg = (
            f"Expected a name of its own for each domain, found {doubled!r} for {both}. Domains "
            "are not merged: choose other names."
        )
        raise ValueError(msg)
    adata.obs[keys.domain] = domains.rename_categories(new)
    if keys.second in adata.obs:
        second = pd.Categorical(adata.obs[keys.second])
        renamed = [given.get(str(name), str(name)) for name in second.categories]
        if len(set(renamed)) == len(renamed):
            adata.obs[keys.second] = second.rename_categories(renamed)
    table = adata.uns.get(keys.record, {}).get("register", {})
    if "domains" in table:
        present = dict(zip(old, new, strict=True))
        table["domains"] = [present.get(str(name), str(name)) for name in table["domains"]]


class Side(NamedTuple):
    """One of the two objects that are compared, and what the caller calls it and its layer."""

    adata: AnnData
    name: str
    layer_argument: str

    def labels(self, key: str, *, hint: str = "") -> pd.Categorical:
        """Labels of the observations, of which at least two differ."""
        where = f"{self.name}.obs[{key!r}]"
        check_key(key, self.adata.obs, where=f"{self.name}.obs", hint=hint)
        column = self.adata.obs[key]
        if pd.api.types.is_float_dtype(column):
            broken = column[column % 1 > 0]
            if len(broken):
                msg = f"Expected labels in `{where}`, found numbers such as {broken.iloc[0]:g}."
                raise TypeError(msg)
            column = column.astype("Int64")
        try:
            values = pd.Categorical(column)
        except TypeError as error:
            msg = f"Expected labels in `{where}`, found values such as lists."
            raise TypeError(msg) from error
        n_found = len(np.unique(values.codes[values.codes >= 0]))
        if not 2 <= n_found <= _MOST_LABELS:
            few = "at least 2" if n_found < 2 else f"at most {_MOST_LABELS:,}"
            msg = f"Expected {few} different labels in `{where}`, found {n_found or 'none'}."
            raise ValueError(msg)
        return values

    def sums(self, layer: str | None, labels: pd.Categorical) -> GroupSums:
        """Sums of log expression by label, of all genes."""
        from m2st._registration import group_sums, survey

        matrix, name = self.expression(layer)
        found = survey(matrix)
        if not found.finite or found.smallest < 0:
            seen = f"values down to {found.smallest:.3g}" if found.finite else "NaN or infinity"
            msg = (
                f"Expected counts or their logarithms in `{name}`, found {seen}. Name the layer "
                f"that holds them with `{self.layer_argument}=`."
            )
            raise ValueError(msg)
        filled = (labels.codes >= 0) & (found.logged | (found.totals > 0))
        n_filled = len(np.unique(labels.codes[filled]))
        if n_filled < 2:
            msg = (
                f"Expected counts in `{name}` for observations of at least 2 labels, found "
                f"{n_filled or 'none'}. Check that this is the right matrix."
            )
            raise ValueError(msg)
        return group_sums(matrix, found, labels.codes, len(labels.categories))

    def expression(self, layer: str | None) -> tuple[Any, str]:
        """Matrix of the expression, in memory or in a file, and its name for messages."""
        matrix, name = self.adata.X, f"{self.name}.X"
        if layer is not None:
            check_key(layer, self.adata.layers, where=f"{self.name}.layers")
            matrix, name = self.adata.layers[layer], f"{self.name}.layers[{layer!r}]"
        if matrix is None:
            msg = (
                f"Expected expression in `{name}`, found None. Name the layer that holds it with "
                f"`{self.layer_argument}=`."
            )
            raise ValueError(msg)
        if sparse.issparse(matrix):
            return check_sparse(matrix, name=name), name
        check_dtype(matrix.dtype, name=name)
        return matrix, name


def _shared_genes(adata: AnnData, reference: AnnData) -> pd.Index:
    """Genes that both have, in the reference's order."""
    for side, name in ((adata, "adata"), (reference, "reference")):
        fix = f"{name}.var_names_make_unique()"
        check_unique_names(side.var_names, name=f"{name}.var_names", fix=fix)
    least = max(_LEAST_GENES, int(_LEAST_SHARE * min(adata.n_vars, reference.n_vars)))
    return genes_in_common(
        reference.var_names,
        adata.var_names,
        adata.var,
        least=least,
        expected=f"at least {least} of the reference's genes",
        another="take a reference of",
        theirs=reference.var,
    )


def _columns_of_sets(
    adata: AnnData, markers: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.intp]]:
    """Columns of the genes of each set that are there."""
    check_unique_names(adata.var_names, name="var_names", fix="adata.var_names_make_unique()")
    if not isinstance(cast("object", markers), Mapping) or not markers:
        msg = (
            "Expected `markers` to give genes by the name of a set, such as "
            f"`{{'white matter': ['MBP', 'PLP1']}}`, found {markers!r}."
        )
        raise TypeError(msg)
    sets = {}
    for name, genes in cast("Mapping[str, Any]", markers).items():
        listed = isinstance(genes, Collection) and not isinstance(genes, str) and len(genes) > 0
        if not listed or not all(isinstance(gene, str) for gene in genes):
            msg = f"Expected a list of genes for {name!r} in `markers`, found {genes!r}."
            raise TypeError(msg)
        wanted = list(dict.fromkeys(genes))
        columns = positions(wanted, adata.var_names)
        if not (columns >= 0).any():
            msg = explain_missing(
                wanted,
                adata.var_names,
                adata.var,
                expected=f"genes of the set {name!r}",
                owner="set",
                another="give markers by the names of",
            )
            raise ValueError(msg)
        lacking = [gene for gene, column in zip(wanted, columns, strict=True) if column < 0]
        if lacking:
            msg = (
                f"Expected the {len(wanted)} genes of the set {name!r} in `adata.var_names`, found "
                f"{len(wanted) - len(lacking)}. The others are left out: "
                f"{', '.join(lacking[:3])}{', …' if len(lacking) > 3 else ''}."
            )
            warn(msg)
        sets[name] = columns[columns >= 0]
    return sets
