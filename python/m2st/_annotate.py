"""From labels of some observations to domains of all."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_graph,
    check_int,
    check_key,
    check_key_added,
    check_missing_as_such,
    check_names_as_labels,
    check_several,
    check_unique_names,
    first_of,
    warn,
)
from m2st._gene_names import genes_in_common
from m2st._model import Model
from m2st._plotting import palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from m2st._guided import GuidedDomains

logger = logging.getLogger(__name__)

# Components of the expression.
_N_PCS = 30
# Labels of a name from which it can be learned.
_LEAST_LABELS = 2
# Share of the genes of the smaller set that both have to have; under the second, and under so many
# genes, a warning says so.
_LEAST_SHARED, _MOSTLY_SHARED, _FEW_GENES = 0.5, 0.9, 50
# Share of the observations that are in the reference from which it is the same section.
_SAME = 0.5


def annotate(
    adata: AnnData,
    label_key: str | None = None,
    *,
    reference: AnnData | Model | str | None = None,
    n_new: int = 0,
    layer: str | None = None,
    normalized: bool = False,
    spatial_key: str | None = None,
    sample_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> Model:
    """Carry labels from annotated observations to all others, in place.

    The labels are those of a whole section beside new ones, of a few strokes on a section, or of
    another object. No network is trained: domains are distributions of averages over the spatial
    graph. Their centres follow each new section, and its place on the annotated one counts.

    Parameters
    ----------
    adata
        n_obs observations, as for `m2st.run`.
    label_key
        Column of ``obs`` with the labels: names, missing where there are none. It is in
        `reference` if that is an AnnData, else in `adata`. Leave it out with a model.
    reference
        An annotated AnnData, which is not changed; a model that `annotate` returned or
        `m2st.load` read; or ``"spatialLIBD"`` for `m2st.datasets.spatial_libd` and its layers.
        None takes the labels in `adata`.
    n_new
        Number of domains in the new sections that no label knows. They are found without labels
        and called ``"new 1"`` and so on. The model does not keep them.
    layer
        Layer that holds the expression, of both objects; None takes ``X``.
    normalized
        The expression of both is already normalised and on a log scale.
    spatial_key
        Coordinates in ``obsm``, of both; None takes those of the graph that is there, else
        ``"spatial"``.
    sample_key
        Column of ``obs`` that names the tissue section, of `adata`, the reference, or both. An
        object without it is one section. ``"spatialLIBD"`` has its own.
    key_added
        Name of the result: it takes the place of ``m2st`` in what is written.

    Returns
    -------
    The fitted model: `m2st.Model.apply` labels other sections with it, `m2st.Model.save` keeps it.

    Writes
    ------
    ``obs["m2st_domain"]``
        Categorical, the labels in the order of the reference, by name if it has none. An
        observation with a label keeps it. Missing where the tissue is unlike all that the labels
        know, and where nothing was measured.
    ``obs["m2st_confidence"]``
        Probability that an annotator would give the label; of a missing one, the most likely. NaN
        where nothing was measured.
    ``uns["m2st_domain_colors"]``
        Those of the reference if it has a colour for each label.
    ``obsm["X_m2st_pca"]``
        float32, (n_obs, n_pcs): scores on the components of the annotated sections.
    ``uns["m2st"]``
        The graph, how features were made, and ``"apply"``: the model, ``n_unassigned``, and
        ``likeness``: how like each section, in the order of its first observation, is to the
        annotated ones; at most 1.

    The graph as `m2st.pp.spatial_graph` writes it, unless there is one that fits.

    Raises
    ------
    KeyError, TypeError, ValueError
        If labels are missing, numbers, of one name only, or of a category that none has; if the
        same section is given twice; if there is no section to seek new domains in; if the objects
        have too few genes in common, with the likely cause; if something is unfit, as in
        `m2st.run`. Nothing is written then.

    Warns
    -----
    UserWarning
        If few genes are in common; what `m2st.Model.apply` warns of.

    Notes
    -----
    A constant brings probabilities to how often labels were right on published sections
    (``benchmarks/NOTEBOOK.md`` has what other studies would have chosen). Labels that the others
    contradict are not learned from, and those of sections to be annotated are never looked at.

    A section can be unlike the annotated ones: of another patient, or with a part of the domains.
    What sets the domains apart is then not found again, and ``likeness`` is low. From .8 down to .5
    the confidence falls to that of a guess, and observations lose their labels.

    ``benchmarks/annotation.md`` has what comes out on published sections.

    References
    ----------
    Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance matrices.
    Journal of Multivariate Analysis, 2004.

    Examples
    --------
    >>> import m2st
    >>> old = m2st.datasets.simulate_cortex(n_obs=400, n_genes=200)
    >>> new = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.annotate(new, "domain", reference=old)
    >>> new.obs["m2st_domain"].cat.categories.equals(old.obs["domain"].cat.categories)
    True
    """
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_several(adata)
    check_int("n_new", n_new, minimum=0)
    known_key = sample_key
    if isinstance(reference, str):
        label_key, known_key, reference = _named(label_key, reference)
    if isinstance(reference, Model):
        if label_key is not None:
            msg = (
                f"Expected no `label_key` beside a model, which has its labels, found "
                f"{label_key!r}. Leave it out."
            )
            raise ValueError(msg)
        if reference.guide is None:
            msg = (
                "Expected a model that `m2st.annotate` returned, found one of domains without "
                "labels. Call its method `apply` to find these domains."
            )
            raise ValueError(msg)
        reference._apply(
            adata,
            labels=None,
            n_new=n_new,
            layer=layer,
            normalized=normalized,
            spatial_key=spatial_key,
            sample_key=sample_key,
            key_added=key_added,
        )
        return reference
    if label_key is None:
        msg = "Expected `label_key=`, the column with the labels, found None. Name it."
        raise ValueError(msg)
    own = reference is None
    annotated: AnnData = adata if reference is None else reference
    check_adata(annotated)
    labels = read_labels(annotated, label_key, where="adata.obs" if own else "reference.obs")
    if label_key == keys.domain and own:
        msg = (
            f"Expected labels in another column than the result, found {label_key!r} for both. "
            "Choose another `key_added`."
        )
        raise ValueError(msg)
    if own and not labels.isna().any():
        msg = (
            f"Expected observations without a label in `adata.obs[{label_key!r}]`, found none. "
            "Put the new sections into the object, or pass the annotated ones as `reference=`."
        )
        raise ValueError(msg)
    if reference is not None:
        genes = shared_genes(adata, reference)
        _check_other(adata, reference, genes, layer, labels.notna().to_numpy())
        if sample_key is not None and sample_key not in adata.obs:
            if sample_key not in annotated.obs:
                check_key(sample_key, adata.obs, where="adata.obs")
            sample_key = None
        if known_key not in annotated.obs:
            known_key = None
    else:
        genes = adata.var_names
    try:
        model = learn(
            annotated,
            label_key,
            labels,
            genes,
            layer=layer,
            normalized=normalized,
            spatial_key=spatial_key,
            sample_key=known_key,
        )
    except (KeyError, TypeError, ValueError) as error:
        if own:
            raise
        kind = next(kind for kind in (KeyError, TypeError, ValueError) if isinstance(error, kind))
        msg = f"Of the reference: {error.args[0] if kind is KeyError else error}"
        raise kind(msg) from error
    model._apply(
        adata,
        labels=np.asarray(labels.cat.codes, dtype=np.intp) if own else None,
        n_new=n_new,
        layer=layer,
        normalized=normalized,
        spatial_key=spatial_key,
        sample_key=sample_key,
        key_added=key_added,
    )
    return model


def learn(
    annotated: AnnData,
    label_key: str,
    labels: pd.Series,
    genes: pd.Index,
    *,
    layer: str | None,
    normalized: bool,
    spatial_key: str | None,
    sample_key: str | None,
) -> Model:
    """Learn labels, as `read_labels` returns them, from some genes of the sections with any."""
    known = np.ones(annotated.n_obs, dtype=bool)
    if sample_key is not None:
        check_key(sample_key, annotated.obs, where="adata.obs")
        names = annotated.obs[sample_key]
        known = names.isin(names[labels.notna().to_numpy()]).to_numpy()
    return _fit(
        annotated[known, genes].copy(),
        labels[known],
        tuple(_colors(annotated, label_key, labels)),
        layer=layer,
        normalized=normalized,
        spatial_key=spatial_key,
        sample_key=sample_key,
    )


def _named(label_key: str | None, reference: str) -> tuple[str, str, AnnData]:
    """Columns of the labels and of the sections of a data set, and the data set, by its name."""
    if reference != "spatialLIBD":
        msg = (
            f'Expected the name of a data set with labels, "spatialLIBD", found {reference!r}. '
            "Read a file with `m2st.io.read` and pass the object."
        )
        raise ValueError(msg)
    from m2st import datasets

    try:
        found = datasets.spatial_libd()
    except ConnectionError as error:
        msg = f"{error} What `m2st.datasets.spatial_libd(path='x.rds')` returns is a reference."
        raise ConnectionError(msg) from error
    return label_key or "domain", "sample_id", found


def read_labels(annotated: AnnData, label_key: str, *, where: str) -> pd.Series:
    """Labels as a categorical column without empty categories."""
    check_key(label_key, annotated.obs, where=where)
    column = annotated.obs[label_key]
    name = f"{where}[{label_key!r}]"
    if column.ndim > 1:
        msg = f"Expected one column {label_key!r} in `{where}`, found several. Rename the others."
        raise ValueError(msg)
    check_names_as_labels(column, where=where, key=label_key)
    if column.isna().all():
        msg = f"Expected labels in `{name}`, found that all are missing. Name another column."
        raise ValueError(msg)
    check_missing_as_such(column, what="labels", name=name)
    labels = column.astype("category")
    labels = labels.cat.rename_categories([str(value) for value in labels.cat.categories])
    counts = labels.value_counts(sort=False)
    unused = [str(value) for value in counts.index[counts == 0]]
    if unused:
        msg = (
            f"Expected labels of each category in `{name}`, found none of {first_of(unused)}. "
            f"Call `{where}[{label_key!r}] = {where}[{label_key!r}].cat.remove_unused_categories()`"
            " first."
        )
        raise ValueError(msg)
    if len(counts) < 2:
        msg = (
            f"Expected labels of at least two names in `{name}`, found {counts.index[0]} only. "
            "Label another domain, too."
        )
        raise ValueError(msg)
    rare = [str(value) for value in counts.index[counts < _LEAST_LABELS]]
    if rare:
        msg = (
            f"Expected at least {_LEAST_LABELS} observations with each label in `{name}`, found "
            f"one of {first_of(rare)}. Label more of them, or remove these labels."
        )
        raise ValueError(msg)
    return labels


def _check_other(
    adata: AnnData,
    reference: AnnData,
    genes: pd.Index,
    layer: str | None,
    labelled: NDArray[np.bool_],
) -> None:
    """Require a section that is not in the reference, under these or other names."""
    same = adata is reference
    if not same:
        new, known = (_fingerprints(one, genes, layer) for one in (adata, reference))
        same = float(np.isin(new, known[labelled]).mean()) > _SAME
    if same:
        msg = (
            "Expected a section that is not annotated yet, found the reference itself or a part of "
            "it. Pass another section, or leave `reference` out to complete the labels of this one."
        )
        raise ValueError(msg)


def _fingerprints(adata: AnnData, genes: pd.Index, layer: str | None) -> NDArray[np.float64]:
    """A number for each observation that tells its values from others; NaN without any values."""
    from m2st import pp
    from m2st._features import blocks

    matrix, _ = pp.find_expression(adata, layer)
    weights = np.zeros(adata.n_vars)
    # Whole numbers, so that the order of the genes changes no sum of counts.
    places = adata.var_names.get_indexer(genes)
    weights[places] = np.random.default_rng(0).integers(2**20, 2**31, len(genes))
    sums = np.zeros(adata.n_obs)
    for rows, columns, block in blocks(matrix):
        sums[rows] += block.astype(np.float64) @ weights[columns]
    fraction, power = np.frexp(np.where(sums == 0, np.nan, sums))
    rounded: NDArray[np.float64] = np.ldexp(np.round(fraction * 2**40), power)
    return rounded


def shared_genes(adata: AnnData, reference: AnnData) -> pd.Index:
    """Genes that both objects have, in the order of the reference; enough of them."""
    for one, fix in (
        (adata, "adata.var_names_make_unique()"),
        (reference, "reference.var_names_make_unique()"),
    ):
        check_unique_names(one.var_names, name="var_names", fix=fix)
    smaller = min(adata.n_vars, reference.n_vars)
    shared = genes_in_common(
        reference.var_names,
        adata.var_names,
        adata.var,
        least=max(_LEAST_SHARED * smaller, 2),
        expected=f"at least half of the {smaller} genes of the smaller set",
        another="take a reference with",
        theirs=reference.var,
    )
    if len(shared) < _MOSTLY_SHARED * smaller or len(shared) < _FEW_GENES:
        msg = (
            f"The reference and the new sections have {len(shared)} genes in common, of "
            f"{reference.n_vars} and {adata.n_vars}. Labels of domains that differ in others may "
            "be mistaken."
        )
        warn(msg)
    return shared


def _colors(annotated: AnnData, label_key: str, labels: pd.Series) -> Sequence[str]:
    """Colours of the labels, those that are kept with them if they fit."""
    from matplotlib.colors import is_color_like, to_hex

    n_labels = len(labels.cat.categories)
    kept = annotated.uns.get(_keys.colors(label_key))
    if isinstance(kept, list | tuple | np.ndarray) and len(kept) == n_labels:
        found = [str(color) for color in kept]
        if all(map(is_color_like, found)):
            return [to_hex(color) for color in found]
    return palette(n_labels)


def _fit(
    annotated: AnnData,
    labels: pd.Series,
    colors: tuple[str, ...],
    *,
    layer: str | None,
    normalized: bool,
    spatial_key: str | None,
    sample_key: str | None,
) -> Model:
    """Learn from the annotated sections, in a copy of them."""
    from m2st import pp
    from m2st._guided import GuidedDomains

    place = pp.find_place(annotated, spatial_key, sample_key)
    pp.ensure_graph(annotated, place.spatial_key, place.sample_key)
    projection = pp.project_counts(
        annotated,
        layer=layer,
        normalized=normalized,
        n_pcs=_N_PCS,
        sample_key=place.sample_key,
        random_state=0,
    )
    features = annotated.obsm[_keys.Keys().features]
    filled = ~np.isnan(features).all(axis=1)
    codes = np.where(filled, labels.cat.codes, -1).astype(np.intp)
    counts = np.bincount(codes[codes >= 0], minlength=len(colors))
    lacking = [str(labels.cat.categories[one]) for one in np.flatnonzero(counts < _LEAST_LABELS)]
    if lacking:
        msg = (
            f"Expected at least {_LEAST_LABELS} observations with counts and coordinates for each "
            f"label, found fewer of {', '.join(lacking)}. Label more of them."
        )
        raise ValueError(msg)
    guide: GuidedDomains = GuidedDomains.fit(
        features[filled],
        codes[filled],
        check_graph(annotated)[filled][:, filled],
        place.sections[filled],
        cast("NDArray[np.float64]", np.asarray(annotated.obsm[place.spatial_key]))[filled],
        n_domains=len(colors),
    )
    record = annotated.uns[_keys.Keys().record]
    return Model(
        members=(),
        domains=tuple(map(str, labels.cat.categories)),
        colors=colors,
        use_rep=None,
        normalized=normalized,
        genes=tuple(map(str, annotated.var_names)),
        projection=projection,
        common=None,
        guide=guide,
        record={
            "prepare": dict(record["prepare"]),
            "graph": dict(record["graph"]),
            "annotate": {
                "n_labels": counts,
                "versions": {name: version(name) for name in ("m2st", "numpy", "scanpy")},
            },
        },
    )
