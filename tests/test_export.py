"""m2st.io.export: each format is read back as its viewer or library reads it."""

from __future__ import annotations

import importlib.util
import json
from io import StringIO
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
import zarr
from anndata import AnnData
from anndata.io import write_elem
from tests.command import call

import m2st
from m2st._outlines import draw_outlines

COLORS = ["#ff0000", "#00ff00", "#0000ff"]
# spatialdata writes with settings that zarr and ome-zarr are about to change.
writes_spatialdata = pytest.mark.filterwarnings(
    "ignore:Call to deprecated class Scaler:DeprecationWarning",
    "ignore:zarr v3 autosharding:UserWarning",
)


def hexagons(n_rows: int, n_columns: int, pitch: float = 100) -> np.ndarray:
    """Spots of a Visium slide."""
    row, column = np.mgrid[:n_rows, :n_columns].reshape(2, -1)
    return pitch * np.column_stack([column + row % 2 / 2, row * np.sqrt(3) / 2])


@pytest.fixture
def adata() -> AnnData:
    """Three stripes of a slide; the first spot has no domain, the last one no place."""
    rng = np.random.default_rng(0)
    places = hexagons(10, 12)
    found = AnnData(
        rng.poisson(1, (120, 3)).astype(np.float32),
        obs=pd.DataFrame(index=["".join(rng.choice([*"ACGT"], 16)) + "-1" for _ in range(120)]),
        obsm={"spatial": places},
    )
    codes = np.repeat([0, 1, 2], 40)
    codes[0] = -1
    found.obsm["spatial"][-1] = np.nan
    found.obs["m2st_domain"] = pd.Categorical.from_codes(codes, ["1", "2", "3"])
    found.obs["m2st_confidence"] = np.where(codes < 0, np.nan, 0.75)
    found.uns["m2st_domain_colors"] = COLORS
    return found


def two_sections(adata: AnnData) -> AnnData:
    """The same slide twice; names as `spaceranger aggr` has them."""
    other = adata.copy()
    other.obs_names = [f"{name[:-1]}2" for name in adata.obs_names]
    both = AnnData(obs=pd.concat([adata.obs, other.obs]))
    both.obsm["spatial"] = np.vstack([adata.obsm["spatial"], other.obsm["spatial"]])
    both.obs["slide"] = np.repeat(["A", "B"], adata.n_obs)
    both.uns["m2st_domain_colors"] = COLORS
    both.uns["m2st"] = {"graph": {"sample_key": "slide"}}
    return both


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


# tables ---------------------------------------------------------------------------------------


def test_csv_has_every_observation_in_order(adata: AnnData, tmp_path: Path) -> None:
    m2st.io.export(adata, tmp_path / "a.csv", "csv")
    found = table(tmp_path / "a.csv")
    assert list(found) == ["observation", "m2st_domain", "m2st_confidence"]
    assert list(found["observation"]) == list(adata.obs_names)
    assert found.iloc[0, 1:].tolist() == ["", ""]
    assert found.iloc[1, 1:].tolist() == ["1", "0.75"]


def test_csv_without_confidence(adata: AnnData, tmp_path: Path) -> None:
    del adata.obs["m2st_confidence"]
    m2st.io.export(adata, tmp_path / "a.csv", "csv")
    assert list(table(tmp_path / "a.csv")) == ["observation", "m2st_domain"]


def test_loupe(adata: AnnData, tmp_path: Path) -> None:
    m2st.io.export(adata, tmp_path / "a.csv", "loupe")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "Barcode,m2st_domain"
    assert lines[1:] == [f"{name},{adata.obs.m2st_domain[name]}" for name in adata.obs_names[1:]]


def test_loupe_keeps_the_numbers_of_libraries(adata: AnnData, tmp_path: Path) -> None:
    both = two_sections(adata)
    m2st.io.export(both, tmp_path / "a.csv", "loupe")
    assert table(tmp_path / "a.csv")["Barcode"].str[-2:].value_counts().to_dict() == {
        "-1": 119,
        "-2": 119,
    }
    m2st.io.export(both, tmp_path / "b.csv", "loupe", sample="B")
    assert set(table(tmp_path / "b.csv")["Barcode"].str[-2:]) == {"-2"}


