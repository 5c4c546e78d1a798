"""Pictures: what is drawn, where, how large and in which colour."""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.collections import Collection, EllipseCollection, PolyCollection
from matplotlib.colors import is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

import m2st
from m2st import pl, pp
from m2st._plotting import as_seen, palette
from m2st._plotting._spots import find_section


def hexagonal(n: int = 12, pitch: float = 100.0) -> np.ndarray:
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n)))
    return pitch * np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


def square(n: int = 12, pitch: float = 8.0, angle: float = 0.0) -> np.ndarray:
    points = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) * pitch
    turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return points @ np.array(turn)


def data(points: np.ndarray, **columns: object) -> AnnData:
    """Data with bands as domains "1" .. "4", unless other columns are given."""
    bands = (np.argsort(np.argsort(points[:, 1])) * 4 // len(points) + 1).astype(str)
    obs = {"m2st_domain": pd.Categorical(bands), **columns}
    index = [f"spot{i}" for i in range(len(points))]
    return AnnData(obs=pd.DataFrame(obs, index=index), obsm={"spatial": points})


def spots(figure: Figure, panel: int = 0) -> Collection:
    (collection,) = figure.axes[panel].collections
    return collection


def fills(figure: Figure, panel: int = 0) -> list[str]:
    return [to_hex(color) for color in spots(figure, panel).get_facecolor()]


def legend_texts(figure: Figure, number: int = 0) -> list[str]:
    legend = [artist for artist in figure.artists if hasattr(artist, "get_texts")][number]
    return [text.get_text() for text in legend.get_texts()]


def diameters(collection: EllipseCollection) -> np.ndarray:
    return np.ravel(collection.get_widths())


def test_docstring_examples() -> None:
    assert doctest.testmod(pl).failed == 0


# spots ------------------------------------------------------------------------------------------


def test_hexagonal_spots_are_circles_of_055_pitch_at_their_places() -> None:
    adata = data(hexagonal())
    drawn = spots(pl.domains(adata))
    assert isinstance(drawn, EllipseCollection)
    np.testing.assert_allclose(drawn.get_offsets(), adata.obsm["spatial"])
    np.testing.assert_allclose(diameters(drawn), 55.0)
    np.testing.assert_allclose(drawn.get_heights(), drawn.get_widths())


def test_drawn_circles_measure_what_they_should_on_the_page() -> None:
    # one colour on white: the inked share of a panel is the area of the circles over the panel's
    adata = data(hexagonal(), m2st_domain=pd.Categorical(["1"] * 144))
    adata.uns["m2st_domain_colors"] = ["#000000"]
    figure = pl.domains(adata)
    (axes,) = figure.axes
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=200)
    image = np.frombuffer(buffer.getvalue(), np.uint8)
    image = image.reshape(int(figure.get_figheight() * 200), -1, 4)
    box = axes.get_position()
    inside = image[:, : round(box.x1 * image.shape[1])]  # the legend is to the right
    ink = (255 - inside[..., 0].astype(float)).sum() / 255
    panel = box.width * image.shape[1] * box.height * image.shape[0]
    area = np.ptp(axes.get_xlim()) * np.ptp(axes.get_ylim())
    assert ink / panel == pytest.approx(144 * np.pi * 27.5**2 / area, rel=0.02)


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.7])
def test_bins_are_squares_that_meet_and_turn_with_the_array(angle: float) -> None:
    adata = data(square(angle=angle))
    drawn = spots(pl.domains(adata))
    assert isinstance(drawn, PolyCollection)
    assert len(drawn.get_paths()) == adata.n_obs
    corners = drawn.get_paths()[0].vertices[:4]
    sides = np.diff(corners, axis=0)
    np.testing.assert_allclose(np.linalg.norm(sides, axis=1), 8.0, rtol=1e-6)
    turned = np.arctan2(sides[:, 1], sides[:, 0]) - angle
    np.testing.assert_allclose(np.sin(2 * turned), 0, atol=1e-6)
    np.testing.assert_allclose(corners.mean(axis=0), adata.obsm["spatial"][0], atol=1e-6)


def test_shaken_square_arrays_are_circles(rng: np.random.Generator) -> None:
    drawn = spots(pl.domains(data(square(n=20) + rng.normal(scale=0.2, size=(400, 2)))))
    assert isinstance(drawn, EllipseCollection)
    np.testing.assert_allclose(diameters(drawn), 0.55 * 8, rtol=0.05)


def test_cells_are_circles_of_the_size_of_their_spacing(rng: np.random.Generator) -> None:
    points = rng.random((800, 2)) * 1000
    drawn = spots(pl.domains(data(points)))
    distances = np.sort(np.linalg.norm(points[:, None] - points, axis=-1), axis=1)
    np.testing.assert_allclose(diameters(drawn), np.median(distances[:, 2]))


