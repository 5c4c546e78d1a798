"""Data sets of Bioconductor's hubs, fetched once through R and kept as h5ad."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from m2st import _keys, io
from m2st._checks import warn
from m2st._files import write_whole
from m2st.interop import _embedded as r
from m2st.interop import read_r, to_anndata

__all__ = ["bioconductor", "from_r_file", "spatial_libd", "st_example"]

_PathLike = str | os.PathLike[str]

_MAYNARD = (
    "Maynard KR, Collado-Torres L, et al. (2021). Transcriptome-scale spatial gene expression in "
    "the human dorsolateral prefrontal cortex. Nature Neuroscience 24, 425-436. "
    "doi:10.1038/s41593-020-00787-0"
)
_SPATIAL_LIBD = {
    "title": "Human dorsolateral prefrontal cortex, Visium, 12 sections (spatialLIBD)",
    "source": "Bioconductor's ExperimentHub, spatialLIBD::fetch_data(type = 'spe')",
    "citation": _MAYNARD,
    "licence": "Artistic-2.0, that of the package spatialLIBD",
}
# Where each form of the data keeps the layers, best first.
_LAYERS = ("layer_guess_reordered", "layer_guess", "ground_truth", "spatialLIBD")
_DOMAIN = "domain"


def spatial_libd(
    sample: str | Sequence[str] | None = None,
    *,
    path: _PathLike | None = None,
    cache: _PathLike | None = None,
) -> AnnData:
    """Load the human dorsolateral prefrontal cortex: 12 Visium sections with annotated layers.

    Source: Bioconductor's package spatialLIBD, 33,538 genes and 47,681 spots of three donors.
    Citation: Maynard, Collado-Torres et al. (2021), Nature Neuroscience 24, 425-436. Licence: that
    of the package, Artistic-2.0.

    Parameters
    ----------
    sample
        Sections such as ``"151673"``, one or several; all twelve by default.
    path
        Local copy to read in place of a download: ``.rds``, ``.rda`` or ``.RData`` with the
        SpatialExperiment, or with the SingleCellExperiment that came before it; or ``.h5ad``.
    cache
        Folder in which the download is kept; by default ``M2ST_CACHE``, else the user's.

    Returns
    -------
    AnnData with counts in ``X``, coordinates in ``obsm["spatial"]``, the section in
    ``obs["sample_id"]`` and the layer in ``obs["domain"]``, categorical, missing where a spot has
    none; ``uns["source"]``. From a SingleCellExperiment coordinates are in pixels of the small
    picture.

    Raises
    ------
    ConnectionError
        The hub cannot be reached; says what to do. Its downloads fail often.
    ImportError
        rpy2, R or the R package spatialLIBD is missing; says how to get it.
    KeyError
        The object has no column with layers.
    ValueError
        There is no such section.

    Examples
    --------
    >>> adata = m2st.datasets.spatial_libd("151673")  # doctest: +SKIP
    """
    adata = _load("spatial_libd", lambda: _fetch("fetchSpatialLIBD"), path=path, cache=cache)
    _from_older_form(adata)
    if sample is not None:
        wanted = [sample] if isinstance(sample, str) else [str(one) for one in sample]
        names = adata.obs["sample_id"].astype(str)
        absent = [one for one in wanted if one not in set(names)]
        if absent:
            found = ", ".join(dict.fromkeys(names))
            msg = f"Expected sections among {found}, found {', '.join(absent)}."
            raise ValueError(msg)
        adata = adata[names.isin(wanted).to_numpy()].copy()
        adata.obs["sample_id"] = adata.obs["sample_id"].cat.remove_unused_categories()
        libraries = adata.uns.get("spatial", {})
        adata.uns["spatial"] = {key: libraries[key] for key in libraries if key in wanted}
    _set_domain(adata)
    adata.uns["source"] = dict(_SPATIAL_LIBD)
    return adata


def st_example(
    name: str = "Visium_humanDLPFC",
    *,
    path: _PathLike | None = None,
    cache: _PathLike | None = None,
) -> AnnData:
    """Load an example of Bioconductor's package STexampleData, spots under the tissue only.

    Source: STexampleData; its page lists the data sets, their origin and citation. The default is
    section 151673 of :func:`spatial_libd`, whose citation holds. Licence: that of the package, MIT;
    the data sets have their own sources.

    Parameters
    ----------
    name
        Function of the package, such as ``"Visium_humanDLPFC"`` or ``"Visium_mouseCoronal"``.
    path, cache
        As for :func:`spatial_libd`.

    Returns
    -------
    AnnData with counts in ``X`` and coordinates in ``obsm["spatial"]``; ``obs["domain"]`` where
    the data set has a ground truth; ``uns["source"]``. Spots with ``in_tissue`` 0 are left out.

    Raises
    ------
    ConnectionError, ImportError
        As for :func:`spatial_libd`.

    Examples
    --------
    >>> adata = m2st.datasets.st_example()  # doctest: +SKIP
    """
    adata = _load(
        f"st_example_{name}", lambda: _fetch("fetchExample", name), path=path, cache=cache
    )
    if "in_tissue" in adata.obs:
        inside = adata.obs["in_tissue"].astype(float).to_numpy() != 0
        adata = adata[inside].copy()
    if any(column in adata.obs for column in _LAYERS):
        _set_domain(adata)
    adata.uns["source"] = {
        "title": f"{name} (STexampleData)",
        "source": f"Bioconductor's ExperimentHub, STexampleData::{name}()",
        "citation": _MAYNARD if name == "Visium_humanDLPFC" else f"see the page of {name} in R",
        "licence": "MIT, that of the package STexampleData; the data's own is with its source",
    }
    return adata


def bioconductor(
    title: str, *, path: _PathLike | None = None, cache: _PathLike | None = None
) -> AnnData:
    """Load any spatial or single-cell experiment of Bioconductor's ExperimentHub, by its title.

    Parameters
    ----------
    title
        Title of the record, exactly: in R, ``query(ExperimentHub(), "SpatialExperiment")`` lists
        them.
    path, cache
        As for :func:`spatial_libd`.

    Returns
    -------
    AnnData, as from :func:`m2st.interop.to_anndata`. ``uns["source"]`` has the record's id, its
    provider and its address, where citation and licence are found.

    Raises
    ------
    ConnectionError, ImportError
        As for :func:`spatial_libd`; ConnectionError also where no record has that title, with
        those that are similar.

    Examples
    --------
    >>> adata = m2st.datasets.bioconductor("Visium_humanDLPFC")  # doctest: +SKIP
    """

    def fetch() -> AnnData:
        found, origin = _ask("fetchHub", title)
        adata = to_anndata(found)
        record, provider, url = origin
        adata.uns["source"] = {
            "title": title,
            "source": f"Bioconductor's ExperimentHub, {record}, from {provider}, {url}",
            "citation": f"see {url}",
            "licence": f"see {url}",
        }
        return adata

    return _load(f"bioconductor_{title}", fetch, path=path, cache=cache)


def from_r_file(path: _PathLike, object: str | None = None) -> AnnData:
    """Load an object from an ``.rds``, ``.rda`` or ``.RData`` file.

    Parameters
    ----------
    path, object
        As for :func:`m2st.interop.read_r`, which this calls.

    Returns
    -------
    AnnData, as from :func:`m2st.interop.to_anndata`.

    Raises
    ------
    ImportError, RuntimeError, TypeError, ValueError, FileNotFoundError
        As :func:`m2st.interop.read_r`.

    Examples
    --------
    >>> adata = m2st.datasets.from_r_file("section.rds")  # doctest: +SKIP
    """
    return read_r(path, object)


def _fetch(function: str, *names: str) -> AnnData:
    """Fetch an object through R and convert it."""
    return to_anndata(_ask(function, *names))


def _ask(function: str, *names: str) -> Any:
    try:
        return r.call(function, *(r.strings([name]) for name in names))
    except RuntimeError as error:
        msg = (
            f"The data could not be fetched from Bioconductor's hub ({error}). Check the network "
            "and try again, or get the file on another machine (in R: `saveRDS(x, 'x.rds')`) and "
            "pass `path='x.rds'`."
        )
        raise ConnectionError(msg) from error


def _load(
    name: str,
    fetch: Callable[[], AnnData],
    *,
    path: _PathLike | None,
    cache: _PathLike | None,
) -> AnnData:
    """Read a local copy, or the cached one if it is whole; else fetch, and keep."""
    if path is not None:
        return io.read(path) if Path(path).suffix == ".h5ad" else read_r(path)
    folder = _cache_folder(cache)
    file = folder / f"{re.sub('[^A-Za-z0-9]+', '_', name).strip('_').lower()}.h5ad"
    mark = file.with_suffix(".sha256")
    if file.is_file() and mark.is_file():
        if mark.read_text().strip() == _checksum(file):
            return io.read(file, trust=True)
        msg = f"{file} is not what was kept there (another checksum): fetching it again."
        warn(msg)
    adata = fetch()
    folder.mkdir(parents=True, exist_ok=True)
    # The mark comes last and goes first, so that a file never stands beside another's.
    mark.unlink(missing_ok=True)
    io.write(adata, file, overwrite=True)
    write_whole(mark, f"{_checksum(file)}\n".encode())
    return adata


def _cache_folder(cache: _PathLike | None) -> Path:
    """Folder of downloads: as given, as ``M2ST_CACHE`` says, or the user's."""
    chosen = cache or os.environ.get("M2ST_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2st"


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_older_form(adata: AnnData) -> None:
    """Give the SingleCellExperiment of the same data the names of the SpatialExperiment."""
    if "sample_id" not in adata.obs and "sample_name" in adata.obs:
        adata.obs["sample_id"] = pd.Categorical(adata.obs["sample_name"].astype(str))
    adata.obs["sample_id"] = adata.obs["sample_id"].astype("category")
    pixels = ["imagecol", "imagerow"]
    if _keys.COORDINATES not in adata.obsm and set(pixels) <= set(adata.obs):
        adata.obsm[_keys.COORDINATES] = adata.obs[pixels].to_numpy(np.float64)


def _set_domain(adata: AnnData) -> None:
    """Copy the annotated layers to where benchmarks and metrics look for them."""
    column = next((name for name in _LAYERS if name in adata.obs), None)
    if column is None:
        msg = f"Expected a column with layers, one of {', '.join(_LAYERS)}, found none of them."
        raise KeyError(msg)
    layers = adata.obs[column].astype("category")
    adata.obs[_DOMAIN] = layers.cat.remove_unused_categories()