@pytest.mark.parametrize("name", ["s_016um_00052_00082-1", "cellid_000000012-1"])
def test_loupe_knows_visium_hd(adata: AnnData, tmp_path: Path, name: str) -> None:
    m2st.io.export(named(adata, 1, name), tmp_path / "a.csv", "loupe")
    assert table(tmp_path / "a.csv")["Barcode"][0] == name


def test_loupe_refuses_other_names(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"barcodes of Space Ranger .* 1 of 120 .* 'AAA-1-0'"):
        m2st.io.export(named(adata, 3, "AAA-1-0"), tmp_path / "a.csv", "loupe")
    with pytest.warns(UserWarning, match="names are not unique"):
        doubled = named(adata, 3, adata.obs_names[2])
    with pytest.raises(ValueError, match="each of the barcodes of Space Ranger once, found 1"):
        m2st.io.export(doubled, tmp_path / "a.csv", "loupe")
    assert not list(tmp_path.iterdir())


def named(adata: AnnData, row: int, name: str) -> AnnData:
    """The same with another name for one observation."""
    names = [*adata.obs_names]
    names[row] = name
    other = AnnData(obs=adata.obs.set_axis(names), obsm=dict(adata.obsm), uns=dict(adata.uns))
    return other


def test_xenium_explorer(adata: AnnData, tmp_path: Path) -> None:
    cells = [
        f"aaaa{'abcdefghijklmnop'[n // 16]}aa{'abcdefghijklmnop'[n % 16]}-1" for n in range(120)
    ]
    adata.obs_names = cells
    m2st.io.export(adata, tmp_path / "a.csv", "xenium-explorer")
    found = table(tmp_path / "a.csv")
    assert list(found) == ["cell_id", "group", "color"]
    assert found.iloc[0].tolist() == [cells[1], "1", "#ff0000"]
    assert found.iloc[-1].tolist() == [cells[-1], "3", "#0000ff"]
    assert len(found) == 119


def test_xenium_explorer_takes_cell_ids_of_obs(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cell ids of Xenium .* found 120 of 120"):
        m2st.io.export(adata, tmp_path / "a.csv", "xenium-explorer")
    adata.obs["cell_id"] = np.arange(120)
    m2st.io.export(adata, tmp_path / "a.csv", "xenium-explorer")
    assert table(tmp_path / "a.csv")["cell_id"][0] == "1"


def test_names_with_commas_and_quotes_come_back(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.rename_categories(
        ["WM, deep", 'the "core"', "=1+1"]
    )
    m2st.io.export(adata, tmp_path / "a.csv", "loupe")
    assert set(table(tmp_path / "a.csv")["m2st_domain"]) == {"WM, deep", 'the "core"', "=1+1"}


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "half \ud800"])
def test_names_of_several_lines_are_refused(adata: AnnData, tmp_path: Path, name: str) -> None:
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.rename_categories(["1", "2", name])
    with pytest.raises(ValueError, match="Expected names on one line, in whole characters"):
        m2st.io.export(adata, tmp_path / "a.csv", "csv")


