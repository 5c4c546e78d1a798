"""Sections that are clustered together: none the worse for it, and what is said of them."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import m2st
from m2st import pp
from m2st._clustering import consensus, join_sections
from m2st._record import readable
from m2st._sections import joined_in_words

SMALL = m2st.AutoencoderParams(n_members=2, n_epochs=30)
SIDE = 20
PLACES = np.array([[x, y] for x in range(SIDE) for y in range(SIDE)], dtype=float)
BANDS = (PLACES[:, 0] // 5).astype(int)
"""Four bands of a hundred observations."""


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(4)[labels]


def two_sections() -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Graph of two squares, sections, and a representation that shows the bands in both."""
    steps = np.abs(PLACES[:, None] - PLACES).sum(axis=2) == 1
    graph = sparse.csr_matrix(sparse.block_diag([steps, steps]), dtype=np.float32)
    rng = np.random.default_rng(0)
    block = 5 * np.eye(4)[np.tile(BANDS, 2)] + rng.normal(size=(800, 4))
    return graph, np.repeat([0, 1], 400), block


def test_joint_domains_stay_where_they_are_as_good_as_the_own_ones() -> None:
    graph, sections, block = two_sections()
    joint = consensus([one_hot(np.tile(BANDS, 2))])
    own = [consensus([one_hot(np.roll(BANDS, 20))])] * 2  # moved by one row
    found = join_sections(joint, own, sections, graph, block)
    assert not found.keeps_own.any()
    np.testing.assert_array_equal(found.labels, joint.labels)
    assert (found.agreement < 1).all()
    sure = found.responsibilities[np.arange(800), found.labels]
    np.testing.assert_allclose(sure[20:100], found.agreement[0])
    np.testing.assert_allclose(sure[:20], found.agreement[0] / 2)


def test_section_that_joint_domains_cut_up_keeps_its_own_under_joint_names() -> None:
    graph, sections, block = two_sections()
    worse = BANDS.copy()
    worse[::2] = np.where(BANDS[::2] == 3, 2, BANDS[::2])  # every other spot of a band
    joint = consensus([one_hot(np.concatenate([BANDS, worse]))])
    names = joint.labels[:400]
    own = [consensus([one_hot(BANDS)]), consensus([one_hot((BANDS + 1) % 4)])]
    found = join_sections(joint, own, sections, graph, block)
    assert found.keeps_own.tolist() == [False, True]
    np.testing.assert_array_equal(found.labels, np.tile(names, 2))
    sure = found.responsibilities[np.arange(800), found.labels]
    np.testing.assert_allclose(sure[:400], 1)
    assert (sure[400:] <= found.agreement[1]).all()
    assert found.border[1, 0] > 2 * found.border[1, 1]
    assert found.information[1, 0] < found.information[1, 1]


def test_own_domain_that_shares_nothing_gets_the_name_of_the_nearest_centre_left() -> None:
    graph, sections, block = two_sections()
    only = np.where(BANDS < 2, BANDS, 0)  # the second section has domains 0 and 1 alone
    joint = consensus([one_hot(np.concatenate([BANDS, only]))])
    found = join_sections(joint, [None, consensus([one_hot(BANDS)])], sections, graph, block)
    assert found.keeps_own.tolist() == [False, True]  # two of four bands: half is told
    np.testing.assert_array_equal(found.labels[400:], joint.labels[:400])


def test_section_too_small_for_domains_of_its_own_is_taken_as_it_is() -> None:
    graph, sections, block = two_sections()
    joint = consensus([one_hot(np.tile(BANDS, 2))])
    found = join_sections(joint, [None, None], sections, graph, block)
    np.testing.assert_array_equal(found.responsibilities, joint.responsibilities)
    assert not found.keeps_own.any()
    assert np.isnan(found.agreement).all()
    assert np.isnan(found.border).all()


def entry(**changed: object) -> dict[str, object]:
    plain = {
        "names": ["A", "B", "C"],
        "keeps_own": [False, False, False],
        "information": [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]],
        "shares": [[0.5, 0.5, 0], [0.5, 0.3, 0.2], [0.5, 0.495, 0.005]],
    }
    return {**plain, **changed}


