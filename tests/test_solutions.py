"""Members of an ensemble that fall into camps: two solutions, both kept, told and drawn."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import m2st
from m2st import pp, tl
from m2st._clustering import consensus, find_solutions
from m2st._record import readable, solutions_in_words

SIDE = 16
PLACES = np.array([[x, y] for x in range(SIDE) for y in range(SIDE)], dtype=float)
ACROSS, DOWN = (PLACES // (SIDE // 2)).astype(int).T
"""Two cuts of a square into halves: equally good ones."""


def sure(labels: np.ndarray, n_domains: int = 2) -> np.ndarray:
    return np.eye(n_domains)[labels]


def embedded(n_members: int = 8) -> ad.AnnData:
    """A square of four quarters, each as far from its two neighbours as any other.

    Halves can be cut across or down, and the noise of each member decides which way is better.
    """
    rng = np.random.default_rng(0)
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"s{i}" for i in range(SIDE**2)]))
    adata.obsm["spatial"] = PLACES
    corners = 4.0 * np.column_stack([ACROSS, DOWN])
    views = [corners + rng.normal(size=corners.shape) for _ in range(n_members)]
    adata.obsm["X_m2st_scale1"] = np.hstack(views).astype(np.float32)
    pp.spatial_graph(adata)
    adata.uns["m2st"]["n_members"] = n_members
    return adata


SETTINGS = m2st.ClusteringParams(common_dim=2, n_init=4)


def clustered() -> ad.AnnData:
    adata = embedded()
    with pytest.warns(UserWarning, match=r"^Two solutions, \d+ : \d+\. Of 8 members"):
        tl.cluster(adata, 2, SETTINGS)
    return adata


def test_two_equally_good_cuts_are_two_solutions(tmp_path: Path) -> None:
    adata = clustered()
    first, second = (adata.obs[f"m2st{name}_domain"] for name in ("", "_second"))
    found = {
        name: max(adjusted_rand_score(labels, cut) for cut in (ACROSS, DOWN))
        for name, labels in (("first", first), ("second", second))
    }
    assert min(found.values()) > 0.9
    assert adjusted_rand_score(first, second) < 0.1
    entry = adata.uns["m2st"]["cluster"]["solutions"]
    assert entry["between"] < 0.1
    assert entry["within"].min() > 0.9
    assert set(entry["camps"].tolist()) <= {0, 1, 2}
    assert min((entry["camps"] == 1).sum(), (entry["camps"] == 2).sum()) >= 2
    np.testing.assert_allclose(entry["shares"][0], (entry["camps"] == 1).mean())
    # The first one is where the domains are.
    agreement = adata.uns["m2st"]["cluster"]["agreement"]
    assert agreement[entry["camps"] == 1].min() > agreement[entry["camps"] == 2].max()
    for file in (tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        m2st.io.write(adata, file)
        again = m2st.io.read(file)
        assert again.obs["m2st_second_domain"].equals(second)
        kept = again.uns["m2st"]["cluster"]["solutions"]
        for name, value in entry.items():
            np.testing.assert_array_equal(kept[name], value)
        assert readable(again.uns)[1] == []


def test_clear_domains_are_one_solution() -> None:
    adata = clustered()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tl.cluster(adata, 4, SETTINGS)
    assert "solutions" not in adata.uns["m2st"]["cluster"]
    assert "m2st_second_domain" not in adata.obs  # that of before is gone


def test_domains_are_the_consensus_whether_there_are_camps_or_not() -> None:
    members = [sure(cut) for cut in (ACROSS, ACROSS, ACROSS, DOWN, DOWN)]
    found = consensus(members)
    assert adjusted_rand_score(found.labels, ACROSS) == 1
    solutions = find_solutions(members, found)
    assert solutions is not None
    assert solutions.camps.tolist() == [1, 1, 1, 2, 2]
    assert solutions.within.tolist() == [1, 1]
    assert adjusted_rand_score(solutions.labels, DOWN) == 1


def test_names_are_those_of_the_domains_that_share_most() -> None:
    bands = (PLACES[:, 0] // 4).astype(int)
    upper = PLACES[:, 1] > 10
    other = np.where(bands == 3, 2, np.where((bands == 0) & upper, 3, bands))
    orders = ([3, 1, 0, 2], [1, 2, 3, 0])
    members = [sure(bands, 4)] * 3 + [sure(other, 4)[:, order] for order in orders]
    found = consensus(members)
    solutions = find_solutions(members, found)
    assert solutions is not None
    np.testing.assert_array_equal(solutions.labels[bands == 1], found.labels[bands == 1])
    np.testing.assert_array_equal(solutions.labels[bands == 2], found.labels[bands == 2])
    lower = (bands == 0) & ~upper
    np.testing.assert_array_equal(solutions.labels[lower], found.labels[lower])


def test_domain_that_shares_almost_nothing_has_a_name_of_its_own() -> None:
    bands = (PLACES[:, 0] // 4).astype(int)
    other = np.where(bands == 3, 2, np.where((bands == 0) & (DOWN == 0), 3, bands))
    other[-5:] = 3  # a few spots in common with the domain that the other camp lacks
    members = [sure(bands, 4)] * 3 + [sure(other, 4)] * 2
    found = consensus(members)
    solutions = find_solutions(members, found)
    assert solutions is not None
    lacking = found.labels[-1]
    assert set(solutions.labels.tolist()) == {0, 1, 2, 3, 4} - {lacking}
    assert set(solutions.labels[other == 3].tolist()) == {4}


def moved(share: float, rng: np.random.Generator, labels: np.ndarray, n_domains: int) -> np.ndarray:
    """Memberships in which some observations have another domain, drawn by chance."""
    labels = labels.copy()
    some = rng.random(len(labels)) < share
    labels[some] = rng.integers(n_domains, size=some.sum())
    return sure(labels, n_domains)


@pytest.mark.parametrize("n_members", [4, 5, 20])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_members_that_all_agree_or_all_differ_are_no_camps(n_members: int, share: float) -> None:
    rng = np.random.default_rng(1)
    quarters = 2 * ACROSS + DOWN
    for _ in range(5):
        members = [moved(share, rng, quarters, 4) for _ in range(n_members)]
        assert find_solutions(members, consensus(members)) is None


def test_a_single_member_is_no_camp() -> None:
    members = [sure(cut) for cut in (ACROSS, ACROSS, ACROSS, ACROSS, DOWN)]
    assert find_solutions(members, consensus(members)) is None
    three = members[2:]
    assert find_solutions(three, consensus(three)) is None


def test_camps_that_draw_almost_the_same_are_one_solution() -> None:
    quarters = 2 * ACROSS + DOWN
    nearly = quarters.copy()
    nearly[:3] = 3
    members = [sure(labels, 4) for labels in (quarters, quarters, nearly, nearly)]
    assert find_solutions(members, consensus(members)) is None


def test_of_three_camps_the_two_largest_are_told() -> None:
    third = (ACROSS + DOWN) % 2
    members = [sure(cut) for cut in [ACROSS] * 6 + [third] * 2 + [DOWN] * 3]
    solutions = find_solutions(members, consensus(members))
    assert solutions is not None
    assert solutions.camps.tolist() == [1] * 6 + [0] * 2 + [2] * 3
    assert solutions_in_words(solutions.to_dict()) == (
        "Two solutions, 55 : 27. Of 11 members of the ensemble, 6 agree on about these domains and "
        "3 on others (adjusted Rand index 0.00)."
    )


def test_members_of_many_minds_are_no_two_camps() -> None:
    third = (ACROSS + DOWN) % 2
    members = [sure(cut) for cut in [ACROSS] * 3 + [third] * 2 + [DOWN] * 2]
    assert find_solutions(members, consensus(members)) is None


def test_message_names_the_column() -> None:
    adata = embedded()
    message = re.escape("The others are in `adata.obs['two_second_domain']`: look at both.")
    with pytest.warns(UserWarning, match=message):
        tl.cluster(adata, 2, SETTINGS, key_added="two")
    assert "two_second_domain" in adata.obs


def test_second_solution_follows_its_domains() -> None:
    adata = clustered()
    tl.rename_domains(adata, {"1": "here"})
    assert list(adata.obs["m2st_second_domain"].cat.categories) == ["here", "2"]
    adata.obs["m2st_second_domain"] = adata.obs["m2st_second_domain"].cat.add_categories("3")
    tl.rename_domains(adata, {"here": "3"})  # a name that only the second solution has
    assert list(adata.obs["m2st_second_domain"].cat.categories) == ["here", "2", "3"]
    tl.split_domains(adata, {"2": 2}, SETTINGS, key_added="parts")
    assert "parts_second_domain" not in adata.obs
    assert "solutions" not in adata.uns["parts"]["cluster"]
    with pytest.raises(ValueError, match="ends like a key of m2ST"):
        tl.cluster(adata, 2, key_added="m2st_second")
    adata.obs["mine_second_domain"] = "a"
    with pytest.raises(ValueError, match=re.escape("found `adata.obs['mine_second_domain']`")):
        tl.cluster(adata, 2, key_added="mine")
    tl.forget_clustering(adata, m2st._keys.Keys())
    assert "m2st_second_domain" not in adata.obs


def test_second_solution_can_be_drawn() -> None:
    adata = clustered()
    both = m2st.pl.domains(adata, truth="m2st_second_domain")
    assert [axes.get_title() for axes in both.axes][:2]
    alone = m2st.pl.domains(adata, key_added="m2st_second")
    assert alone.axes


def test_report_tells_and_draws_both(tmp_path: Path) -> None:
    adata = clustered()
    m2st.report(adata, tmp_path / "two.html")
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert "Two solutions, " in page
    assert page.count('class="panel"') == 3
    assert 'id="solutions"' in page
    del adata.uns["m2st"]["cluster"]["solutions"]["between"]
    m2st.report(adata, tmp_path / "one.html")
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert page.count('class="panel"') == 1
    assert "cluster.solutions" in page