def test_another_result(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["fine_domain"] = adata.obs.pop("m2st_domain")
    with pytest.raises(KeyError, match=r"Expected 'm2st_domain' in `adata.obs`"):
        m2st.io.export(adata, tmp_path / "a.csv", "csv")
    m2st.io.export(adata, tmp_path / "a.csv", "csv", key_added="fine")
    assert list(table(tmp_path / "a.csv")) == ["observation", "fine_domain"]


# outlines -------------------------------------------------------------------------------------


def test_cells_of_a_visium_slide_are_hexagons() -> None:
    places = hexagons(7, 7)
    inside = np.zeros(49, dtype=int)
    inside[24] = 1
    outside, middle = draw_outlines(places, inside, 2)
    assert middle.area == pytest.approx(100**2 * np.sqrt(3) / 2, rel=1e-3)
    assert len(middle.exterior.coords) - 1 == 6
    assert outside.contains(shapely.Point(places[0]))
    assert outside.intersection(middle).area == pytest.approx(0, abs=1e-6)
    assert len(outside.interiors) == 1


def test_cells_of_an_array_of_squares() -> None:
    places = 10.0 * np.stack(np.meshgrid(range(5), range(5)), -1).reshape(-1, 2)
    found = draw_outlines(places, np.arange(25) // 13, 2)
    assert sum(one.area for one in found) == pytest.approx(25 * 100, rel=0.15)
    assert found[0].union(found[1]).geom_type == "Polygon"


def test_outlines_follow_a_shift_and_a_scale() -> None:
    places = hexagons(6, 6)
    codes = np.arange(36) % 2
    for one, other in zip(
        draw_outlines(places, codes, 2), draw_outlines(1000 * places + 1e6, codes, 2), strict=True
    ):
        assert other.area == pytest.approx(1e6 * one.area, rel=1e-3)


def test_scattered_cells_leave_holes_in_the_tissue_open() -> None:
    rng = np.random.default_rng(0)
    places = rng.random((3000, 2)) * 100
    places = places[np.linalg.norm(places - 50, axis=1) > 20]
    (found,) = draw_outlines(places, np.zeros(len(places), dtype=int), 1)
    assert not found.contains(shapely.Point(50, 50))
    assert found.area == pytest.approx(100**2 - np.pi * 20**2, rel=0.15)
    assert all(found.intersects(shapely.points(places)))


def test_places_of_several_observations_belong_to_most_of_them() -> None:
    places = np.repeat(hexagons(4, 4), 3, axis=0)
    first, second = draw_outlines(places, np.tile([0, 1, 1], 16), 2)
    assert first.is_empty
    assert second.contains(shapely.Point(places[20]))


@pytest.mark.parametrize("n_obs", [1, 2, 5])
def test_few_observations_on_a_line(n_obs: int) -> None:
    places = np.column_stack([np.arange(n_obs), np.zeros(n_obs)]).astype(float)
    found = draw_outlines(places, np.arange(n_obs), n_obs)
    assert all(one.contains(shapely.Point(place)) for one, place in zip(found, places, strict=True))


def test_geojson(adata: AnnData, tmp_path: Path) -> None:
    m2st.io.export(adata, tmp_path / "a.geojson", "geojson")
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert [one["properties"] for one in content["features"]] == [
        {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": name, "color": color},
        }
        for name, color in [("1", [255, 0, 0]), ("2", [0, 255, 0]), ("3", [0, 0, 255])]
    ]
    found = geopandas.read_file(tmp_path / "a.geojson").geometry
    assert found.is_valid.all()
    assert found.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    places = shapely.points(adata.obsm["spatial"])
    for code, outline in enumerate(found):
        inside = (adata.obs["m2st_domain"].cat.codes == code).to_numpy()
        inside[-1] = False  # without a place
        np.testing.assert_array_equal(outline.contains(places), inside)
        rings = [shapely.LinearRing(ring) for part in parts(outline) for ring in [part.exterior]]
        assert all(ring.is_ccw for ring in rings)


def parts(shape: shapely.Geometry) -> list[shapely.Polygon]:
    return [*getattr(shape, "geoms", [shape])]


def test_geojson_in_pixels(adata: AnnData, tmp_path: Path) -> None:
    m2st.io.export(adata, tmp_path / "a.geojson", "geojson")
    m2st.io.export(adata, tmp_path / "b.geojson", "geojson", pixel_size=0.5)
    one, other = (
        shapely.area(geopandas.read_file(tmp_path / name).geometry.to_numpy())
        for name in ("a.geojson", "b.geojson")
    )
    np.testing.assert_allclose(other, 4 * one)
    with pytest.raises(ValueError, match="Expected `pixel_size` only with geojson"):
        m2st.io.export(adata, tmp_path / "a.csv", "csv", pixel_size=0.5)
    with pytest.raises(ValueError, match="Expected `pixel_size`"):
        m2st.io.export(adata, tmp_path / "c.geojson", "geojson", pixel_size=0)


def test_geojson_of_sections(adata: AnnData, tmp_path: Path) -> None:
    both = two_sections(adata)
    m2st.io.export(both, tmp_path / "a.geojson", "geojson")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [one["properties"]["sample"] for one in features] == [*"AAABBB"]
    assert features[0]["properties"]["name"] == "A 1"
    m2st.io.export(both, tmp_path / "b.geojson", "geojson", sample="B")
    only = json.loads((tmp_path / "b.geojson").read_text())["features"]
    assert only == features[3:]


def test_sections_that_are_not_there(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected the column of the sections to find"):
        m2st.io.export(adata, tmp_path / "a.csv", "csv", sample="A")
    both = two_sections(adata)
    with pytest.raises(ValueError, match=r"Expected the section 'C' .* found: 'A', 'B'"):
        m2st.io.export(both, tmp_path / "a.csv", "csv", sample="C")
    with pytest.raises(KeyError, match="Name the column with `sample_key=`"):
        m2st.io.export(both, tmp_path / "a.csv", "csv", sample="A", sample_key="none")


def test_no_domain_at_all(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["m2st_domain"] = pd.Categorical([None] * 120, ["1", "2"])
    with pytest.raises(ValueError, match="Expected observations with a domain"):
        m2st.io.export(adata, tmp_path / "a.csv", "loupe")


# SpatialData ----------------------------------------------------------------------------------


@writes_spatialdata
def test_spatialdata(adata: AnnData, tmp_path: Path) -> None:
    before = adata.copy()
    m2st.io.export(adata, tmp_path / "a.zarr", "spatialdata")
    store = spatialdata.read_zarr(tmp_path / "a.zarr")
    assert sorted(store.shapes) == ["m2st_domains", "m2st_spots"]
    assert list(store.shapes["m2st_domains"]["domain"]) == ["1", "2", "3"]
    assert list(store.shapes["m2st_domains"]["color"]) == COLORS
    found = store.tables["table"]
    assert list(found.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(found.X, adata.X)
    joined, _ = spatialdata.join_spatialelement_table(
        sdata=store, spatial_element_names="m2st_spots", table_name="table", how="inner"
    )
    centres = joined["m2st_spots"].geometry
    np.testing.assert_allclose(np.column_stack([centres.x, centres.y]), adata.obsm["spatial"][:-1])
    assert adata.uns.keys() == before.uns.keys()
    assert list(adata.obs) == list(before.obs)
    again = m2st.io.read(tmp_path / "a.zarr")
    assert list(again.obs["m2st_domain"].dropna()) == list(adata.obs["m2st_domain"].dropna())
    m2st.io.export(again, tmp_path / "a.zarr", "spatialdata", overwrite=True)


@writes_spatialdata
def test_spatialdata_of_sections(adata: AnnData, tmp_path: Path) -> None:
    both = two_sections(adata)
    m2st.io.export(both, tmp_path / "a.zarr", "spatialdata")
    store = spatialdata.read_zarr(tmp_path / "a.zarr")
    assert sorted(store.coordinate_systems) == ["A", "B"]
    assert sorted(store.shapes) == [
        "m2st_domains_A",
        "m2st_domains_B",
        "m2st_spots_A",
        "m2st_spots_B",
    ]
    both.obs["slide"] = both.obs["slide"].replace("A", "A/1")
    with pytest.raises(ValueError, match=r"Expected names of sections in letters, .* 'A/1'"):
        m2st.io.export(both, tmp_path / "b.zarr", "spatialdata")


@writes_spatialdata
def test_a_store_with_anything_else_is_never_replaced(adata: AnnData, tmp_path: Path) -> None:
    m2st.io.write(adata, tmp_path / "a.zarr", table="other")
    with pytest.raises(ValueError, match="found tables/other"):
        m2st.io.export(adata, tmp_path / "a.zarr", "spatialdata", overwrite=True)
    write_elem(zarr.open_group(tmp_path / "b.zarr", mode="w"), "/", AnnData(obs=adata.obs))
    with pytest.raises(ValueError, match="found an AnnData store"):
        m2st.io.export(adata, tmp_path / "b.zarr", "spatialdata", overwrite=True)


# all of them ----------------------------------------------------------------------------------


def test_an_unknown_format(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected `to` to be one of .*'cloupe'"):
        m2st.io.export(adata, tmp_path / "a.csv", "cloupe")


@pytest.mark.parametrize(("to", "name"), [("loupe", "a.txt"), ("geojson", "a.json")])
def test_another_ending(adata: AnnData, tmp_path: Path, to: str, name: str) -> None:
    with pytest.raises(ValueError, match="Expected a path that ends in"):
        m2st.io.export(adata, tmp_path / name, to)


def test_nothing_is_overwritten_unasked(adata: AnnData, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="Pass `overwrite=True`"):
        m2st.io.export(adata, tmp_path / "a.csv", "csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    m2st.io.export(adata, tmp_path / "a.csv", "csv", overwrite=True)
    assert (tmp_path / "a.csv").read_text() != "mine"


def test_colors_are_not_kept_in_the_object(adata: AnnData, tmp_path: Path) -> None:
    del adata.uns["m2st_domain_colors"]
    m2st.io.export(adata, tmp_path / "a.geojson", "geojson")
    assert not adata.uns


@pytest.mark.dist
def test_the_command(adata: AnnData, tmp_path: Path) -> None:
    result = tmp_path / "result.h5ad"
    m2st.io.write(adata, result)
    done = call("export", result, "-o", tmp_path / "a.csv", "--to", "loupe")
    assert (done.returncode, done.stdout) == (0, f"Saved {tmp_path / 'a.csv'}\n")
    m2st.io.export(adata, tmp_path / "b.csv", "loupe")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    done = call("export", result, "-o", tmp_path / "c.csv", "--to", "csv", "--pixel-size", "2")
    assert "Expected `--pixel-size` only with geojson" in done.stderr
    done = call("export", result, "-o", tmp_path / "c.csv", "--to", "cloupe")
    assert "Expected `--to` to be one of" in done.stderr
    done = call("export", result, "-o", tmp_path / "a.csv", "--to", "loupe")
    assert "exists. Name another file, or replace it with --overwrite" in done.stderr


@pytest.mark.dist
def test_a_run_writes_a_table_too(tmp_path: Path) -> None:
    data = m2st.datasets.simulate_cortex(n_obs=150, n_genes=60, n_domains=3)
    m2st.io.write(data, tmp_path / "data.h5ad")
    done = call(
        *("run", tmp_path / "data.h5ad", "-k", "3", "-o", tmp_path / "result.h5ad"),
        *("--csv", tmp_path / "domains.csv", "--members", "1", "--epochs", "3"),
    )
    assert done.returncode == 0, done.stderr
    m2st.io.export(m2st.io.read(tmp_path / "result.h5ad"), tmp_path / "b.csv", "csv")
    assert table(tmp_path / "domains.csv").equals(table(tmp_path / "b.csv"))
    assert pd.read_csv(StringIO((tmp_path / "b.csv").read_text()))["m2st_domain"].nunique() == 3


@pytest.mark.skipif(
    importlib.util.find_spec("napari_spatialdata") is not None, reason="napari would open a window"
)
def test_view_says_what_it_needs(tmp_path: Path) -> None:
    found = call("view", tmp_path / "any.h5ad")
    assert found.returncode == 1
    assert "`m2st view` needs napari_spatialdata, which is not installed" in found.stderr
    assert "pip install 'm2st[view]'" in found.stderr
    assert "m2st report" in found.stderr