def test_recorded_diameter_is_used_for_its_sample() -> None:
    adata = data(np.vstack([hexagonal(), hexagonal()]), sample=["a"] * 144 + ["b"] * 144)
    adata.uns["spatial"] = {
        "a": {"scalefactors": {"spot_diameter_fullres": 70.0}},
        "c": {"scalefactors": {"spot_diameter_fullres": 10.0}},
    }
    figure = pl.domains(adata, sample_key="sample")
    np.testing.assert_allclose(diameters(spots(figure, 0)), 70.0)
    np.testing.assert_allclose(diameters(spots(figure, 1)), 55.0)
    del adata.uns["spatial"]["c"]  # one entry left: it holds for all
    np.testing.assert_allclose(diameters(spots(pl.domains(adata))), 70.0)


def outline(adata: AnnData, panel: int = 0) -> tuple[type, float]:
    """Kind and width of the spots in a picture."""
    drawn = spots(pl.domains(adata), panel)
    if isinstance(drawn, EllipseCollection):
        return EllipseCollection, float(np.unique(diameters(drawn)).item())
    sides = np.diff(drawn.get_paths()[0].vertices[:2], axis=0)
    return type(drawn), round(float(np.linalg.norm(sides)), 6)


@pytest.mark.parametrize("kind", ["hexagonal", "square", "indices", "cells"])
def test_a_part_has_the_spots_of_the_whole(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    points = {
        "hexagonal": hexagonal(20),
        "square": square(20, angle=0.3),
        "indices": np.array(
            [[2 * c + r % 2, r] for r in range(20) for c in range(20)], dtype=float
        ),
        "cells": rng.random((400, 2)) * 1000,
    }[kind]
    adata = data(points)
    pp.spatial_graph(adata)
    whole = outline(adata)
    chosen = rng.permutation(400)
    for n in (100, 12, 2, 1):
        part = adata[np.sort(chosen[:n])]
        assert outline(part) == whole
    part.write_h5ad(tmp_path / "part.h5ad")
    assert outline(ad.read_h5ad(tmp_path / "part.h5ad")) == whole
    # Without the record, with that of another hand or of other data, the spots fill their places.
    part = adata[chosen[:100]].copy()
    bare = part.copy()
    del bare.uns["m2st"]
    assert outline(bare) != whole
    for broken in ({"section": ["a"]}, {**part.uns["m2st"]["spots"], "size": "wide"}, 3):
        part.uns["m2st"]["spots"] = broken
        assert outline(part) == outline(bare)
    far = adata[chosen[:100]].copy()
    far.obsm["spatial"] *= 3
    assert outline(far) != whole


def test_each_section_has_its_own_spots() -> None:
    places = np.vstack([hexagonal(12), hexagonal(12, pitch=40.0)])
    adata = data(places, sample=["a"] * 144 + ["b"] * 144)
    adata.obs["in_tissue"] = np.arange(288) > 0
    pp.spatial_graph(adata, sample_key="sample")
    part = adata[np.arange(288) % 7 == 3].copy()
    assert outline(part, 0) == (EllipseCollection, pytest.approx(55.0))
    assert outline(part, 1) == (EllipseCollection, pytest.approx(22.0))
    assert outline(part[part.obs["sample"] == "b"]) == (EllipseCollection, pytest.approx(22.0))


def test_a_part_of_a_given_graph_has_the_spots_of_the_whole() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=200, n_genes=70)
    pp.spatial_graph(adata)
    for key in ("m2st", "spatial", "spatial_neighbors"):
        del adata.uns[key]
    params = m2st.AutoencoderParams(n_members=1, n_epochs=2)
    m2st.run(adata, 3, autoencoder=params, progress=False)
    assert adata.uns["m2st"]["graph"]["method"] == "given"
    assert outline(adata[::9]) == outline(adata)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_observations_are_drawn(n: int) -> None:
    adata = data(hexagonal()[:n])
    drawn = spots(pl.domains(adata))
    assert len(drawn.get_offsets()) == n
    assert diameters(drawn)[0] > 0


def test_only_many_spots_are_rasterised(rng: np.random.Generator) -> None:
    assert not spots(pl.domains(data(hexagonal()))).get_rasterized()
    figure = pl.domains(data(rng.random((10_001, 2))))
    assert spots(figure).get_rasterized()
    assert len(spots(figure).get_offsets()) == 10_001


# panels -----------------------------------------------------------------------------------------