def test_words_on_sections() -> None:
    names = ["1", "2", "tumour"]
    texts = [(found.text, found.grave) for found in joined_in_words(entry(), names)]
    assert texts == [
        ("Section A has (almost) nothing of domain tumour.", False),
        ("Section B has 1 domain that no other has: tumour.", False),
        ("Section C has (almost) nothing of domain tumour.", False),
    ]
    apart = [[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]
    found = joined_in_words(entry(shares=apart), names)[1:3]
    assert found[1].text == "Section B has 2 domains that no other has: 2 and tumour."
    assert found[1].grave
    shared = np.full((3, 3), 1 / 3)
    found = joined_in_words(entry(shares=shared, keeps_own=[True, False, True]), names)
    assert [one.grave for one in found] == [True]
    assert found[0].text.startswith("Sections A and C keep domains of their own: joined with the")
    little = [[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]
    (one,) = joined_in_words(entry(shares=shared, information=little), names)
    assert one.text.startswith("The sections share little: in 2 of 3, joint domains tell less than")
    unknown = np.full((3, 2), np.nan)
    assert joined_in_words(entry(shares=shared, information=unknown), names) == []


def layered(n_samples: int, seed: int) -> ad.AnnData:
    return m2st.datasets.simulate_cortex(
        900, 400, 5, difficulty=0.3, n_samples=n_samples, random_state=seed
    )


@pytest.mark.slow
def test_missing_layer_is_reported_as_absent(caplog: pytest.LogCaptureFixture) -> None:
    adata = layered(2, 3)
    gone = (adata.obs["domain"] == adata.obs["domain"].cat.categories[-1]).to_numpy()
    second = (adata.obs["sample"] == adata.obs["sample"].unique()[1]).to_numpy()
    adata = adata[~(gone & second)].copy()
    with caplog.at_level(logging.INFO, "m2st"):
        m2st.run(adata, 5, sample_key="sample", autoencoder=SMALL, progress=False)
    said = adata.uns["m2st"]["cluster"]["sections"]
    missing = adata.obs["m2st_domain"][gone[~(gone & second)]].mode()[0]
    assert said["shares"][1][int(missing) - 1] < 0.01
    assert f"Section {said['names'][1]} has (almost) nothing of domain {missing}." in caplog.text


@pytest.mark.slow
def test_sections_that_share_nothing_are_none_the_worse(tmp_path: Path) -> None:
    one, other = layered(1, 4), layered(1, 5)
    other = other[:, ::-1].copy()
    other.var_names = one.var_names
    both = ad.concat({"one": one, "other": other}, label="section", index_unique="-")
    truth = both.obs.pop("domain")
    with pytest.warns(UserWarning, match="keep"):
        m2st.run(both, 5, sample_key="section", autoencoder=SMALL, progress=False)
    for name, part in (("one", one), ("other", other)):
        rows = (both.obs["section"] == name).to_numpy()
        together = m2st.metrics.ari(truth[rows], both.obs["m2st_domain"][rows])
        m2st.run(part, 5, autoencoder=SMALL, progress=False)
        assert together > m2st.metrics.ari(part.obs["domain"], part.obs["m2st_domain"]) - 0.05
    assert both.obs["m2st_confidence"].median() < 0.9
    m2st.report(both, tmp_path / "both.html")
    assert "domains of their own" in (tmp_path / "both.html").read_text()
    both.write_h5ad(tmp_path / "both.h5ad")
    record, unfit = readable(ad.read_h5ad(tmp_path / "both.h5ad").uns)
    assert unfit == []
    assert list(record["cluster"]["sections"]["names"]) == ["one", "other"]
    record["cluster"]["sections"]["names"] = ["one"]
    assert readable({"m2st": record})[1] == ["cluster.sections"]


def test_paper_clustering_leaves_sections_as_they_are() -> None:
    adata = layered(2, 3)
    m2st.run(
        adata, 5, sample_key="sample", autoencoder=SMALL, progress=False,
        clustering=m2st.paper.DualParams(n_init=1),
    )  # fmt: skip
    assert "sections" not in adata.uns["m2st"]["cluster"]


@pytest.mark.slow
def test_shifts_that_are_not_the_models_cost_little() -> None:
    adata = m2st.datasets.simulate_cortex(1600, 400, 5, difficulty=0.4, n_samples=2, random_state=3)
    rng = np.random.default_rng(3)
    second = (adata.obs["sample"] == "section2").to_numpy()
    layer = adata.obs["domain"].cat.codes.to_numpy()
    kept = 0.5 * rng.uniform(0.4, 1, (5, adata.n_vars))  # other depth; other by gene and layer
    counts = adata.X.toarray().astype(int)
    counts[second] = rng.binomial(counts[second], kept[layer[second]])
    adata.X = sparse.csr_matrix(counts, dtype=np.float32)
    thin = second & (layer == 1)
    half = adata.obsm["spatial"][:, 0] > np.median(adata.obsm["spatial"][thin, 0])
    adata = adata[~(thin & half)].copy()  # other proportions
    m2st.run(adata, 5, sample_key="sample", autoencoder=SMALL, progress=False)
    for name in ("section1", "section2"):
        rows = (adata.obs["sample"] == name).to_numpy()
        part = ad.AnnData(adata.X[rows], obsm={"spatial": adata.obsm["spatial"][rows]})
        m2st.run(part, 5, autoencoder=SMALL, progress=False)
        truth = adata.obs["domain"][rows].to_numpy()
        together = m2st.metrics.ari(truth, adata.obs["m2st_domain"][rows].to_numpy())
        assert together > m2st.metrics.ari(truth, part.obs["m2st_domain"].to_numpy()) - 0.05


@pytest.mark.slow
def test_sections_have_the_same_bits_from_two_jobs() -> None:
    adata = layered(2, 3)
    m2st.run(adata, None, sample_key="sample", autoencoder=SMALL, progress=False)
    again = adata.copy()
    m2st.tl.cluster(adata, 5, n_jobs=1)
    m2st.tl.cluster(again, 5, n_jobs=2)
    assert adata.obs["m2st_domain"].equals(again.obs["m2st_domain"])
    assert adata.obs["m2st_confidence"].equals(again.obs["m2st_confidence"])
    one, other = (each.uns["m2st"]["cluster"]["sections"] for each in (adata, again))
    assert one["names"] == other["names"]
    np.testing.assert_array_equal(one["information"], other["information"])


def test_sections_together_compare_starts_by_the_whole_objective() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=100, n_domains=3, n_samples=2)
    m2st.run(adata, None, sample_key="sample", autoencoder=SMALL, progress=False)
    quick = m2st.ClusteringParams(n_init=4)
    assert [fit.n_followed for fit in m2st.tl.cluster(adata, 3, quick)] == [8, 8]
    once = m2st.ClusteringParams(n_init=4, n_followed=1)
    assert [fit.n_followed for fit in m2st.tl.cluster(adata, 3, once)] == [1, 1]


def test_batches_are_brought_to_one_mean_and_sections_told_apart() -> None:
    adata = layered(3, 3)
    adata.obs["donor"] = adata.obs["sample"].map(
        {"section1": "a", "section2": "a", "section3": "b"}
    )
    pp.spatial_graph(adata, sample_key="sample")
    pp.prepare(adata, sample_key="sample", batch_key="donor", n_pcs=5)
    means = [
        abs(adata.obsm["X_m2st_pca"][(adata.obs[key] == name).to_numpy()].mean(axis=0)).max()
        for key, name in (("donor", "a"), ("donor", "b"), ("sample", "section1"))
    ]
    assert max(means[:2]) < 1e-4 < means[2]
    assert adata.uns["m2st"]["prepare"]["batch_key"] == "donor"


def test_unfit_batches_are_refused() -> None:
    adata = layered(1, 3)
    adata.obs["donor"] = [None, *["a"] * (adata.n_obs - 1)]
    with pytest.raises(ValueError, match=r"the batch of every observation in .*donor.*, found 1"):
        m2st.run(adata, 5, batch_key="donor", progress=False)
    adata.obs["depth"] = np.arange(adata.n_obs) / 7
    with pytest.raises(ValueError, match=rf"batches of several .*'depth'.*found {adata.n_obs} val"):
        m2st.run(adata, 5, batch_key="depth", progress=False)
    with pytest.raises(KeyError, match=r"'slide' in `adata\.obs`"):
        m2st.run(adata, 5, batch_key="slide", progress=False)
    adata.obsm["X_pca"] = np.zeros((adata.n_obs, 3))
    with pytest.raises(ValueError, match=r"aligned already, or `batch_key`, found 'X_pca' and 'd"):
        m2st.run(adata, 5, use_rep="X_pca", batch_key="donor", progress=False)
