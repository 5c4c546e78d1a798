"""A fitted model: all that is needed to treat another section the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_features,
    check_graph,
    check_int,
    check_key_added,
    check_rep,
    check_several,
    check_unique_names,
    numbers_at,
    scales_of,
    warn,
    warn_invalid,
)
from m2st._ensemble import SideBySide, apply_members, processes
from m2st._features import ExpressionProjection, ReadyProjection
from m2st._gene_names import explain_missing, positions

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from scipy import sparse

    from m2st._cell_types import CellTypes
    from m2st._clustering import Domains, Factors
    from m2st._guided import GuidedDomains
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st.pp import Place

# Share of the model's genes that a section has to have, and below which a warning says so.
_LEAST_SHARED, _MOSTLY_SHARED = 0.5, 0.9


@dataclass(frozen=True)
class Member:
    """A trained network, and the domains among its embeddings; None if there are none."""

    network: MaskedGraphAutoencoder
    domains: Domains | None = None


def new_names(n_new: int) -> list[str]:
    """Names of domains that no label has."""
    return [f"new {number}" for number in range(1, n_new + 1)]


class _Scores(NamedTuple):
    """Features of the observations that have any, which these are, and what to record."""

    scores: NDArray[np.float32]
    filled: NDArray[np.bool_]
    entry: dict[str, Any]


@dataclass(frozen=True, repr=False, kw_only=True)
class Model:
    """A fitted model: what `m2st.run` returns, and `m2st.load` reads.

    It holds all that is needed to treat another section the same: genes by name, how counts become
    features, trained networks, domains, their names and colours. It holds no observation's values.

    Parameters
    ----------
    members
        Trained networks, and the domains of each.
    domains
        Names of the domains, in order; empty where the model embeds only.
    colors
        A colour for each domain, as ``#rrggbb``.
    use_rep
        Key of ready features in ``obsm``, or ``"X"``; None where features are made from expression.
    normalized
        Whether the model was fitted on values on a log scale.
    genes
        Names of all genes of the section that the model was fitted on; empty for ready features.
    projection
        From expression or ready features to those of the networks; None takes them as they are.
    common
        Loadings of the representation that all members have in common; None where there are no
        domains.
    cell_type_key, cell_types
        Column of ``obs`` that named the cell types, and their names; None and empty for a model
        without types.
    record
        ``uns["m2st"]`` of the run: settings, seed, versions.
    guide
        What `m2st.annotate` learned from labels, in place of members; None for other models. It
        holds places of the annotated sections, and the share of each label around them.

    Raises
    ------
    ValueError
        If these do not fit each other.
    """

    members: tuple[Member, ...]
    domains: tuple[str, ...]
    colors: tuple[str, ...]
    use_rep: str | None
    normalized: bool
    genes: tuple[str, ...]
    projection: ExpressionProjection | ReadyProjection | None
    common: Factors | None
    record: Mapping[str, Any]
    guide: GuidedDomains | None = None
    cell_type_key: str | None = None
    cell_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers = {m.domains.n_domains if m.domains else 0 for m in self.members}
        widths = {m.network.n_features for m in self.members}
        if self.guide is not None:
            numbers.add(self.guide.n_domains)
            widths.add(self.guide.n_features)
        unfit = {
            "members of different features or domains": len(numbers) != 1 or len(widths) != 1,
            "domains without a name of their own": {len(set(self.domains))} != numbers
            or len(self.domains) not in numbers,
            "domains without a colour": len(self.colors) != len(self.domains)
            or not all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in self.colors),
            "expression without a recipe": self.use_rep is None
            and not isinstance(self.projection, ExpressionProjection),
            "other features than the networks take": self.projection is not None
            and widths != {self.projection.axes.shape[1]},
            "other genes than the recipe's": isinstance(self.projection, ExpressionProjection)
            and len(self.projection.shares) != len(self.genes),
            "a common representation of other embeddings": self.common is not None
            and len(self.common.loadings[0]) != sum(map(len, self.common.means)),
            "cell types without a column, or a column without": bool(self.cell_types)
            != (self.cell_type_key is not None),
        }
        found = [what for what, is_so in unfit.items() if is_so]
        if found:
            msg = f"Expected parts of one model, found {found[0]}."
            raise ValueError(msg)

    def __repr__(self) -> str:
        found = f"{len(self.domains)} domains" if self.domains else "embeddings only"
        by = "labels" if self.guide is not None else f"{len(self.members)} members"
        used = f"{self.n_features} genes"
        if self.use_rep is not None:
            used = f"{self.n_features} columns of {self.use_rep}"
        return f"<m2st.Model: {found}, {by}, {used}>"

    @property
    def n_features(self) -> int:
        """Number of genes or of ready features that an observation is judged by."""
        if self.projection is None:
            return self.members[0].network.n_features
        return self.projection.n_features

    @property
    def genes_used(self) -> list[str]:
        """Names of the genes that an observation is judged by; empty for ready features."""
        if not isinstance(self.projection, ExpressionProjection):
            return []
        return [self.genes[gene] for gene in self.projection.genes]

    def apply(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        normalized: bool = False,
        spatial_key: str | None = None,
        sample_key: str | None = None,
        cell_type_key: str | None = None,
        n_jobs: int | None = None,
        key_added: str = _keys.DEFAULT,
    ) -> None:
        """Embed the observations of another section, and place them among the domains.

        Parameters
        ----------
        adata
            n_obs observations with coordinates in any unit, on any lattice or on none, and the
            genes of the model by name, in any order. Observations take part as in `m2st.run`, and a
            graph that is there is used as there.
        layer
            Layer that holds the expression; None takes ``X``.
        normalized
            The expression is already normalised and on a log scale. If the model was fitted on
            counts, natural logarithms are taken back first, as scanpy and Seurat write them.
        spatial_key
            Coordinates in ``obsm``; None takes those of the graph that is there, else
            ``"spatial"``.
        sample_key
            Column of ``obs`` that names the tissue section. None takes that of the graph that is
            there, if any.
        cell_type_key
            For a model that was fitted with cell types: column of ``obs`` with types of the same
            names. None takes the name of the column there. An observation of a type that the model
            does not know counts as one without a type.
        n_jobs
            Members to work on at a time, as in `m2st.tl.embed`; the result is the same. Below a
            million observations times members, one process is faster and does it all.
        key_added
            Name of the result, in place of ``m2st`` in all keys that are written.

        Writes
        ------
        ``obs["m2st_domain"]``
            Categorical, the model's domains by name; some may be empty. A model that was fitted on
            labels (`m2st.annotate`) leaves tissue unlike all of them missing, and its confidence is
            the probability that an annotator would give the label; it writes no embedding.
        ``obs["m2st_confidence"]``, ``obsm["X_m2st"]``, ``obsm["X_m2st_scale<m>"]``
            As `m2st.tl.cluster` and `m2st.tl.embed` write them; ``obsm["X_m2st_averages"]`` and
            ``obsm["X_m2st_cell_types"]``, too, if the model has these views.
        ``obsm["X_m2st_pca"]``
            float32, (n_obs, n_pcs): scores on the components of the model.
        ``uns["m2st_domain_colors"]``
            The model's colours.
        ``uns["m2st"]``
            The graph, how features were made, and in ``"apply"`` which model it was. Entries of a
            run that was there are removed.

        The graph as `m2st.pp.spatial_graph` writes it, unless there is one that fits.

        Raises
        ------
        ValueError, TypeError, KeyError
            If fewer than half of the genes are there, with the likely cause; if the model was
            fitted with cell types and there are none that it knows; if the section is unfit, as in
            `m2st.run`. Nothing is written then.

        Warns
        -----
        UserWarning
            If more than a tenth of the genes are missing; if there are cell types that the model
            does not know; what `m2st.pp.spatial_graph` and `m2st.pp.prepare` warn of. After labels:
            if a section is unlike the labelled ones.

        Notes
        -----
        A gene that is missing counts as having its mean in the section that the model was fitted
        on. Library sizes are then those of the genes that both have. Genes that the model does not
        know are not looked at.

        Depth and technology differ between sections. So each component gets the mean and the
        deviation, in each section, that it had where the model was fitted. If a section holds only
        part of the tissue, this takes away part of what sets it apart.

        A model of several sections holds their joint domains. Where a section kept domains of its
        own, the model does not hold these.
        """
        processes(n_jobs)
        self._apply(
            adata,
            labels=None,
            layer=layer,
            normalized=normalized,
            spatial_key=spatial_key,
            sample_key=sample_key,
            cell_type_key=cell_type_key,
            n_jobs=n_jobs,
            key_added=key_added,
        )

    def _apply(
        self,
        adata: AnnData,
        *,
        labels: NDArray[np.intp] | None,
        layer: str | None,
        normalized: bool,
        spatial_key: str | None,
        sample_key: str | None,
        cell_type_key: str | None = None,
        n_jobs: int | None = None,
        n_new: int = 0,
        key_added: str,
    ) -> None:
        """Do what `apply` does; labels that are known stay, -1 where there are none.

        `n_new` further domains are sought in the sections without labels.
        """
        from m2st import pp, tl

        check_adata(adata)
        keys = check_key_added(adata, key_added)
        check_several(adata)
        place = pp.find_place(adata, spatial_key, sample_key)
        self._check_new(n_new, labels, place)
        if self.use_rep is None:
            found = self._from_expression(adata, place, layer, normalized=normalized)
        else:
            if layer is not None or normalized:
                msg = (
                    f"Expected neither `layer` nor `normalized`, as this model was fitted on ready "
                    f"features, {self.use_rep}. Leave them out."
                )
                raise ValueError(msg)
            found = self._from_ready(adata, self.use_rep, place)
        types = self._types_of(adata, cell_type_key, found.filled)
        pp.ensure_graph(adata, place.spatial_key, place.sample_key)
        graph = tl.induced_subgraph(check_graph(adata), found.filled)
        if self.guide is not None:
            self._write_guided(adata, place, found, graph, labels, n_new, keys)
            return
        networks = [member.network for member in self.members]
        views = tl.views_of(found.scores, graph, networks[0].params, types, keys)
        members, probabilities = apply_members(
            networks,
            [member.domains for member in self.members if member.domains is not None],
            found.scores,
            graph,
            list(views.values()),
            n_jobs,
        )
        tl.forget_clustering(adata, keys)
        tl.write_scales(adata, SideBySide.of(members, found.filled), views, keys)
        if self.common is not None:
            together = [view for scales in members for view in (*scales, *views.values())]
            common = self.common.project(together)
            adata.obsm[keys.embedding] = tl.side_by_side(common, found.filled)
        if probabilities:
            mean = np.mean(probabilities, axis=0)
            tl.write_domains(
                adata,
                mean.argmax(axis=1),
                mean,
                found.filled,
                keys,
                self.domains,
                sure=tl.are_sure([cast("Domains", member.domains) for member in self.members]),
            )
        entry = {} if types is None else {"n_untyped": types.n_untyped}
        self._write_origin(adata, found, keys, entry)

    def _types_of(
        self, adata: AnnData, cell_type_key: str | None, filled: NDArray[np.bool_]
    ) -> CellTypes | None:
        """Types of the observations that have features, if the model was fitted with types."""
        from m2st import tl

        if self.cell_type_key is None:
            if cell_type_key is not None:
                msg = (
                    f"Expected no `cell_type_key` for a model without cell types, found "
                    f"{cell_type_key!r}. Leave it out, or fit a model with them."
                )
                raise ValueError(msg)
            return None
        key = self.cell_type_key if cell_type_key is None else cell_type_key
        if cell_type_key is None and key not in adata.obs:
            msg = (
                f"Expected cell types in `adata.obs[{key!r}]`, as the model was fitted with, found "
                "none. Name the column that has them with `cell_type_key`."
            )
            raise KeyError(msg)
        return tl.cell_types_of(adata, key, filled, self.cell_types)

    def _check_new(self, n_new: int, labels: NDArray[np.intp] | None, place: Place) -> None:
        """Require that new domains can be sought, and told from the labels."""
        check_int("n_new", n_new, minimum=0)
        if not n_new:
            return
        taken = sorted(set(new_names(n_new)) & set(self.domains))
        if taken:
            msg = f"Expected labels that no new domain is called by, found {taken[0]!r}. Rename it."
            raise ValueError(msg)
        if labels is not None and set(place.sections) <= set(place.sections[labels >= 0]):
            msg = (
                f"Expected a section without labels to seek new domains in, found labels in each, "
                f"and `n_new={n_new}`. Label some of what is new, or leave `n_new` out."
            )
            raise ValueError(msg)

    def _write_guided(
        self,
        adata: AnnData,
        place: Place,
        found: _Scores,
        graph: sparse.csr_matrix,
        labels: NDArray[np.intp] | None,
        n_new: int,
        keys: _keys.Keys,
    ) -> None:
        """Find and write the labels of all observations, and how likely they are right."""
        from m2st import tl
        from m2st._guided import ALIKE
        from m2st._plotting import palette

        filled = found.filled
        known = None if labels is None else labels[filled]
        guidance = cast("GuidedDomains", self.guide).predict(
            found.scores,
            graph,
            place.sections[filled],
            cast("NDArray[np.float64]", numbers_at(adata, place.spatial_key))[filled],
            known,
            n_new=n_new,
        )
        codes = guidance.probabilities.argmax(axis=1)
        shown = np.where(guidance.foreign, -1, codes)
        if known is not None:
            codes, shown = (np.where(known >= 0, known, one) for one in (codes, shown))
        sure = np.full(adata.n_obs, np.nan)
        sure[filled] = guidance.probabilities[np.arange(len(codes)), codes]
        tl.forget_clustering(adata, keys)
        for key in [*scales_of(adata, keys), *keys.views]:
            adata.obsm.pop(key, None)
        names = [*self.domains, *new_names(n_new)]
        tl.write_domains(adata, shown, guidance.probabilities, filled, keys, names, sure=False)
        adata.obs[keys.confidence] = sure  # also where the domain is missing
        entry = {
            "n_domains": len(names),
            "n_unassigned": int((shown < 0).sum()),
            "likeness": guidance.likeness,
        }
        self._write_origin(adata, found, keys, entry)
        adata.uns[keys.record].pop("n_members", None)
        if n_new:
            adata.uns[_keys.colors(keys.domain)] += palette(n_new, taken=list(self.colors))
        unlike = guidance.likeness[guidance.likeness < ALIKE]
        if len(unlike):
            msg = (
                f"Expected sections like the annotated ones, found {len(unlike)} of "
                f"{len(guidance.likeness)} where only {max(unlike.min(), 0):.0%} of what sets the "
                f"domains apart is found again. Usual is {ALIKE:.0%} or more. Labels there are "
                "doubtful or missing. Take a reference of the same tissue with the same domains."
            )
            warn(msg)

    def _write_origin(
        self, adata: AnnData, found: _Scores, keys: _keys.Keys, entry: Mapping[str, Any]
    ) -> None:
        """Write the features, the colours, and what the record tells of where all came from."""
        from m2st import tl

        adata.obsm.pop(keys.no_neighbors, None)
        adata.obsm[keys.features] = tl.side_by_side([found.scores], found.filled)
        if self.domains:
            adata.uns[_keys.colors(keys.domain)] = list(self.colors)
        record = adata.uns.setdefault(keys.record, {})
        record["graph"] = dict(adata.uns[_keys.GRAPH_RECORD]["graph"])
        record.pop("embed", None)
        record["prepare"] = found.entry
        n_invalid = int((~found.filled).sum())
        record["apply"] = self._origin() | {"n_invalid": n_invalid, **entry}

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write everything to a folder of safetensors and JSON files, whole or not at all.

        Parameters
        ----------
        folder
            Where to; the folder above it exists.
        overwrite
            Whether a model that is there may be replaced. A folder of other files never is.

        Raises
        ------
        FileExistsError
            If there is a model already, and `overwrite` is not set.
        ValueError
            If there is something else.
        OSError
            If it cannot be written; what was there is unchanged.
        """
        from m2st._model import _folder

        _folder.save(self, folder, overwrite=overwrite)

    def _origin(self) -> dict[str, Any]:
        """What a section's record tells of the model that was applied to it."""
        from m2st._model import _folder

        return {
            "model": _folder.digest(self),
            "n_domains": len(self.domains),
            "fitted": dict(self._fitted().get("versions", {})),
            "applied": {name: version(name) for name in ("m2st", "torch", "numpy", "scanpy")},
        }

    def _fitted(self) -> Mapping[str, Any]:
        """Entry of the record that says what the model was fitted with."""
        found: Mapping[str, Any] = self.record.get("embed", self.record.get("annotate", {}))
        return found

    def _from_expression(
        self, adata: AnnData, place: Place, layer: str | None, *, normalized: bool
    ) -> _Scores:
        """Features from counts or their logarithms; nothing is written."""
        from m2st import pp

        if self.normalized and not normalized:
            msg = (
                "Expected values on a log scale, as the model was fitted on, found "
                "`normalized=False`. Normalise the section in the same way and pass "
                "`normalized=True`, or fit a model on counts."
            )
            raise ValueError(msg)
        projection = cast("ExpressionProjection", self.projection)
        columns = self._columns(adata, self.genes_used, least=_LEAST_SHARED)
        matrix, name, *_ = pp.survey(adata, layer, place.valid, normalized=normalized)
        scores, filled = projection.apply(
            matrix,
            place.valid,
            columns,
            place.sections,
            counts=not self.normalized,
            logged=normalized,
        )
        if not filled.any():
            msg = (
                f"Expected observations with counts of the model's genes in `{name}`, found none "
                f"among {adata.n_obs}. Check that this is the right matrix."
            )
            raise ValueError(msg)
        n_there = int((columns[projection.genes] >= 0).sum())
        if n_there < _MOSTLY_SHARED * self.n_features:
            msg = (
                f"Expected the {self.n_features} genes of the model, found {n_there} of them. The "
                "others count as having their mean: domains that differ by them may be mistaken."
            )
            warn(msg)
        pp.warn_of_empty(filled, place.valid, "counts of the model's genes")
        warn_invalid(int((~place.valid).sum()), n_obs=adata.n_obs)
        entry = {
            "recipe": projection.recipe,
            **({} if layer is None else {"layer": layer}),
            "normalized": normalized,
            "n_genes": n_there,
            "n_missing": self.n_features - n_there,
            "n_pcs": scores.shape[1],
            "n_empty": int((~filled & place.valid).sum()),
        }
        return _Scores(scores, filled, entry)

    def _from_ready(self, adata: AnnData, use_rep: str, place: Place) -> _Scores:
        """Features from ready ones; nothing is written."""
        from m2st import pp

        trained_on = self.record.get("embed", {}).get("use_rep")
        if self.projection is None and trained_on == use_rep:
            msg = (
                "Expected a model that knows how its features are made, found one that was fitted "
                f"on `obsm[{use_rep!r}]`, made before. Fit it without `use_rep`, or with ready "
                "features that both sections have."
            )
            raise ValueError(msg)
        if use_rep == "X":
            adata = adata[:, self._columns(adata, self.genes, least=1)]
        features = check_rep(adata, use_rep)
        if features.shape[1] != self.n_features:
            msg = (
                f"Expected {self.n_features} columns in `{use_rep}`, as the model was fitted on, "
                f"found {features.shape[1]}. Make the same features of both sections."
            )
            raise ValueError(msg)
        filled = place.valid & ~np.isnan(features).all(axis=1)
        scores = features[filled]
        check_features(scores, name=use_rep)
        if isinstance(self.projection, ReadyProjection):
            scores = self.projection.apply(scores)
        pp.warn_of_empty(filled, place.valid, "values")
        entry = {
            "recipe": ReadyProjection.recipe,
            "use_rep": use_rep,
            "n_features": self.n_features,
            "n_pcs": scores.shape[1],
            "n_empty": int((~filled & place.valid).sum()),
        }
        return _Scores(scores, filled, entry)

    def _columns(self, adata: AnnData, needed: Sequence[str], *, least: float) -> NDArray[np.intp]:
        """Column of each gene of the model, -1 where there is none; those needed have to be."""
        fix = "adata.var_names_make_unique()"
        check_unique_names(adata.var_names, name="var_names", fix=fix)
        n_there = int((positions(needed, adata.var_names) >= 0).sum())
        if n_there < least * len(needed):
            share = "all" if least == 1 else f"at least {least:.0%} of the"
            msg = explain_missing(
                needed,
                adata.var_names,
                adata.var,
                expected=f"{share} {len(needed)} genes that the model was fitted on",
                owner="model",
                another="fit a model on",
            )
            raise ValueError(msg)
        return positions(self.genes, adata.var_names)