def test_panels_are_equal_in_aspect_upside_down_and_hold_all_spots() -> None:
    (axes,) = pl.domains(data(hexagonal())).axes
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()
    assert axes.get_aspect() == 1
    assert not axes.axison
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    points = hexagonal()
    assert left < points[:, 0].min() - 27.5
    assert right > points[:, 0].max() + 27.5
    assert top < points[:, 1].min() - 27.5
    assert bottom > points[:, 1].max() + 27.5


@pytest.mark.parametrize("n_samples", [1, 2, 5])
@pytest.mark.parametrize("truth", [None, "layer"])
def test_one_panel_per_sample_and_layer_none_overlapping(n_samples: int, truth: str | None) -> None:
    parts = [
        data(hexagonal(8) * (1 + i), sample="s" + str(i), layer=["A"] * 64)
        for i in range(n_samples)
    ]
    adata = ad.concat(parts, index_unique="-")
    figure = pl.domains(adata, sample_key="sample", truth=truth)
    figure.draw_without_rendering()
    assert len(figure.axes) == n_samples * (1 if truth is None else 2)
    names = [f"s{i}" for i in range(n_samples)]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    if truth is None:
        assert titles == names
    else:
        assert titles == [f"{s} · {k}" for s in names for k in ("m2st_domain", "layer")]
    for panel, axes in enumerate(figure.axes):
        points = parts[panel * n_samples // len(figure.axes)].obsm["spatial"]
        np.testing.assert_allclose(spots(figure, panel).get_offsets(), points)
        for other in figure.axes[:panel]:
            assert not axes.get_tightbbox().overlaps(other.get_tightbbox())


def test_nothing_is_cut_off_nor_covered() -> None:
    names = [f"a rather long name of a layer of tissue, number {i}" for i in range(48)]
    adata = data(hexagonal(), layer=names * 3, many=pd.Categorical(list(range(72)) * 2))
    adata.uns["spatial"] = {"x": {"scalefactors": {"microns_per_pixel": 0.5}}}
    for key in ("m2st_domain", "many"):
        figure = pl.domains(adata, key=key, truth="layer", panel_size=2)
        figure.draw_without_rendering()
        legends = [artist for artist in figure.artists if hasattr(artist, "get_texts")]
        boxes = [artist.get_tightbbox() for artist in [*figure.axes, *legends]]
        for number, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width + 1
            assert box.y1 <= figure.bbox.height + 1
            assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_page_cut_to_its_content_has_all_of_it() -> None:
    figure = pl.domains(data(hexagonal()))

    def content(**settings: object) -> list[int]:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=100, **settings)
        stream.seek(0)
        dark = imread(stream).min(axis=-1) < 1
        return [int(np.ptp(np.flatnonzero(dark.any(axis=axis)))) for axis in (0, 1)]

    np.testing.assert_allclose(content(bbox_inches="tight"), content(), atol=2)


def test_scale_bar_only_where_the_pixel_is_known() -> None:
    adata = data(hexagonal())
    assert not pl.domains(adata).axes[0].lines
    adata.uns["spatial"] = {"x": {"scalefactors": {"microns_per_pixel": 2.0}}}
    (axes,) = pl.domains(adata).axes
    (bar,) = axes.lines
    (label,) = axes.texts
    assert label.get_text() == "500 µm"
    assert np.ptp(bar.get_xdata()) == pytest.approx(250)


def test_third_coordinate_is_left_out() -> None:
    adata = data(hexagonal())
    adata.obsm["spatial"] = np.column_stack([hexagonal(), np.arange(144.0)])
    np.testing.assert_allclose(spots(pl.domains(adata)).get_offsets(), hexagonal())


# colours and legends ----------------------------------------------------------------------------


def test_spots_have_the_colour_kept_for_their_domain() -> None:
    adata = data(hexagonal())
    figure = pl.domains(adata)
    kept = adata.uns["m2st_domain_colors"]
    assert kept == [to_hex(color) for color in kept]
    assert len(set(kept)) == 4
    assert fills(figure) == [kept[code] for code in adata.obs["m2st_domain"].cat.codes]
    assert legend_texts(figure) == ["1 (36)", "2 (36)", "3 (36)", "4 (36)"]


def test_fitting_colours_are_respected_and_others_replaced() -> None:
    adata = data(hexagonal())
    for mine in (np.array(["red", "#00FF00", "blue", "k"], dtype=object), ["1", "0.5", "c", "m"]):
        adata.uns["m2st_domain_colors"] = mine
        assert set(fills(pl.domains(adata))) == {to_hex(color) for color in mine}
        assert adata.uns["m2st_domain_colors"] is mine
    for wrong in (["red"] * 3, ["red"] * 5, ["red", "green", "blue", "no colour"]):
        adata.uns["m2st_domain_colors"] = wrong
        pl.domains(adata)
        assert len(set(adata.uns["m2st_domain_colors"])) == 4
        assert all(map(is_color_like, adata.uns["m2st_domain_colors"]))


