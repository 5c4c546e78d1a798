"""The output of Space Ranger: Visium, and Visium HD in bins and in cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import warn
from m2st._readers._shared import expect, find, first_line, read_10x, read_table, separator
from m2st._trust import check_image

_COUNTS = "filtered_feature_bc_matrix"
_CELL_COUNTS = "filtered_feature_cell_matrix"  # of cells, from Space Ranger 4 on
_SEGMENTATION = "cell_segmentations.geojson"
# Visium HD, Space Ranger >= 2.0, Space Ranger <= 1.3; packed as GEO has them.
_POSITIONS = (
    "tissue_positions.parquet",
    "tissue_positions.csv",
    "tissue_positions_list.csv",
    "tissue_positions.csv.gz",
    "tissue_positions_list.csv.gz",
)
_ARRAY = ["in_tissue", "array_row", "array_col"]
_PIXELS = ["pxl_row_in_fullres", "pxl_col_in_fullres"]


def find_counts(root: Path) -> Path | None:
    """Find counts of spots, bins or cells in a folder of one capture area."""
    for name in (_COUNTS, _CELL_COUNTS):
        counts = find(f"{name}.h5", root) or find(name, root)
        if counts is not None:
            return counts
    return None


def find_parts(root: Path) -> dict[str, Path]:
    """Bins of all sizes, and cells, of Visium HD."""
    parts = sorted([*root.glob("binned_outputs/square_*um"), *root.glob("square_*um")])
    return {part.name: part for part in [*parts, *sorted(root.glob("segmented_outputs"))]}


def read_space_ranger(root: Path, counts: Path, *, trust: bool) -> AnnData:
    """Read counts, positions, scale factors and images of one capture area."""
    adata = read_10x(counts, trust=trust)
    folders = (root / "spatial", root)
    of_cells = _CELL_COUNTS in counts.name
    wanted = (_SEGMENTATION,) if of_cells else _POSITIONS
    places = (root,) if of_cells else folders
    file = next((f for name in wanted if (f := find(name, *places))), None)
    if file is None:
        advice = f"Copy Space Ranger's folder `spatial` beside {counts.name}."
        if of_cells:
            advice = "Copy it from Space Ranger's `segmented_outputs`."
        msg = (
            f"Expected the positions of the {'cells' if of_cells else 'spots'} in {places[0]}, "
            f"found none of {', '.join(wanted)}. {advice}"
        )
        raise FileNotFoundError(msg)
    positions = _read_segmentation(file) if of_cells else _read_positions(file, trust=trust)
    lost = adata.obs_names[~adata.obs_names.isin(positions.index)]
    if len(lost):
        msg = (
            f"Expected a position for each of the {adata.n_obs} barcodes of {counts}, found none "
            f"for {len(lost)} (such as {lost[0]}) in {file}. Check that both are of one sample."
        )
        raise ValueError(msg)
    positions = positions.loc[adata.obs_names]
    for column in _ARRAY:
        if column in positions:
            adata.obs[column] = positions[column]
    adata.obsm[_keys.COORDINATES] = positions[_PIXELS[::-1]].to_numpy()

    scales = find("scalefactors_json.json", *folders)
    if scales is None:
        msg = f"No scalefactors_json.json in {folders[0]}: the images cannot be placed, left out."
        warn(msg)
        return adata
    with expect("Space Ranger's scale factors", scales):
        library: dict[str, Any] = {"images": {}, "scalefactors": json.loads(scales.read_bytes())}
    for size in ("hires", "lowres"):
        picture = find(f"tissue_{size}_image.png", *folders)
        if picture is not None:
            from matplotlib.image import imread

            with expect("a PNG image", picture):
                if not trust:
                    check_image(picture)
                library["images"][size] = imread(picture)
    adata.uns["spatial"] = {_library_id(root, counts): library}
    return adata


def _read_positions(file: Path, *, trust: bool) -> pd.DataFrame:
    """Read positions of any generation, indexed by barcode."""
    columns = ["barcode", *_ARRAY, *_PIXELS]
    with expect("positions of Space Ranger", file):
        frame = read_table(file, trust=trust, text=lambda file: _read_csv(file, columns))
        types = dict.fromkeys(_ARRAY, "int64") | dict.fromkeys(_PIXELS, "float64")
        frame = frame[columns].astype(types).set_index("barcode")
        doubled = int(frame.index.duplicated().sum())
        if doubled:
            msg = f"{doubled} barcodes are repeated"
            raise ValueError(msg)
    return frame


def _read_csv(file: Path, columns: list[str]) -> pd.DataFrame:
    """Read positions as text: with a header or none, and as R and spreadsheets save them again."""
    # By content, not by name: files are renamed between the two generations.
    first = first_line(file).lower()
    has_header = "barcode" in first or _ARRAY[0] in first
    frame = pd.read_csv(
        file,
        sep=separator(first),
        header=0 if has_header else None,
        encoding="utf-8-sig",
    )
    if not has_header:
        frame.columns = pd.Index(columns)
    frame.columns = frame.columns.str.strip().str.lower()
    if columns[0] not in frame:  # row names of R
        frame = frame.rename(columns={frame.columns[0]: columns[0]})
    return frame


def _read_segmentation(file: Path) -> pd.DataFrame:
    """Read the centroids of segmented cells, indexed by barcode."""
    with expect("cell segmentation of Space Ranger", file):
        cells = json.loads(file.read_bytes())["features"]
        names = [f"cellid_{int(cell['properties']['cell_id']):09d}-1" for cell in cells]
        places = [_centroid(cell["geometry"]) for cell in cells]
        frame = pd.DataFrame(places, index=pd.Index(names), columns=_PIXELS[::-1])
        doubled = int(frame.index.duplicated().sum())
        if doubled:
            msg = f"{doubled} cells are repeated"
            raise ValueError(msg)
    return frame


def _centroid(geometry: Mapping[str, Any]) -> NDArray[np.float64]:
    """Centroid of the first outline of a shape: x, y."""
    outline = geometry["coordinates"][0]
    if geometry["type"] == "MultiPolygon":
        outline = outline[0]
    points = np.asarray(outline, dtype=np.float64)[:, :2]
    middle: NDArray[np.float64] = points[:-1].mean(axis=0)
    here, there = points[:-1] - middle, points[1:] - middle
    crossed = here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]
    if crossed.sum() == 0:
        return middle
    shift: NDArray[np.float64] = (crossed[:, None] * (here + there)).sum(axis=0)
    middle += shift / (3 * crossed.sum())
    return middle


def _library_id(root: Path, counts: Path) -> str:
    """Name of the capture area: as Space Ranger recorded it, or else the folder's."""
    if counts.is_file():
        with h5py.File(counts) as file:
            for name in file.attrs.get("library_ids", ()):
                return name.decode() if isinstance(name, bytes) else str(name)
    folder = root.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name
