"""Sections on top of each other: what is found, what is said, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import m2st
from m2st import pp
from m2st._sections import Overlay, find_overlay, mixing, overlay_in_words

RNG = np.random.default_rng(0)


def hexagonal(n_rows: int = 20, n_columns: int = 20, pitch: float = 100.0) -> np.ndarray:
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return pitch * np.column_stack([column + row % 2 / 2, row * np.sqrt(3) / 2])


def square(n_rows: int = 20, n_columns: int = 20, pitch: float = 100.0) -> np.ndarray:
    return pitch * np.column_stack(np.divmod(np.arange(n_rows * n_columns), n_columns)).astype(
        float
    )


def cells(n_obs: int = 400, width: float = 2000.0) -> np.ndarray:
    return RNG.uniform(0, width, (n_obs, 2))


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points @ np.array([[c, s], [-s, c]])


def moved(points: np.ndarray, x: float, y: float) -> np.ndarray:
    return points + np.array([x, y])


def data(*sections: np.ndarray, **columns: object) -> ad.AnnData:
    """Sections in one frame, in random order; ``codes`` of `columns` become the section."""
    points = np.concatenate(sections)
    codes = np.repeat(np.arange(len(sections)), [len(section) for section in sections])
    order = np.random.default_rng(1).permutation(len(points))
    counts = np.random.default_rng(2).poisson(1.0, (len(points), 20)).astype(np.float32)
    obs = {name: (value(codes) if callable(value) else value) for name, value in columns.items()}
    adata = ad.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(obs, index=[f"cell{row}" for row in range(len(points))]),
        obsm={"spatial": points},
    )
    if "part" in obs:
        adata.uns["spatialdata_attrs"] = {"region_key": "part"}
    return adata[order].copy()


def found(
    adata: ad.AnnData, sample_key: str | None = None, spatial_key: str = "spatial"
) -> Overlay | None:
    points = np.asarray(adata.obsm[spatial_key], dtype=float)
    return find_overlay(
        adata.obs,
        adata.obsm,
        spatial_key=spatial_key,
        sample_key=sample_key,
        valid=np.isfinite(points).all(axis=1),
        region_key="part" if "part" in adata.obs else None,
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("sample_id", lambda codes: pd.Categorical.from_codes(codes, ["A", "B"])),
        ("Slide", lambda codes: codes),
        ("orig.ident", lambda codes: np.array(["first", "second"])[codes]),
        ("library_id", lambda codes: codes.astype(float)),
        ("part", lambda codes: codes.astype(str)),  # what SpatialData says
    ],
)
@pytest.mark.parametrize("kind", ["cells", "spots"])
def test_a_column_that_names_sections(column: str, values: Callable, kind: str) -> None:
    first, second = (
        (cells(), cells()) if kind == "cells" else (hexagonal(), moved(hexagonal(), 31, 12))
    )
    adata = data(first, second, **{column: values, "batch_effect": values, "donor": "one"})
    overlay = found(adata)
    assert (overlay.kind, overlay.column, overlay.apart_in) == ("column", column, "")
    assert found(adata, sample_key=column) is None
    words = rf"The 2 sections .* `adata\.obs\['{column}'\]` lie on .*Pass `sample_key='{column}'`"
    with pytest.warns(UserWarning, match=words) as caught:
        pp.spatial_graph(adata)
    assert len(caught) == 1
    assert adata.uns["m2st"]["graph"]["overlay"] == str(caught[0].message)
    pp.spatial_graph(adata, sample_key=column)
    assert "overlay" not in adata.uns["m2st"]["graph"]


def test_sections_side_by_side_are_no_finding() -> None:
    names = {"sample": lambda codes: codes, "fov": lambda codes: codes}
    assert found(data(cells(), moved(cells(), 2000, 0), moved(cells(), 0, 2000), **names)) is None
    assert found(data(hexagonal(), moved(hexagonal(), 2010, 0), **names)) is None
    small = [cells(12, 100) + 100 * np.array([x, y]) for x in range(9) for y in range(9)]
    assert found(data(*small, **names)) is None


def test_the_finest_column_is_named_and_what_a_coarser_one_leaves() -> None:
    adata = data(*[cells() for _ in range(4)], donor=lambda c: c // 2, section=lambda c: c)
    assert found(adata).column == "section"
    assert found(adata, sample_key="donor").column == "section"
    assert found(adata, sample_key="section") is None


def test_regions_and_cell_types_of_one_section_are_no_finding() -> None:
    points = cells(2000)
    region = np.digitize(points[:, 0] + RNG.normal(0, 80, 2000), [500, 900, 1500])
    adata = data(points, region=region, cell_type=RNG.integers(0, 5, 2000), sample="only")
    adata.obs["sample_number"] = np.arange(2000)  # no two alike
    assert found(adata) is None


def local_fields(**columns: object) -> ad.AnnData:
    """As squidpy reads CosMx: local coordinates under the usual name."""
    points = cells(960, 800)
    points[:, 0] *= 6
    fov = points[:, 0] // 800
    adata = data(points, fov=fov, **columns)
    adata.obsm["X_umap"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial_fov"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial"][:, 0] %= 800
    return adata


def test_fields_of_view_in_local_coordinates() -> None:
    adata = local_fields()
    with pytest.warns(
        UserWarning, match=r"The 6 .* `adata\.obs\['fov'\]` .*: pass `spatial_key='spatial_f"
    ):
        pp.spatial_graph(adata)
    with pytest.warns(
        UserWarning, match=r"`sample_key='fov'` takes .* pass `spatial_key='spatial_"
    ):
        pp.spatial_graph(adata, sample_key="fov")
    pp.spatial_graph(adata, spatial_key="spatial_fov")
    del adata.obsm["spatial_fov"], adata.obsm["X_umap"]
    assert found(adata, sample_key="fov") is None
    assert overlay_in_words(found(adata), adata.obs, "spatial").endswith("Pass `sample_key='fov'`.")
    adata.obs[["CenterX_global_px", "CenterY_global_px"]] = 0.0
    with pytest.warns(
        UserWarning, match=r"'CenterX_global_px'.*pass `spatial_key='spatial_global'`"
    ):
        pp.spatial_graph(adata)


def test_sections_that_were_moved_apart_elsewhere() -> None:
    adata = data(cells(), cells(), sample=lambda codes: codes)
    adata.obsm["spatial_moved"] = adata.obsm["spatial"] + 3000 * adata.obs[["sample"]].to_numpy()
    assert found(adata, sample_key="sample") is None
    words = r"Pass `sample_key='sample'`, or `spatial_key='spatial_moved'`, in which they lie apart"
    with pytest.warns(UserWarning, match=words):
        pp.spatial_graph(adata)


@pytest.mark.parametrize("name", ["{code}-1-{section}", "S{section}_{code}-1", "{code}-1"])
@pytest.mark.parametrize("kind", [cells, hexagonal])
def test_barcodes_in_common(name: str, kind: Callable[[], np.ndarray]) -> None:
    codes = ["".join("ACGT"[(row >> 2 * at) & 3] for at in range(16)) for row in range(400)]
    names = [name.format(code=code, section=section) for section in (0, 1) for code in codes]
    adata = data(kind(), moved(kind(), 20, 12))
    adata = adata[adata.obs_names.str[4:].astype(int).argsort()].copy()
    seen = RNG.random(800) < 0.7  # tissue covers different spots
    adata, names = adata[seen].copy(), np.array(names)[seen]
    section = np.repeat([0, 1], 400)[seen]
    adata.obs_names = (
        names if len(set(names)) == len(names) else ad.utils.make_index_unique(pd.Index(names))
    )
    with pytest.warns(UserWarning, match=r"barcodes in common .* 2 sections.*`sample_key=`"):
        pp.spatial_graph_knn(adata)
    adata.obsm["coordinates"] = adata.obsm["spatial"] + 5000 * section[:, None]
    pp.spatial_graph_knn(adata, spatial_key="coordinates")
    with pytest.warns(UserWarning, match=r"barcodes .* Pass `spatial_key='coordinates'`, in wh"):
        pp.spatial_graph_knn(adata)


@pytest.mark.parametrize(
    "sections",
    [
        [hexagonal(), moved(hexagonal(), 37, 22)],
        [hexagonal(), moved(turned(hexagonal(), 11), 50, 9)],
        [np.rint(1.37 * hexagonal()), np.rint(1.37 * moved(turned(hexagonal(), 2), 30, 40))],
        [hexagonal(), moved(hexagonal(), 37, 22), moved(turned(hexagonal(), 40), 900, -300)],
        [square(), moved(square(), 37, 22)],
        [square(), moved(turned(square(), 30), 500, -300)],
    ],
)
def test_arrays_on_top_of_each_other(sections: list[np.ndarray]) -> None:
    adata = data(*sections)
    with pytest.warns(UserWarning, match=r"Several arrays of spots .* apart with `sample_key=`"):
        pp.spatial_graph(adata)
    adata = data(*sections, slide=lambda codes: codes)
    assert found(adata).column == "slide"
    assert found(adata, sample_key="slide") is None


def test_one_array_and_cells_are_not_several_arrays() -> None:
    one = hexagonal()
    indices = np.array([[row, 2 * column + row % 2] for row in range(30) for column in range(30)])
    side_by_side = np.concatenate([one, moved(turned(one, 20), 4000, 0)])
    for points in (one, square(), indices, side_by_side, cells(2000)):
        assert found(data(points)) is None
    for jitter in (0.1, 0.5, 1, 1.5, 2, 4, 8, 16):
        assert found(data(one + RNG.normal(0, jitter, (400, 2)))) is None
    holes = hexagonal()[RNG.random(400) < 0.5]
    assert found(data(holes)) is None


def test_sections_in_space_are_meant_to_have_neighbours() -> None:
    solid = [np.column_stack([cells(), np.full(400, 10.0 * z)]) for z in range(3)]
    assert found(data(*solid, section=lambda codes: codes)) is None
    flat = [np.column_stack([cells(), np.zeros(400)]) for _ in range(3)]
    assert found(data(*flat, section=lambda codes: codes)).column == "section"


def test_mixing_by_hand() -> None:
    line = np.arange(20.0)[:, None] * [1, 0]
    valid = np.ones(20, dtype=bool)
    halves, turns = np.repeat([0, 1], 10), np.tile([0, 1], 10)
    assert mixing(line, halves, valid) < 0.25 < 0.9 < mixing(line, turns, valid)
    assert mixing(line, halves, valid, sections=halves) == 0
    assert mixing(line, np.zeros(20, dtype=int), valid) == 0
    assert mixing(line, np.where(turns, 1, -1), valid) == 0
    assert mixing(line[:5], halves[:5], valid[:5]) == 0


def test_too_few_and_coordinates_that_are_none() -> None:
    assert found(data(cells(4), cells(4), sample=lambda codes: codes)) is None
    adata = data(cells(), cells(), sample=lambda codes: codes)
    adata.obsm["spatial_text"] = np.full((800, 2), "here")
    adata.obsm["spatial_missing"] = np.full((800, 2), np.nan)
    adata.obsm["spatial_table"] = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names)
    assert found(adata).apart_in == ""
    assert found(adata, spatial_key="spatial_table").column == "sample"
    adata.obsm["spatial"][:100] = np.nan
    with pytest.warns(UserWarning, match="lie on top"):
        pp.spatial_graph(adata)


def quick_run(adata: ad.AnnData, **settings: object) -> None:
    few = m2st.AutoencoderParams(n_members=1, n_epochs=3)
    once = m2st.ClusteringParams(n_init=1)
    m2st.run(adata, 2, autoencoder=few, clustering=once, progress=False, **settings)


def test_run_says_it_once_and_the_report_too(tmp_path: Path) -> None:
    adata = data(hexagonal(8, 8), moved(hexagonal(8, 8), 30, 10), sample=lambda codes: codes)
    with pytest.warns(UserWarning, match="lie on top of each other") as caught:
        quick_run(adata)
    assert sum(warning.category is UserWarning for warning in caught) == 1
    m2st.report(adata, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "lie on top of each other" in text
    with pytest.warns(UserWarning, match="built anew"):
        quick_run(adata, sample_key="sample")
    m2st.report(adata, tmp_path / "page.html", overwrite=True)
    assert "lie on top of each other" not in (tmp_path / "page.html").read_text()


def test_a_graph_of_ones_own_over_sections() -> None:
    adata = data(cells(80), cells(80), sample=lambda codes: codes)
    pp.spatial_graph(adata, sample_key="sample")
    del adata.uns["spatial_neighbors"], adata.uns["m2st"]
    quick_run(adata)  # built within sections: nothing to say
    with pytest.warns(UserWarning, match="lie on top"):
        pp.spatial_graph(adata)
    del adata.uns["spatial_neighbors"], adata.uns["m2st"]
    with pytest.warns(UserWarning, match=r"lie on top .* links them: remove it, or build another"):
        quick_run(adata)


def test_simulated_data_give_no_false_alarm() -> None:
    for n_samples in (1, 2):
        adata = m2st.datasets.simulate_cortex(n_obs=400, n_genes=100, n_samples=n_samples)
        overlay = found(adata)
        assert (overlay is None) == (n_samples == 1)
        assert found(adata, sample_key="sample") is None


@pytest.mark.slow
def test_published_sections_give_no_false_alarm(shared_data: Path) -> None:
    files = sorted([*shared_data.glob("counts/*.h5ad"), *shared_data.glob("features/*.h5ad")])
    assert files
    for file in files:
        adata = ad.read_h5ad(file)
        points = adata.obsm["spatial"]
        assert found(adata) is None, file.name
        for n_cuts in (2, 4):  # fields of view, as a machine would name them
            place = (points - points.min(axis=0)) / np.ptp(points, axis=0)
            row, column = np.floor(n_cuts * 0.999 * place).astype(int).T
            adata.obs["fov"] = row * n_cuts + column
            assert found(adata) is None, file.name
            step = np.ptp(points, axis=0) / n_cuts
            adata.obsm["spatial"] = points - np.column_stack([row, column]) * step
            assert found(adata).column == "fov", file.name
            adata.obsm["spatial"] = points