def test_colours_survive_a_file(tmp_path: Path) -> None:
    adata = data(hexagonal())
    before = fills(pl.domains(adata))
    adata.write_h5ad(tmp_path / "kept.h5ad")
    again = ad.read_h5ad(tmp_path / "kept.h5ad")
    assert fills(pl.domains(again)) == before


def test_a_view_is_drawn_and_stays_a_view() -> None:
    view = data(hexagonal())[:100]
    figure = pl.domains(view)
    assert view.is_view
    assert "m2st_domain_colors" not in view.uns
    assert len(spots(figure).get_offsets()) == 100


def test_data_are_left_as_they_were() -> None:
    adata = data(hexagonal(), layer=["A", "B"] * 72)
    before = adata.copy()
    pl.domains(adata, truth="layer")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.uns) == {"m2st_domain_colors"}


def test_truth_has_the_colours_of_the_domains_it_overlaps() -> None:
    domain = pd.Categorical(["1"] * 40 + ["2"] * 50 + ["3"] * 54)
    # W lies mostly in 3, X in 1, Y in 2; Z also in 2, less than Y: a colour of its own
    layer = ["X"] * 38 + ["W"] * 4 + ["Y"] * 30 + ["Z"] * 20 + ["W"] * 52
    adata = data(hexagonal(), m2st_domain=domain, layer=layer)
    figure = pl.domains(adata, truth="layer")
    one, two, three = adata.uns["m2st_domain_colors"]
    drawn = dict(zip(layer, fills(figure, 1), strict=True))
    assert (drawn["X"], drawn["Y"], drawn["W"]) == (one, two, three)
    assert drawn["Z"] not in {one, two, three, pl.MISSING_COLOR}
    assert legend_texts(figure, 1) == ["W (56)", "X (38)", "Y (30)", "Z (20)"]


def test_truth_that_overlaps_nothing_shares_no_colour() -> None:
    domain = pd.Categorical(["1"] * 72 + [None] * 72)
    adata = data(hexagonal(), m2st_domain=domain, layer=[None] * 72 + ["far"] * 72)
    figure = pl.domains(adata, truth="layer")
    assert len({*fills(figure, 0), *fills(figure, 1)}) == 3


def test_a_column_beside_itself() -> None:
    figure = pl.domains(data(hexagonal()), truth="m2st_domain")
    assert len(figure.axes) == 2
    assert fills(figure, 0) == fills(figure, 1)


def test_missing_domains_are_grey_and_counted() -> None:
    domain = pd.Categorical(["1"] * 100 + [None] * 44, categories=["1", "unused"])
    figure = pl.domains(data(hexagonal(), m2st_domain=domain))
    assert fills(figure)[100:] == [pl.MISSING_COLOR] * 44
    assert fills(figure)[0] != pl.MISSING_COLOR
    assert legend_texts(figure) == ["1 (100)", "missing (44)"]


def test_nothing_but_missing_domains() -> None:
    figure = pl.domains(data(hexagonal(), m2st_domain=pd.Categorical([None] * 144)))
    assert set(fills(figure)) == {pl.MISSING_COLOR}
    assert legend_texts(figure) == ["missing (144)"]


@pytest.mark.parametrize(
    "column",
    [np.arange(144) % 3, np.arange(144) % 2 == 0, ["b", "a", None] * 48],
    ids=["int", "bool", "str"],
)
def test_plain_columns_are_drawn(column: object) -> None:
    adata = data(hexagonal(), found=column)
    figure = pl.domains(adata, key="found")
    codes = pd.Categorical(adata.obs["found"]).codes
    assert pd.Series(fills(figure)).groupby(codes).nunique().eq(1).all()
    assert len(set(fills(figure))) == len(set(codes))


def test_a_hundred_colours_stay_apart() -> None:
    colors = palette(100)
    assert colors[:20] == palette(20)
    rgb = np.array([to_rgb(color) for color in [*colors, "white", pl.MISSING_COLOR]])
    seen = as_seen(rgb)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 0.05
    # seen without green cones (half as heavy again), the first twelve are as far apart as the
    # closest two of Okabe and Ito's colours
    reduced = seen[:, 3:] / 1.5
    colour_blind = np.linalg.norm(reduced[:12, None] - reduced[:12], axis=-1)
    np.fill_diagonal(colour_blind, np.inf)
    assert colour_blind.min() > 0.07


