"""Labels of some observations, carried to all others."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import m2st
from m2st._guided import GuidedDomains
from m2st._guided._atlas import Atlas, normalised_places


@pytest.fixture(scope="module")
def cortex() -> anndata.AnnData:
    """A section of three layers on a lattice of 24 × 24, and the same tissue once more."""
    rng = np.random.default_rng(0)
    sections = []
    rates = rng.gamma(2.0, 1.0, size=(1, 60))
    for name in ("old", "new"):
        y, x = np.divmod(np.arange(24 * 24), 24)
        layer = np.digitize(y + np.sin(x / 4), [8, 16])
        raised = 1 + 2.0 * (np.arange(60)[None] % 3 == layer[:, None])
        counts = rng.poisson(rates * raised * rng.uniform(0.5, 1.5, size=(576, 1)))
        obs = pd.DataFrame(
            {"section": name, "layer": np.array(["grey", "white", "black"])[layer]},
            index=[f"{name}{spot}" for spot in range(576)],
        )
        one = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)
        one.var_names = [f"GENE{gene}" for gene in range(60)]
        one.obsm["spatial"] = np.stack([x, y], axis=1).astype(float)
        sections.append(one)
    both = anndata.concat(sections)
    both.obs["layer"] = pd.Categorical(both.obs["layer"], categories=["white", "grey", "black"])
    return both


@pytest.fixture
def old(cortex: anndata.AnnData) -> anndata.AnnData:
    return cortex[cortex.obs["section"] == "old"].copy()


@pytest.fixture
def new(cortex: anndata.AnnData) -> anndata.AnnData:
    found = cortex[cortex.obs["section"] == "new"].copy()
    found.obs["truth"] = found.obs.pop("layer")
    return found


def right(adata: anndata.AnnData, truth: str = "truth", key: str = "m2st_domain") -> float:
    return float((adata.obs[key].astype(object) == adata.obs[truth].astype(object)).mean())


def test_labels_of_a_reference_reach_a_new_section(
    old: anndata.AnnData, new: anndata.AnnData
) -> None:
    old.uns["layer_colors"] = ["#ffffff", "#888888", "#000000"]
    before = old.copy()
    model = m2st.annotate(new, "layer", reference=old)
    assert right(new) > 0.9
    domain = new.obs["m2st_domain"]
    assert domain.cat.categories.tolist() == ["white", "grey", "black"]
    assert new.uns["m2st_domain_colors"] == ["#ffffff", "#888888", "#000000"]
    assert new.obs["m2st_confidence"].between(0, 1).all()
    assert new.uns["m2st"]["apply"]["n_unassigned"] == domain.isna().sum()
    assert repr(model) == "<m2st.Model: 3 domains, labels, 60 genes>"
    # The reference is as it was.
    assert set(old.obs) == set(before.obs)
    assert (set(old.obsm), set(old.uns)) == ({"spatial"}, {"layer_colors"})


def test_a_saved_model_gives_the_same_bits(
    old: anndata.AnnData, new: anndata.AnnData, tmp_path: object
) -> None:
    model = m2st.annotate(new, "layer", reference=old)
    folder = f"{tmp_path}/model"
    model.save(folder)
    loaded = m2st.load(folder)
    loaded.apply(new, key_added="again")
    m2st.annotate(new, reference=loaded, key_added="third")
    m2st.annotate(new, reference=loaded, key_added="third")  # in place of its own result
    for name in ("again", "third"):
        for what in ("domain", "confidence"):
            pd.testing.assert_series_equal(
                new.obs[f"{name}_{what}"], new.obs[f"m2st_{what}"], check_names=False
            )


def test_a_labelled_section_beside_a_new_one(cortex: anndata.AnnData) -> None:
    cortex = cortex.copy()
    truth = cortex.obs["layer"].copy()
    cortex.obs.loc[cortex.obs["section"] == "new", "layer"] = None
    m2st.annotate(cortex, "layer", sample_key="section")
    given = cortex.obs["layer"].notna()
    assert cortex.obs["m2st_domain"][given].tolist() == truth[given].tolist()
    assert (cortex.obs["m2st_domain"] == truth)[~given].mean() > 0.9


def test_sections_are_named_in_either_object(cortex: anndata.AnnData, new: anndata.AnnData) -> None:
    cortex = cortex.copy()
    new.X = 2 * new.X  # it is no section of the reference
    model = m2st.annotate(new, "layer", reference=cortex[:, ::-1].copy(), sample_key="section")
    assert model.record["graph"]["sample_key"] == "section"
    del new.obs["section"]
    m2st.annotate(new, "layer", reference=cortex, sample_key="section", key_added="in_reference")
    assert "sample_key" not in new.uns["in_reference"]["graph"]
    del cortex.obs["section"]
    with pytest.raises(KeyError, match=r"Expected 'section' in `adata.obs`"):
        m2st.annotate(new, "layer", reference=cortex, sample_key="section")


def test_some_labels_on_a_section(new: anndata.AnnData) -> None:
    rng = np.random.default_rng(1)
    some = rng.random(new.n_obs) < 0.08
    new.obs["stroke"] = new.obs["truth"].where(some)
    m2st.annotate(new, "stroke")
    assert right(new) > 0.85
    assert (new.obs["m2st_domain"] == new.obs["truth"])[some].all()


def test_wrong_labels_are_not_learned_from(old: anndata.AnnData, new: anndata.AnnData) -> None:
    rng = np.random.default_rng(2)
    wrong = rng.random(old.n_obs) < 0.1
    old.obs.loc[wrong, "layer"] = rng.choice(old.obs["layer"].cat.categories, wrong.sum())
    m2st.annotate(new, "layer", reference=old)
    assert right(new) > 0.88


def test_tissue_that_no_label_knows_is_left_out(old: anndata.AnnData, new: anndata.AnnData) -> None:
    strange = new.obsm["spatial"][:, 0] < 6
    counts = new.X.toarray()
    counts[strange] = np.roll(counts[strange], 20, axis=1)[:, ::-1] * [6] + 5
    new.X = sparse.csr_matrix(counts)
    m2st.annotate(new, "layer", reference=old)
    missing = new.obs["m2st_domain"].isna()
    assert missing[strange].mean() > 0.9
    assert missing[~strange].mean() < 0.1
    assert new.uns["m2st"]["apply"]["likeness"][0] > 0.9  # the rest is as it was
    assert new.obs["m2st_confidence"].notna().all()


def test_a_section_unlike_the_reference_is_left_alone(
    old: anndata.AnnData, new: anndata.AnnData
) -> None:
    # Each layer has genes of its own, but others than in the reference.
    other = np.random.default_rng(4).permutation(new.n_vars)
    new = anndata.AnnData(new.X[:, other], obs=new.obs, var=new.var, obsm=dict(new.obsm))
    with pytest.warns(UserWarning, match=r"found 1 of 1 where only \d+% of what sets the domains"):
        m2st.annotate(new, "layer", reference=old)
    assert new.uns["m2st"]["apply"]["likeness"][0] < 0.6
    assert new.obs["m2st_domain"].isna().mean() > 0.9
    assert new.obs["m2st_confidence"].max() < 0.6


def test_a_section_of_one_layer_says_that_it_is_unlike(
    old: anndata.AnnData, new: anndata.AnnData
) -> None:
    # Scores get the deviation of the reference: the section looks like one of three layers.
    part = new[new.obs["truth"] == "grey"].copy()
    with pytest.warns(UserWarning, match="Take a reference of the same tissue"):
        m2st.annotate(part, "layer", reference=old)
    assert part.obs["m2st_confidence"].mean() < 0.6


def test_a_domain_that_has_no_label_is_found(
    old: anndata.AnnData, new: anndata.AnnData, tmp_path: object
) -> None:
    part = old[old.obs["layer"] != "black"].copy()
    part.obs["layer"] = part.obs["layer"].cat.remove_unused_categories()
    part.uns["layer_colors"] = ["#ffffff", "#888888"]
    black = new.obs["truth"] == "black"
    model = m2st.annotate(new, "layer", reference=part, n_new=1)
    domain = new.obs["m2st_domain"]
    assert domain.cat.categories.tolist() == ["white", "grey", "new 1"]
    assert (domain == "new 1")[black].mean() > 0.8
    assert (domain == "new 1")[~black].mean() < 0.1
    assert new.uns["m2st_domain_colors"][:2] == ["#ffffff", "#888888"]
    assert len(set(new.uns["m2st_domain_colors"])) == 3
    assert new.uns["m2st"]["apply"]["n_domains"] == 3
    # The model has the labels alone, and a saved one finds the same.
    assert model.domains == ("white", "grey")
    model.save(f"{tmp_path}/model")
    m2st.annotate(new, reference=m2st.load(f"{tmp_path}/model"), n_new=1, key_added="again")
    assert new.obs["again_domain"].tolist() == domain.tolist()


def test_new_domains_need_a_place_and_a_name(old: anndata.AnnData, new: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="`n_new`"):
        m2st.annotate(new, "layer", reference=old, n_new=-1)
    old.obs["taken"] = old.obs["layer"].cat.rename_categories({"grey": "new 1"})
    with pytest.raises(ValueError, match="no new domain is called by, found 'new 1'"):
        m2st.annotate(new, "taken", reference=old, n_new=1)
    new.obs["stroke"] = new.obs["truth"].where(np.arange(new.n_obs) % 9 == 0)
    with pytest.raises(ValueError, match="Expected a section without labels"):
        m2st.annotate(new, "stroke", n_new=1)
    assert "m2st" not in new.uns


def test_order_of_observations_does_not_matter(old: anndata.AnnData, new: anndata.AnnData) -> None:
    m2st.annotate(new, "layer", reference=old)
    shuffled = new[np.random.default_rng(3).permutation(new.n_obs)].copy()
    del shuffled.obsp, shuffled.uns
    m2st.annotate(shuffled, "layer", reference=old, key_added="other")
    same = shuffled.obs["other_domain"].astype(object) == shuffled.obs["m2st_domain"].astype(object)
    assert same.mean() > 0.97


def test_an_atlas_finds_how_a_section_was_turned() -> None:
    y, x = np.divmod(np.arange(30 * 30), 30)
    places = normalised_places(np.stack([x, y], axis=1) * 55.0)
    labels = (y > 9) + (y > 20) + 3 * (x > 22)
    shares = np.eye(6)[labels]
    atlas = Atlas(places, shares, shares.mean(axis=0), np.asarray(0.0))
    turned = np.stack([-y, x], axis=1) * 0.3
    found, trust = atlas.lay(normalised_places(turned), 0.9 * shares + 0.1 / 6)
    assert trust > 0.9
    assert (found.argmax(axis=1) == labels).mean() > 0.9
    _, trust = atlas.lay(places, np.random.default_rng(0).permutation(shares))
    assert trust < 0.2


def test_probabilities_are_right_as_often_as_they_say(
    old: anndata.AnnData, new: anndata.AnnData
) -> None:
    m2st.annotate(new, "layer", reference=old)
    best = new.obs["m2st_confidence"]
    hit = new.obs["m2st_domain"].astype(object) == new.obs["truth"].astype(object)
    assert abs(best[new.obs["m2st_domain"].notna()].mean() - hit.mean()) < 0.15


def test_arrays_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(size=(60, 2))
    graph = sparse.csr_matrix((60, 60))
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 4)) + labels[:, None]
    guide = GuidedDomains.fit(features, labels, graph, np.zeros(60, dtype=int), places, n_domains=2)
    arrays = guide.to_arrays()
    again = GuidedDomains.from_arrays(arrays)
    np.testing.assert_array_equal(again.centers, guide.centers)
    with pytest.raises(ValueError, match="do not fit each other"):
        GuidedDomains.from_arrays({**arrays, "proportions": np.zeros(3)})
    with pytest.raises(ValueError, match="an atlas does not fit"):
        GuidedDomains.from_arrays({**arrays, "atlas.0.shares": np.zeros((60, 3))})


BAD_LABELS = {
    "one class": (lambda obs: "white", ValueError, "at least two names"),
    "numbers": (lambda obs: np.arange(len(obs)) % 3, TypeError, "names as labels .* found numbers"),
    "text for missing": (
        lambda obs: np.where(np.arange(len(obs)) % 3 == 0, "nan", obs["layer"].astype(str)),
        ValueError,
        r"to be missing values, found the text 'nan'. Call .*replace\(\{'nan': None\}\)",
    ),
    "empty text": (
        lambda obs: pd.Categorical(np.where(np.arange(len(obs)) % 3 == 0, "", obs["layer"])),
        ValueError,
        "found the text ''",
    ),
    "all missing": (lambda obs: None, ValueError, "found that all are missing"),
    "unused": (
        lambda obs: pd.Categorical(
            obs["layer"], categories=["white", "grey", "black", "ventricle"]
        ),
        ValueError,
        "found none of ventricle",
    ),
    "rare": (
        lambda obs: ["ventricle", *obs["layer"][1:]],
        ValueError,
        "found one of ventricle",
    ),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_cannot_be_learned_from(
    kind: str, old: anndata.AnnData, new: anndata.AnnData
) -> None:
    make, error, message = BAD_LABELS[kind]
    old.obs["bad"] = make(old.obs)
    before = new.copy()
    with pytest.raises(error, match=message):
        m2st.annotate(new, "bad", reference=old)
    assert set(new.obs) == set(before.obs)
    assert not new.uns
    assert set(new.obsm) == {"spatial"}


def test_what_is_wrong_with_the_reference_is_said_of_it(
    old: anndata.AnnData, new: anndata.AnnData
) -> None:
    del old.obsm["spatial"]
    with pytest.raises(KeyError, match=r"Of the reference: Expected 'spatial' in `adata\.obsm`"):
        m2st.annotate(new, "layer", reference=old)
    old.obsm["spatial"] = np.full_like(new.obsm["spatial"], np.nan)
    with pytest.raises(ValueError, match="Of the reference: "):
        m2st.annotate(new, "layer", reference=old)
    assert set(new.obs) == {"section", "truth"}


def test_missing_column_and_missing_key(old: anndata.AnnData, new: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match="layers"):
        m2st.annotate(new, "layers", reference=old)
    with pytest.raises(ValueError, match="Expected `label_key=`"):
        m2st.annotate(new, reference=old)
    with pytest.raises(ValueError, match="Expected observations without a label"):
        m2st.annotate(old, "layer")
    old.obs["m2st_domain"] = old.obs["layer"].where(np.arange(old.n_obs) % 2 == 0)
    with pytest.raises(ValueError, match="labels in another column than the result"):
        m2st.annotate(old, "m2st_domain")


def test_the_same_section_twice(old: anndata.AnnData, cortex: anndata.AnnData) -> None:
    renamed = old[::-1, ::-1].copy()
    renamed.obs_names = [f"cell{number}" for number in range(renamed.n_obs)]
    renamed.obsm["spatial"] *= 55
    part = old[:300, :50].copy()
    part.X = part.X.toarray()
    for again in (old, old.copy(), renamed, part):
        before = set(again.obs)
        with pytest.raises(ValueError, match="found the reference itself or a part of it"):
            m2st.annotate(again, "layer", reference=old)
        assert set(again.obs) == before
    with pytest.raises(ValueError, match="found the reference itself or a part of it"):
        m2st.annotate(renamed, "layer", reference=cortex, sample_key="section")
    # The other section of the same object is not annotated: then it is a new one.
    some = cortex.copy()
    some.obs.loc[some.obs["section"] == "old", "layer"] = None
    m2st.annotate(renamed, "layer", reference=some, sample_key="section")


def test_other_genes_say_the_likely_cause(old: anndata.AnnData, new: anndata.AnnData) -> None:
    new.var["symbol"] = new.var_names
    new.var_names = [f"ENSG{number:011d}" for number in range(60)]
    with pytest.raises(ValueError, match=r"half of the 60 genes .*'symbol' of `adata.var` fits"):
        m2st.annotate(new, "layer", reference=old)
    del new.var["symbol"]
    new.var_names = [f"Gene{number}" for number in range(60)]
    with pytest.raises(ValueError, match="upper and lower case"):
        m2st.annotate(new, "layer", reference=old)
    old.var_names = [*old.var_names[:-1], old.var_names[0]]
    with pytest.raises(ValueError, match="unique `var_names`"):
        m2st.annotate(new, "layer", reference=old)


def test_few_genes_in_common_are_a_warning(old: anndata.AnnData, new: anndata.AnnData) -> None:
    with pytest.warns(UserWarning, match="40 genes in common, of 60 and 40"):
        m2st.annotate(new[:, :40].copy(), "layer", reference=old)


def test_models_and_names_as_reference(old: anndata.AnnData, new: anndata.AnnData) -> None:
    model = m2st.annotate(new.copy(), "layer", reference=old)
    with pytest.raises(ValueError, match="no `label_key` beside a model"):
        m2st.annotate(new, "layer", reference=model)
    with pytest.raises(ValueError, match="\"spatialLIBD\", found 'mouse'"):
        m2st.annotate(new, reference="mouse")
    params = m2st.AutoencoderParams(n_members=1, n_epochs=2)
    unlabelled = m2st.run(old, 3, autoencoder=params, progress=False)
    with pytest.raises(ValueError, match=re.escape("one of domains without labels")):
        m2st.annotate(new, reference=unlabelled)


def test_a_result_goes_through_a_file(
    old: anndata.AnnData, new: anndata.AnnData, tmp_path: object
) -> None:
    m2st.annotate(new, "layer", reference=old)
    new.write_h5ad(f"{tmp_path}/new.h5ad")
    read = anndata.read_h5ad(f"{tmp_path}/new.h5ad")
    assert read.obs["m2st_domain"].equals(new.obs["m2st_domain"])
    assert read.uns["m2st"]["apply"]["model"] == new.uns["m2st"]["apply"]["model"]