def test_oklab_of_known_colours() -> None:
    # Ottosson: white (1, 0, 0); pure red (0.6280, 0.2249, 0.1258)
    seen = as_seen(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(seen[0], [1, 0, 0, 1.5, 0, 0], atol=1e-3)
    np.testing.assert_allclose(seen[1, :3], [0.6280, 0.2249, 0.1258], atol=1e-3)


# training and weights ---------------------------------------------------------------------------


def record(**embed: object) -> AnnData:
    return AnnData(uns={"m2st": {"embed": {"loss": np.array([0.9, 0.5, 0.4]), **embed}}})


def test_training_draws_one_value_per_epoch_and_the_end() -> None:
    figure = pl.training(
        record(stopped="converged", params={"loss_exponent": 2.0, "n_epochs": 500})
    )
    (axes,) = figure.axes
    curve, end = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(curve.get_ydata(), [0.9, 0.5, 0.4])
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (3, 0.4)
    assert axes.texts[0].get_text() == "converged, 0.4"
    assert axes.get_title() == "Training: 3 of at most 500 epochs"


@pytest.mark.parametrize(
    ("params", "label"),
    [
        ({"loss_exponent": 1.0}, "scaled cosine error"),
        ({"loss_exponent": None}, "mean squared error"),
        ({"loss_exponent": np.nan}, "mean squared error"),
        ({}, "mean squared error"),
    ],
)
def test_training_names_the_error(params: dict[str, object], label: str) -> None:
    (axes,) = pl.training(record(params=params, stopped="finished")).axes
    assert axes.get_ylabel() == label
    assert axes.get_xlabel() == "epoch"
    assert axes.get_title() == "Training: 3 epochs"


def test_training_without_a_stop_has_no_mark() -> None:
    (axes,) = pl.training(record()).axes
    assert len(axes.lines) == 1
    assert not axes.texts


def test_training_draws_each_member_to_its_own_end() -> None:
    loss = np.array([[0.9, 0.5, 0.4], [0.8, 0.6, np.nan]])
    params = {"loss_exponent": 2.0, "n_epochs": 500}
    (axes,) = pl.training(record(loss=loss, stopped="converged", params=params)).axes
    first, first_end, second, second_end = axes.lines
    assert first.get_ydata().tolist() == [0.9, 0.5, 0.4]
    assert second.get_ydata().tolist() == [0.8, 0.6]
    assert (first_end.get_xdata()[0], first_end.get_ydata()[0]) == (3, 0.4)
    assert (second_end.get_xdata()[0], second_end.get_ydata()[0]) == (2, 0.6)
    assert [text.get_text() for text in axes.texts] == ["converged, 0.5 on average"]
    assert axes.get_title() == "Training: 2 members, up to 3 of at most 500 epochs"


def test_scale_weights_draws_the_mean_and_each_member() -> None:
    adata = record(params={"scale_dims": np.array([64, 16])})
    members = np.array([[0.2, 0.3, 0.5], [0.4, 0.1, 0.5]])
    adata.uns["m2st"]["cluster"] = {"scale_weights": members}
    (axes,) = pl.scale_weights(adata).axes
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [0.3, 0.2, 0.5])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    places = {(x, y) for line in dots for x, y in zip(*line.get_data(), strict=True)}
    assert places == {(place, weight) for row in members for place, weight in enumerate(row)}
    # The mean is written above the dots, not over them.
    assert [text.get_text() for text in axes.texts] == ["0.30", "0.20", "0.50"]
    assert [text.xy for text in axes.texts] == list(enumerate(members.max(axis=0)))
    assert axes.get_ylim()[1] > members.max()


def test_scale_weights_draws_them_and_the_uniform_line() -> None:
    adata = record(params={"scale_dims": np.array([64, 16])})
    adata.uns["m2st"]["cluster"] = {"scale_weights": np.array([0.2, 0.3, 0.5])}
    (axes,) = pl.scale_weights(adata).axes
    assert [bar.get_height() for bar in axes.patches] == [0.2, 0.3, 0.5]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["scale 1\n(64)", "scale 2\n(16)", "common"]
    (uniform,) = axes.lines
    assert set(uniform.get_ydata()) == {1 / 3}
    assert uniform.get_linestyle() == "--"
    assert axes.get_legend().get_texts()[0].get_text() == "uniform"


def test_scale_weights_of_other_embeddings_have_no_widths() -> None:
    adata = record(params={"scale_dims": np.array([64, 16, 8])})
    adata.uns["m2st"]["cluster"] = {"scale_weights": np.array([0.4, 0.6])}
    (axes,) = pl.scale_weights(adata).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["scale 1", "common"]


# refusals ---------------------------------------------------------------------------------------


def test_domains_refuses() -> None:
    adata = data(hexagonal(), number=[[1]] * 144, sample=["a", None] * 72)
    many = data(square(35), number=np.arange(35.0**2))
    bare = adata.copy()
    del bare.obs["m2st_domain"]
    with pytest.raises(KeyError, match=r"m2st_domain.*Run `m2st\.tl\.cluster.*m2st\.run"):
        pl.domains(bare)
    with pytest.raises(KeyError, match=r"'layer' in `adata\.obs` \(found: m2st_domain"):
        pl.domains(adata, truth="layer")
    with pytest.raises(KeyError, match=r"'slide' in `adata\.obs`.*`sample_key=`"):
        pl.domains(adata, sample_key="slide")
    with pytest.raises(KeyError, match=r"'xy' in `adata\.obsm`.*`spatial_key=`"):
        pl.domains(adata, spatial_key="xy")
    with pytest.raises(ValueError, match=r"at most 1,000 categories .*'number'.*found 1,225"):
        pl.domains(many, key="number")
    with pytest.raises(TypeError, match=r"labels in `adata\.obs\['number'\]`, found values such"):
        pl.domains(adata, key="number")
    with pytest.raises(ValueError, match=r"a section for each .* found none for 72 of 144"):
        pl.domains(adata, sample_key="sample")
    with pytest.raises(ValueError, match=r"at least one observation"):
        pl.domains(adata[:0])
    with pytest.raises(ValueError, match=r"`panel_size` in \[0\.5, 50\], found 0"):
        pl.domains(adata, panel_size=0)
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match=r"with coordinates in `adata\.obsm\['spatial'\]`.* none"):
        pl.domains(adata)
    assert not adata.uns  # what is refused leaves nothing behind


def test_observations_without_coordinates_are_not_drawn() -> None:
    adata = data(hexagonal(), sample=["a", "b"] * 72)
    adata.obsm["spatial"][3] = np.nan
    adata.obs.loc[adata.obs_names[3], "sample"] = None
    assert len(pl.domains(adata).axes[0].collections[0].get_offsets()) == 143
    panels = pl.domains(adata, sample_key="sample").axes
    assert [len(panel.collections[0].get_offsets()) for panel in panels] == [72, 71]


def test_coordinates_and_sections_of_the_graph_are_drawn() -> None:
    adata = data(hexagonal(), sample=["a", "b"] * 72)
    adata.obsm["global"] = adata.obsm["spatial"] * 7
    adata.uns["m2st"] = {"graph": {"spatial_key": "global", "sample_key": "sample"}}
    panels = pl.domains(adata).axes
    assert len(panels) == 2
    drawn = panels[0].collections[0].get_offsets()
    np.testing.assert_array_equal(drawn, adata.obsm["global"][::2])
    adata.uns["m2st"]["graph"] = {"spatial_key": "gone", "sample_key": "gone"}
    drawn = pl.domains(adata).axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(drawn, adata.obsm["spatial"])


def test_missing_records_name_the_call_to_make() -> None:
    with pytest.raises(KeyError, match=r"'m2st' in `adata\.uns`.*m2st\.tl\.embed\(adata\).*m2st\."):
        pl.training(AnnData())
    with pytest.raises(KeyError, match=r"'embed' in .*\(found: nothing\).*m2st\.tl\.embed"):
        pl.training(AnnData(uns={"m2st": {}}))
    with pytest.raises(KeyError, match=r"'loss' in .*\['embed'\].*m2st\.tl\.embed"):
        pl.training(AnnData(uns={"m2st": {"embed": {"params": {}}}}))
    with pytest.raises(
        KeyError, match=r"'cluster' in .*found: embed.*m2st\.tl\.cluster.*m2st\.run"
    ):
        pl.scale_weights(record())


# pictures leave no trace, and real data ---------------------------------------------------------


def test_no_global_state_is_touched() -> None:
    code = """
import sys, io
import m2st
from m2st import pl, pp
from m2st._plotting import as_seen, palette
assert "matplotlib" not in sys.modules, "imported with the module"
import numpy as np, pandas as pd
from anndata import AnnData
adata = AnnData(
    obs=pd.DataFrame({"m2st_domain": ["1", "2"] * 8}, index=[str(i) for i in range(16)]),
    obsm={"spatial": np.random.default_rng(0).random((16, 2))},
    uns={"m2st": {"embed": {"loss": [1.0]}, "cluster": {"scale_weights": [0.5, 0.5]}}},
)
for figure in (pl.domains(adata), pl.training(adata), pl.scale_weights(adata)):
    figure.savefig(io.BytesIO(), format="png")
    assert figure._repr_png_().startswith(b"\\x89PNG"), "a notebook shows nothing"
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_savefig_writes_on_white(tmp_path: Path, suffix: str) -> None:
    figure = pl.domains(data(hexagonal()))
    figure.savefig(tmp_path / f"domains.{suffix}")
    assert (tmp_path / f"domains.{suffix}").stat().st_size > 1000
    assert to_hex(figure.get_facecolor()) == "#ffffff"


@pytest.mark.parametrize(
    ("name", "diameter"),
    [("dlpfc_151673", 0.55 * 138), ("her2st_H1", 0.55 * 290), ("starmap_visual_cortex", 210.06)],
)
def test_real_data(shared_data: Path, name: str, diameter: float) -> None:
    adata = ad.read_h5ad(shared_data / "counts" / f"{name}.h5ad")
    figure = pl.domains(adata, key="domain", truth="domain")
    assert len(spots(figure).get_offsets()) == adata.n_obs
    np.testing.assert_allclose(diameters(spots(figure)), diameter, rtol=0.02)
    assert fills(figure, 0) == fills(figure, 1)
    n_missing = int(adata.obs["domain"].isna().sum())
    assert (f"missing ({n_missing})" in legend_texts(figure)) == (n_missing > 0)
    figure.savefig(io.BytesIO(), format="png")


def test_number_of_domains_is_drawn_with_its_choice() -> None:
    record = {
        "candidates": np.array([2, 3, 4]),
        "stability": np.array([0.9, 0.95, 0.6]),
        "score": np.array([0.2, 0.6, 0.1]),
        "chosen": 3,
        "p_value": 0.005,
    }
    adata = AnnData(uns={"m2st": {"n_domains": record}})
    axes = pl.n_domains(adata).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), record["stability"])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), record["score"])
    assert axes.lines[2].get_xdata()[0] == 3
    record |= {"chosen": 1, "p_value": 0.34}
    assert pl.n_domains(adata).axes[0].get_title() == "No structure in space (p = 0.34)"
    with pytest.raises(KeyError, match="choose_n_domains"):
        pl.n_domains(AnnData(uns={"m2st": {}}))


# what others keep under the same names ----------------------------------------------------------

ODD_LIBRARIES = {
    "Slide-seqV2 of CELLxGENE": {"is_single": np.True_},
    "coordinates": np.zeros((144, 2)),
    "nothing": None,
    "text": "section",
    "an empty library": {"A": None},
    "no diameter": {"A": {"scalefactors": {"spot_diameter_fullres": None}}},
    "diameter in words": {"A": {"scalefactors": {"spot_diameter_fullres": "55 µm"}}},
    "diameter missing": {"A": {"scalefactors": {"spot_diameter_fullres": np.nan}}},
    "many diameters": {"A": {"scalefactors": {"spot_diameter_fullres": np.ones(3)}}},
    "no factors": {"A": {"scalefactors": None}},
    "several": {"A": {"scalefactors": {"spot_diameter_fullres": 9.0}}, "B": {}},
}


@pytest.mark.parametrize("name", ODD_LIBRARIES)
def test_spots_without_a_diameter_are_drawn(name: str) -> None:
    adata = data(hexagonal())
    adata.uns["spatial"] = ODD_LIBRARIES[name]
    np.testing.assert_allclose(diameters(spots(pl.domains(adata))), 55, rtol=0.01)


def test_a_library_among_other_entries_is_found() -> None:
    adata = data(hexagonal())
    factors = {"spot_diameter_fullres": np.array([70.0])}
    adata.uns["spatial"] = {"is_single": True, "A": {"scalefactors": factors}}
    np.testing.assert_allclose(diameters(spots(pl.domains(adata))), 70)


def test_many_domains_have_a_legend_that_can_be_read() -> None:
    adata = data(square(20), many=np.arange(400) % 120, more=np.arange(400) % 300)
    figure = pl.domains(adata, key="many")
    assert len(legend_texts(figure)) == len(set(fills(figure))) == 120
    (legend,) = [artist for artist in figure.artists if hasattr(artist, "get_texts")]
    figure.draw_without_rendering()
    boxes = np.array([text.get_window_extent().extents for text in legend.get_texts()])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= figure.bbox.size).all()
    figure = pl.domains(adata, key="more")
    assert legend_texts(figure) == ["300 categories"]
    assert len(set(fills(figure))) == 300


@pytest.mark.parametrize("kept", [3, None, "red", {"1": "red"}, [1, 2, 3, 4], np.array(2)])
def test_colours_that_are_none_are_replaced(kept: object) -> None:
    adata = data(hexagonal())
    adata.uns["m2st_domain_colors"] = kept
    pl.domains(adata)
    assert adata.uns["m2st_domain_colors"] == palette(4)


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    lone = "lone ?" if int(pd.__version__.split(".")[0]) >= 3 else "lone \ud800"
    names = ["$\\frac{$", "two\nlines", lone, "nul \0"]  # pandas 3 has no lone halves in text
    adata = data(hexagonal(), name=np.repeat(names, 36), sample=np.repeat(["$a", "b$_{"], 72))
    figure = pl.domains(adata, key="name", sample_key="sample")
    figure.savefig(tmp_path / "figure.png")
    texts = ["$\\frac{$ (36)", "lone ? (36)", "nul (36)", "two lines (36)"]
    assert sorted(legend_texts(figure)) == texts


@pytest.mark.parametrize(
    "record", [None, "text", 3, [1], {"embed": None}, {"embed": {"loss": "a"}}]
)
def test_a_record_of_something_else_counts_as_none(record: object) -> None:
    adata = AnnData(uns={"m2st": record})
    with pytest.raises(KeyError, match=r"Run `m2st\.tl\.embed\(adata\)`"):
        pl.training(adata)


# confidence -------------------------------------------------------------------------------------


def test_confidence_is_coloured_on_one_scale_and_missing_ones_are_grey() -> None:
    points = hexagonal()
    values = np.linspace(0.2, 0.8, len(points))
    values[:5] = np.nan
    adata = data(points, m2st_confidence=values)
    figure = pl.confidence(adata)
    expected = colormaps["cividis"](values[5:])
    assert fills(figure) == ["#dcdcdc"] * 5 + [to_hex(color) for color in expected]
    panel, bar = figure.axes
    assert legend_texts(figure) == ["missing (5)"]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0.0", "0.5", "1.0"]
    drawn = bar.images[0].get_array()
    np.testing.assert_allclose(drawn[[0, -1], 0], colormaps["cividis"]([0.0, 1.0]), atol=1 / 255)
    assert not adata.uns
    # Both lie on the page, side by side.
    figure.draw_without_rendering()
    box = bar.get_tightbbox()
    assert panel.get_window_extent().x1 < box.x0
    assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1


def test_confidence_is_drawn_where_domains_are() -> None:
    sample = ["a", "b"] * 72
    adata = data(hexagonal(), m2st_confidence=0.5, sample=sample)
    adata.obsm["global"] = adata.obsm["spatial"] * 7
    adata.obsm["global"][3] = np.nan
    adata.uns["spatial"] = {"a": {"scalefactors": {"spot_diameter_fullres": 30.0}}}
    for settings in ({}, {"sample_key": "sample", "spatial_key": "global", "panel_size": 2.0}):
        ours, theirs = pl.confidence(adata, **settings), pl.domains(adata, **settings)
        assert len(ours.axes) == len(theirs.axes) + 1
        for panel, other in enumerate(theirs.axes):
            assert ours.axes[panel].get_title(loc="left") == other.get_title(loc="left")
            found, expected = spots(ours, panel), spots(theirs, panel)
            np.testing.assert_array_equal(found.get_offsets(), expected.get_offsets())
            np.testing.assert_array_equal(diameters(found), diameters(expected))


def test_a_further_column_of_shares_is_drawn() -> None:
    adata = data(hexagonal(), purity=pd.array([None, *[1] * 143], dtype="Int64"))
    assert fills(pl.confidence(adata, key="purity"))[:2] == ["#dcdcdc", to_hex("#fee838")]


def test_confidence_refuses() -> None:
    adata = data(hexagonal(), wide=2.0, text="high")
    with pytest.raises(KeyError, match=r"'m2st_confidence' in `adata\.obs`.*m2st\.tl\.cluster"):
        pl.confidence(adata)
    with pytest.raises(ValueError, match=r"`adata\.obs\['wide'\]` in \[0, 1\], found 2\. Name"):
        pl.confidence(adata, key="wide")
    with pytest.raises(TypeError, match=r"numbers in `adata\.obs\['text'\]`"):
        pl.confidence(adata, key="text")
    with pytest.raises(ValueError, match=r"`panel_size` in \[0\.5, 50\], found 0"):
        pl.confidence(adata, panel_size=0)
    with pytest.raises(ValueError, match="Expected at least one observation to draw"):
        pl.confidence(adata[:0])


def test_array_indices_of_visium_are_drawn_as_a_hexagonal_array() -> None:
    row, column = np.meshgrid(np.arange(20), np.arange(40), indexing="ij")
    kept = (row + column) % 2 == 0
    places = np.column_stack([column[kept], row[kept]]).astype(float)
    rows = np.arange(len(places))
    section = find_section(AnnData(obs=pd.DataFrame(index=rows.astype(str))), "", rows, places)
    assert not section.square
    assert section.size == pytest.approx(0.55 * 2)
    np.testing.assert_allclose(section.points, places * [1, np.sqrt(3)])
    # Numbers beyond the last row of an array are columns, wherever they stand.
    turned = places[:, ::-1] + [0, 100]
    section = find_section(AnnData(obs=pd.DataFrame(index=rows.astype(str))), "", rows, turned)
    np.testing.assert_allclose(section.points, turned * [np.sqrt(3), 1])
