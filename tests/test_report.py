"""The page of a result, looked at in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from tests.command import call

import m2st
import m2st.bridge

QUICK = m2st.AutoencoderParams(n_members=2, n_epochs=4, hidden_dim=16, scale_dims=(8, 4))
FEW = m2st.ClusteringParams(n_init=2, short_iter=5, max_iter=100)
MOST_BYTES = 20_000_000
OUTPUTS = ["visium", "imaging", "sections", "large"]


# outputs ----------------------------------------------------------------------------------------


def visium() -> AnnData:
    """A Visium section with its image, and the evidence for a number of domains."""
    adata = m2st.datasets.simulate_cortex(n_obs=240, n_genes=80, n_domains=4)
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"]) + 500
    side = np.asarray(adata.obsm["spatial"]).max(axis=0) + 500
    picture = np.full((int(side[1] / 10), int(side[0] / 10), 3), 0.9, dtype=np.float32)
    adata.uns["spatial"] = {
        "slide": {
            "images": {"hires": picture},
            "scalefactors": {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 110.0},
        }
    }
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    m2st.tl.embed(adata, QUICK, progress=False)
    m2st.tl.choose_n_domains(adata, [2, 3, 4], FEW)
    m2st.tl.cluster(adata, 4, FEW)
    return adata


def imaging() -> AnnData:
    """Cells that lie anywhere, two halves with genes of their own; some are missing a domain."""
    rng = np.random.default_rng(0)
    places = rng.random((260, 2)) * [900, 500]
    right = places[:, 0] > 450
    rates = np.where(right[:, None] == (np.arange(30) < 15), 5.0, 1.0)
    adata = AnnData(
        rng.poisson(rates).astype(np.float32),
        obs=pd.DataFrame(index=[f"cell {number}" for number in range(260)]),
        var=pd.DataFrame(index=[f"Gene{number}" for number in range(30)]),
        obsm={"spatial": places},
    )
    finish(adata, np.where(np.arange(260) < 3, -1, right), rng)
    return adata


def sections() -> AnnData:
    """Three sections in one object."""
    adata = m2st.datasets.simulate_cortex(n_obs=270, n_genes=80, n_domains=3, n_samples=3)
    finish(adata, adata.obs["domain"].cat.codes, np.random.default_rng(0))
    adata.uns["m2st"]["graph"] = {"sample_key": "sample", "n_isolated": 0}
    return adata


def large() -> AnnData:
    """A hundred thousand cells, in no order."""
    rng = np.random.default_rng(0)
    places = rng.random((100_000, 2)) * [12_000, 8_000]
    names = pd.Index([f"AAACCTGAGAAGGACA-{number}" for number in range(100_000)])
    adata = AnnData(obs=pd.DataFrame(index=names), obsm={"spatial": places})
    finish(adata, places[:, 1] // 1000, rng)
    return adata


def finish(adata: AnnData, codes: Any, rng: np.random.Generator) -> None:
    """Write domains, confidence and record as a run of two members would."""
    codes = np.asarray(codes, dtype=int)
    names = [str(number) for number in range(1, codes.max() + 2)]
    adata.obs["m2st_domain"] = pd.Categorical.from_codes(codes, names)
    adata.obs["m2st_confidence"] = np.where(codes < 0, np.nan, rng.beta(8, 1, len(codes)))
    adata.uns["m2st"] = {
        "n_members": 2,
        "embed": {
            "loss": np.array([[1.0, 0.8, 0.7], [1.1, 0.9, np.nan]]),
            "stopped": "converged",
            "params": {"scale_dims": np.array([8, 4]), "loss_exponent": 2.0, "n_epochs": 100},
        },
        "cluster": {
            "n_domains": len(names),
            "converged": True,
            "stability": rng.random(len(names)) / 2 + 0.5,
            "agreement": np.array([0.9, 0.95]),
            "scale_weights": np.array([[0.2, 0.3, 0.5], [0.1, 0.3, 0.6]]),
        },
    }


def write(adata: AnnData, path: Path, **settings: Any) -> str:
    m2st.report(adata, path, **settings)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results() -> dict[str, AnnData]:
    return {build.__name__: build() for build in (visium, imaging, sections, large)}


@pytest.fixture(scope="module")
def pages(results: dict[str, AnnData], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    pages = {name: folder / f"{name}.html" for name in results}
    for name, page in pages.items():
        m2st.report(results[name], page, columns=["domain"] if name == "visium" else ())
    return pages


# the browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    program, helper = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or helper is None:
        pytest.skip("no browser: the report is looked at where chromium and chromedriver are")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--window-size=1280,900"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    yield driver
    driver.quit()


@pytest.fixture
def look(browser: webdriver.Chrome) -> Iterator[Callable[[Path], webdriver.Chrome]]:
    """Open a page; what it says to the console or asks of the network fails the test."""

    def open_page(path: Path) -> webdriver.Chrome:
        browser.get_log("performance")
        browser.get(path.as_uri())
        WebDriverWait(browser, 60).until(
            lambda driver: driver.execute_script("return performance.getEntriesByName('drawn')[0]")
        )
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    sent = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert len([url for url in sent if url.startswith("file:")]) == 1
    assert [url for url in sent if not url.startswith(("file:", "data:"))] == []


def text_of(driver: webdriver.Chrome, selector: str) -> str:
    return str(driver.find_element(By.CSS_SELECTOR, selector).get_property("textContent")).strip()


def table_of(driver: webdriver.Chrome, selector: str) -> list[list[str]]:
    rows = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))",
        selector,
    )
    return [[str(cell).strip() for cell in row] for row in rows]


def colors_of(driver: webdriver.Chrome, number: int = 0) -> dict[str, int]:
    """How many points of a map have each colour."""
    found = driver.execute_async_script(
        """
        const done = arguments[1];
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const canvas = document.querySelectorAll("canvas.base")[arguments[0]];
          const copy = new OffscreenCanvas(canvas.width, canvas.height)
            .getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          const counts = {};
          for (let i = 0; i < data.length; i += 4) {
            const key = data[i + 3] < 255 ? "other" : [data[i], data[i + 1], data[i + 2]]
              .map((part) => part.toString(16).padStart(2, "0")).join("");
            counts[key] = (counts[key] || 0) + 1;
          }
          done(counts);
        }));
        """,
        number,
    )
    return {f"#{color}": int(count) for color, count in found.items()}


def press(driver: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(driver).send_keys(key).perform()


# tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTPUTS)
def test_page_is_small_silent_and_says_what_the_file_says(
    name: str,
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    assert pages[name].stat().st_size < MOST_BYTES
    obs = results[name].obs
    driver = look(pages[name])
    assert text_of(driver, "#n-obs") == f"{len(obs):,}"
    assert text_of(driver, "#n-domains") == str(len(obs["m2st_domain"].cat.categories))
    assert text_of(driver, "#median-confidence") == f"{obs['m2st_confidence'].median():.2f}"
    confident = (obs["m2st_confidence"].dropna() >= 0.9).mean()
    assert text_of(driver, "#confident") == f"{100 * confident:.1f} %"
    rows = table_of(driver, "#domain-table")[1:]
    assert [row[0] for row in rows] == obs["m2st_domain"].cat.categories.tolist()
    for domain, n_obs, share, median, lowest, sure, *_ in rows:
        inside = obs.loc[obs["m2st_domain"] == domain, "m2st_confidence"]
        assert n_obs == f"{len(inside):,}"
        assert share == f"{100 * (len(inside) / len(obs)):.1f} %"
        assert median == f"{inside.median():.2f}"
        assert lowest == f"{inside.quantile(0.1):.2f}"
        assert sure == f"{100 * (inside >= 0.9).mean():.1f} %"


@pytest.mark.parametrize("name", OUTPUTS)
def test_map_shows_each_observation(
    name: str,
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    adata = results[name]
    driver = look(pages[name])
    if name != "visium":  # there the spots let the image through
        drawn = colors_of(driver)
        colors = [row.get_attribute("fill") for row in driver.find_elements(
            By.CSS_SELECTOR, ".legend[data-layer='0'] button rect")]  # fmt: skip
        assert len(colors) >= adata.obs["m2st_domain"].nunique()
        assert all(drawn.get(str(color), 0) > 0 for color in colors)
    panel = driver.find_element(By.CSS_SELECTOR, ".panel")
    driver.execute_script("arguments[0].focus()", panel)
    places = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names)
    before = None
    for key in (Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        press(driver, key)
        said = text_of(driver, "#status").split(", ")
        row = adata.obs.loc[said[0]]
        domain = "missing" if pd.isna(row["m2st_domain"]) else row["m2st_domain"]
        confidence = row["m2st_confidence"]
        assert said[1] == f"Domain: {domain}"
        found = said[2].removeprefix("Confidence: ")
        assert found == "missing" if np.isnan(confidence) else abs(float(found) - confidence) < 6e-4
        now = places.loc[said[0]]
        if before is not None:
            axis, sign = {
                Keys.ARROW_RIGHT: (0, 1), Keys.ARROW_LEFT: (0, -1),
                Keys.ARROW_DOWN: (1, 1), Keys.ARROW_UP: (1, -1),
            }[key]  # fmt: skip
            assert sign * (now.iloc[axis] - before.iloc[axis]) > 0
        before = now


def test_pointer_reads_the_observation_below_it(
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    places = np.asarray(results["large"].obsm["spatial"])
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    nearest = np.argsort(np.linalg.norm(places - middle, axis=1))[:8]
    driver = look(pages["large"])
    panel = driver.find_element(By.CSS_SELECTOR, ".panel")
    # The page hides the tip when it scrolls, and hears of that with the next frame only.
    driver.execute_async_script(
        "arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' });"
        "requestAnimationFrame(() => arguments[1]())",
        panel,
    )
    ActionChains(driver).move_to_element(panel).perform()
    tip = driver.find_element(By.ID, "tip")
    assert tip.is_displayed()
    # A point of the screen is 12 µm wide here: several cells are as near.
    assert tip.text.split("\n")[0] in results["large"].obs_names[nearest]
    assert "Domain: " in tip.text


def test_two_solutions_are_drawn_beside_each_other(
    results: dict[str, AnnData], look: Callable[[Path], webdriver.Chrome], tmp_path: Path
) -> None:
    adata = results["sections"].copy()
    domains = adata.obs["m2st_domain"].cat
    other = np.where(domains.codes == 0, 1, domains.codes)
    names = [*domains.categories, "new"]
    adata.obs["m2st_second_domain"] = pd.Categorical.from_codes(other, names)
    adata.uns["m2st"]["cluster"]["solutions"] = {"camps": np.array([1, 1, 1, 2, 2]), "between": 0.5}
    m2st.report(adata, tmp_path / "two.html", columns=["m2st_second_domain"])
    driver = look(tmp_path / "two.html")
    assert "Two solutions, 60 : 40." in driver.find_element(By.ID, "notes").text
    drawn = """return [...document.querySelectorAll("#solutions figure")]
      .filter((figure) => !figure.hidden)
      .map((figure) => [figure.innerText.trim(), figure.querySelector("canvas").toDataURL()])"""
    n_sections = adata.obs["sample"].nunique()
    before = driver.execute_script(drawn)
    assert len(before) == 2 * n_sections
    assert "First solution 3 of 5 members" in " ".join(before[0][0].split())
    assert "Second solution 2 of 5 members" in " ".join(before[1][0].split())
    seen = {pixels for _, pixels in before}
    assert len(seen) == len(before)
    # The layers of the map are its own; domains that are chosen are highlighted in both.
    confidence = driver.find_element(By.CSS_SELECTOR, "input[name=layer][value='1']")
    driver.execute_script("arguments[0].click()", confidence)
    assert driver.execute_script(drawn) == before
    domain = driver.find_element(By.CSS_SELECTOR, "#domain-table button")
    driver.execute_script("arguments[0].click()", domain)
    WebDriverWait(driver, 10).until(
        lambda driver: all(
            now[1] != then[1]
            for now, then in zip(driver.execute_script(drawn), before, strict=True)
        )
    )
    Select(driver.find_element(By.ID, "section")).select_by_index(1)
    assert len(driver.execute_script(drawn)) == 2


def test_sections_have_panels_and_a_table(
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    obs = results["sections"].obs
    driver = look(pages["sections"])
    expected = pd.crosstab(obs["sample"], obs["m2st_domain"])
    rows = table_of(driver, "#section-table")
    assert rows[0] == ["Section", *expected.columns]
    assert {row[0]: [int(n) for n in row[1:]] for row in rows[1:]} == {
        name: counts.tolist() for name, counts in expected.iterrows()
    }
    shares = table_of(driver, "#share-table")
    assert shares[0] == ["Section", *expected.columns, "Worth"]
    table = m2st.tl.composition(results["sections"], "sample").set_index("sample")
    for name, *cells, worth in shares[1:]:
        rows = table.loc[name]
        assert cells == [
            f"{100 * row.share:.1f} % ({100 * row.low:.0f}–{100 * row.high:.0f})"
            for row in rows.itertuples()
        ]
        assert worth == f"{rows['n_effective'].iloc[0]:,.0f}"
    figures = driver.find_elements(By.CSS_SELECTOR, ".panels figure")
    assert len(figures) == obs["sample"].nunique()
    assert all("#0072b2" in colors_of(driver, number) for number in range(3))
    Select(driver.find_element(By.ID, "section")).select_by_index(2)
    assert [figure.is_displayed() for figure in figures] == [False, True, False]


def test_layers_and_highlights_change_the_map(
    pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    driver = look(pages["imaging"])
    domains = colors_of(driver)
    first = driver.find_element(By.CSS_SELECTOR, ".legend button")
    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    chosen = colors_of(driver)
    assert chosen["#0072b2"] == pytest.approx(domains["#0072b2"], rel=0.05)
    assert chosen.get("#e69f00", 0) == 0
    confidence = driver.find_element(By.CSS_SELECTOR, "input[name=layer][value='1']")
    driver.execute_script("arguments[0].click()", confidence)
    confidence = colors_of(driver)
    assert confidence.get("#0072b2", 0) == 0
    assert not first.is_displayed()
    assert driver.find_element(By.CSS_SELECTOR, ".legend .scale").is_displayed()
    driver.find_element(By.ID, "zoom-in").click()
    assert colors_of(driver) != confidence


def test_tissue_image_lies_below_the_spots(
    pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    driver = look(pages["visium"])
    assert colors_of(driver).get("#e6e6e6", 0) > 10_000
    driver.find_element(By.ID, "image").click()
    without = colors_of(driver)
    assert "#e6e6e6" not in without
    assert without["#0072b2"] > 100
    assert [label.text for label in driver.find_elements(By.CSS_SELECTOR, ".choice label")] == [
        "Domain", "Confidence", "domain",
    ]  # fmt: skip


def test_evidence_training_and_record_are_those_of_the_file(
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    record = results["visium"].uns["m2st"]
    driver = look(pages["visium"])
    entry = record["n_domains"]
    assert table_of(driver, "#choice-table")[1:] == [
        [str(k), f"{stability:.3f}", f"{gain:.3f}", f"{score:.3f}"]
        for k, stability, gain, score in zip(
            entry["candidates"], entry["stability"], entry["gain"], entry["score"], strict=True
        )
    ]
    members = table_of(driver, "#member-table")
    assert members[0][4:] == ["scale 1 (8)", "scale 2 (4)", "averages", "common"]
    assert members[1:] == [
        [
            str(member + 1), "4", f"{record['embed']['loss'][member, -1]:.4f}",
            f"{record['cluster']['agreement'][member]:.2f}",
            *(f"{weight:.2f}" for weight in record["cluster"]["scale_weights"][member]),
        ]
        for member in range(2)
    ]  # fmt: skip
    written = dict(row for row in table_of(driver, "#record") if len(row) == 2)
    assert written["params.hidden_dim"] == "16"
    assert written["versions.m2st"] == m2st.__version__
    assert written["reason"] == record["graph"]["reason"]
    assert f"torch {record['embed']['versions']['torch']}" in text_of(driver, "#run")


def test_markers_are_those_planted_and_carry_the_caveat(
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    adata = results["imaging"]
    driver = look(pages["imaging"])
    right = adata.obs["m2st_domain"][np.asarray(adata.obsm["spatial"])[:, 0] > 600].mode()[0]
    tables = driver.find_elements(By.CSS_SELECTOR, "#marker-tables table")
    for table in tables:
        name = str(table.find_element(By.TAG_NAME, "caption").text)
        genes = [int(row.text.removeprefix("Gene")) for row in
                 table.find_elements(By.CSS_SELECTOR, "tbody th")]  # fmt: skip
        assert len(genes) == 5
        assert all((gene < 15) == (name == f"Domain {right}") for gene in genes)
    inside = adata[adata.obs["m2st_domain"] == "1"]
    gene, _, detected, _ = (
        tables[0].find_element(By.CSS_SELECTOR, "tbody tr").text.split(maxsplit=3)[:4]
    )
    share = 100 * float((inside[:, gene].X > 0).mean())
    assert detected == f"{share:.1f}"
    said = text_of(driver, "#markers")
    assert "double dipping" in said
    assert "No p-values are shown" in said


def test_a_gene_is_seen_on_the_tissue(
    results: dict[str, AnnData],
    pages: dict[str, Path],
    look: Callable[[Path], webdriver.Chrome],
) -> None:
    adata = results["imaging"]
    driver = look(pages["imaging"])
    button = driver.find_element(By.CSS_SELECTOR, "#marker-tables .gene button")
    gene = button.text
    driver.execute_script("arguments[0].click()", button)
    legend = driver.find_element(By.CSS_SELECTOR, ".legend:not([hidden])")
    assert text_of(driver, ".legend:not([hidden]) h3") == gene
    assert Select(driver.find_element(By.ID, "gene")).first_selected_option.text == gene
    # What the page says of a cell is its log-normalised expression, and so are the means.
    counts = np.asarray(adata.X)
    scale = np.median(counts[3:].sum(axis=1)) / counts.sum(axis=1)  # three have no domain
    values = np.log1p(counts[:, adata.var_names.get_loc(gene)] * scale)
    top = float(np.quantile(values[3:], 0.99))
    panel = driver.find_element(By.CSS_SELECTOR, ".panel")
    driver.execute_script("arguments[0].focus()", panel)
    seen = 0
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_DOWN) * 2:
        press(driver, key)
        name, *lines = text_of(driver, "#status").split(", ")
        said = lines[-1].removeprefix(f"{gene}: ").removeprefix("≥ ")
        if said == "missing":
            continue
        value = values[adata.obs_names.get_loc(name)]
        assert abs(float(said) - min(value, top)) < top / 126 + 0.011
        seen += 1
    assert seen > 2
    means = [float(mean.text) for mean in legend.find_elements(By.CSS_SELECTOR, "[data-mean]")]
    domains = adata.obs["m2st_domain"]
    expected = [values[domains == name].mean() for name in domains.cat.categories]
    np.testing.assert_allclose(means, expected, atol=0.006)
    # A domain can be highlighted with the gene, from any table.
    whole = colors_of(driver)
    chooser = driver.find_element(By.CSS_SELECTOR, "#domain-table button[data-code='1']")
    driver.execute_script("arguments[0].click()", chooser)
    assert chooser.get_attribute("aria-pressed") == "true"
    assert (
        legend.find_element(By.CSS_SELECTOR, "[data-code='1']").get_attribute("aria-pressed")
        == "true"
    )
    assert text_of(driver, ".legend:not([hidden]) h3") == gene
    assert colors_of(driver) != whole
    radio = driver.find_element(By.CSS_SELECTOR, "input[name=layer][value='0']")
    driver.execute_script("arguments[0].click()", radio)
    assert text_of(driver, ".legend:not([hidden]) h3") == "Domain"


def test_genes_on_the_map_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2st._report._markers._VALUES", 3 * 260)
    page = write(imaging(), tmp_path / "page.html")
    genes = payload_of(page)["genes"]
    assert len(genes) == 3
    assert {max(gene["means"], key=gene["means"].get) for gene in genes} == {"1", "2"}
    codes = np.frombuffer(base64.b64decode(genes[0]["codes"]), dtype="u1")
    assert len(codes) == 260
    assert (codes == 64).sum() == 3  # those without a domain
    assert codes[codes < 64].max() == 63
    assert page.count('data-gene="') == 3
    assert write(imaging(), tmp_path / "none.html", n_markers=0).count('id="gene"') == 0


def test_page_can_be_used_by_keyboard_alone(
    pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    driver = look(pages["sections"])
    driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(100):
        press(driver, Keys.TAB)
        active = driver.switch_to.active_element
        reached.append(active)
        if active.tag_name == "button" and active.get_attribute("data-code") == "1":
            before = active.get_attribute("aria-pressed")
            press(driver, Keys.SPACE)
            assert {before, active.get_attribute("aria-pressed")} == {"false", "true"}
        if active.get_attribute("name") == "layer":
            press(driver, Keys.ARROW_RIGHT)
            assert text_of(driver, ".legend:not([hidden]) h3") == "Confidence"
            press(driver, Keys.ARROW_LEFT)
    every = driver.find_elements(
        By.CSS_SELECTOR,
        "a, select, button, summary, .panel, .scroll, input:checked",
    )
    hidden = [element for element in every if element.get_attribute("class") != "skip"
              and not element.is_displayed()]  # fmt: skip
    assert [e.id for e in every if e not in reached and e not in hidden] == []


def test_page_is_fit_for_a_screen_reader(
    pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    driver = look(pages["visium"])
    without_words = driver.execute_script(
        """
        const named = (element) => element.closest("[aria-hidden]") || element.ariaLabel
          || element.labels?.length || element.textContent.trim();
        return [...document.querySelectorAll(
          "canvas, svg, a, button, input, select, .panel, [role=region], [role=group]"
        )].filter((element) => !named(element)).map((element) => element.outerHTML);
        """
    )
    assert without_words == []
    assert driver.execute_script("return document.documentElement.lang") == "en"
    levels = driver.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map((title) => +title.tagName[1])"
    )
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1
    assert driver.execute_script("return document.querySelectorAll('th:not([scope])').length") == 0
    assert driver.execute_script("return document.querySelectorAll('main').length") == 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_page_fits_a_phone(
    name: str, pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    driver = look(pages[name])
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        WebDriverWait(driver, 20).until(
            lambda d: d.execute_script("return document.querySelector('canvas.base').width") <= 720
        )
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_prints_whole(
    pages: dict[str, Path], look: Callable[[Path], webdriver.Chrome]
) -> None:
    driver = look(pages["sections"])
    assert driver.execute_script("return document.querySelectorAll('details[open]').length") == 0
    printed = base64.b64decode(driver.print_page())
    assert printed.startswith(b"%PDF")
    assert (
        driver.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    )


NASTY = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\" onmouseover=\"window.hacked = 1",
    "{{ 7 * 7 }}",
    "<!-- <script>",
    "javascript:window.hacked=1 & \u2028 '",
]  # fmt: skip


def test_names_from_the_data_stay_text(
    tmp_path: Path, look: Callable[[Path], webdriver.Chrome]
) -> None:
    adata = AnnData(
        np.tile(np.repeat(np.eye(6, dtype=np.float32) * 5, 3, axis=0), (4, 1)),
        obs=pd.DataFrame(
            {
                "m2st_domain": pd.Categorical(NASTY * 12),
                NASTY[0]: pd.Categorical(NASTY * 12),
                NASTY[1]: pd.Categorical(np.repeat(NASTY[:2], 36)),
            },
            index=[f"{NASTY[number % 6]}{number}" for number in range(72)],
        ),
        var=pd.DataFrame(index=NASTY),
        obsm={"spatial": np.random.default_rng(0).random((72, 2))},
        uns={
            "m2st": {
                NASTY[1]: {NASTY[2]: NASTY[0]},
                "graph": {"reason": NASTY[1], "n_isolated": 0},
                "embed": {"versions": {NASTY[0]: NASTY[1]}, "stopped": NASTY[0],
                          "loss": [[2.0, 1.0]]},
            }
        },
    )  # fmt: skip
    page = tmp_path / "nasty.html"
    m2st.report(adata, page, columns=[NASTY[0]], sample_key=NASTY[1], title=NASTY[0])
    driver = look(page)
    for element in driver.find_elements(By.CSS_SELECTOR, ".panel, .legend:not([hidden]) button"):
        ActionChains(driver).move_to_element(element).click().perform()
    driver.execute_script("arguments[0].focus()", driver.find_element(By.CSS_SELECTOR, ".panel"))
    press(driver, Keys.ARROW_RIGHT)
    assert NASTY[0] in text_of(driver, "#status")
    assert driver.execute_script("return window.hacked") is None
    assert driver.execute_script("return document.images.length + document.scripts.length") == 2
    assert text_of(driver, "h1") == NASTY[0]
    domains = [row[0] for row in table_of(driver, "#domain-table")[1:]]
    assert domains == [name.strip() for name in sorted(NASTY)]
    assert text_of(driver, "select option:nth-child(2)") == NASTY[0]
    assert [NASTY[2], NASTY[0]] in table_of(driver, "#record")


def test_script_that_is_not_the_pages_own_does_not_run(
    pages: dict[str, Path], tmp_path: Path, browser: webdriver.Chrome
) -> None:
    page = tmp_path / "changed.html"
    text = pages["imaging"].read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", "<main><script>window.hacked = 1</script>"))
    browser.get(page.as_uri())
    assert browser.execute_script("return window.hacked") is None
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_nothing_of_the_data_is_changed_and_bytes_repeat(
    results: dict[str, AnnData], tmp_path: Path
) -> None:
    for adata in results.values():
        before = joblib.hash([adata.X, adata.obs, adata.var, adata.uns, dict(adata.obsm)])
        first = write(adata, tmp_path / "page.html", overwrite=True)
        assert write(adata, tmp_path / "page.html", overwrite=True) == first
        assert joblib.hash([adata.X, adata.obs, adata.var, adata.uns, dict(adata.obsm)]) == before


# what is said in words --------------------------------------------------------------------------


class Notes(HTMLParser):
    """Text of the section of warnings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside, self.text = False, ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.inside = dict(attrs).get("id") == "notes"

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def plain(n_obs: int = 40, **record: Any) -> AnnData:
    """A small result about which nothing is to be said, but what is passed."""
    obs = pd.DataFrame(
        {
            "m2st_domain": pd.Categorical(["1", "2"] * (n_obs // 2)),
            "m2st_confidence": 0.95,
            "slide": np.repeat(["a", "b"], n_obs // 2),
        },
        index=[str(number) for number in range(n_obs)],
    )
    entries: dict[str, Any] = {
        "n_members": 2,
        "graph": {"n_isolated": 0, "sample_key": "slide"},
        "embed": {"stopped": "converged"},
        "cluster": {"n_domains": 2, "converged": True, "stability": np.array([0.9, 0.8])},
    }
    return AnnData(
        obs=obs,
        obsm={"spatial": np.random.default_rng(0).random((n_obs, 2))},
        uns={"m2st": {key: {**entries.get(key, {}), **value} if isinstance(value, dict) else value
                      for key, value in {**entries, **record}.items()}},
    )  # fmt: skip


def test_weights_of_the_scales_are_drawn_only_if_they_differ(tmp_path: Path) -> None:
    """By default what all scales share has all the weight: a sentence tells more than a chart."""
    for weights, is_drawn in (([0.0, 0.001, 0.999], False), ([0.1, 0.2, 0.7], True)):
        kept = {"scale_weights": np.array([weights, weights]), "agreement": np.full(2, 0.5)}
        found = plain(cluster=kept)
        page = write(found, tmp_path / "page.html", overwrite=True)
        assert ('aria-label="Weight of each scale' in page) == is_drawn
        assert ("so it has no weight" in page) != is_drawn
        assert page.count(f"<td>{weights[-1]:.2f}</td>") == 2


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "Nothing in the record of this run is out of the ordinary"),
        ({"graph": {"n_isolated": 1}}, "1 observation has no neighbour"),
        ({"graph": {"n_isolated": 3}}, "3 observations have no neighbour"),
        ({"embed": {"stopped": "interrupted"}}, "The training was interrupted"),
        ({"cluster": {"converged": np.False_}}, "had not converged"),
        ({"n_members": 1}, "single model and no consensus"),
        ({"cluster": {"stability": np.array([0.9, 0.4])}}, "Domain 2 is not found alike"),
        (
            {"n_domains": {"candidates": [2, 3], "stability": [1, 1], "gain": [1, 1],
                           "score": [0, 1], "p_value": 0.005, "chosen": 3}},
            "The evidence speaks for 3 domains; 2 were asked for",
        ),
        (
            {"n_domains": {"candidates": [2, 3], "stability": [1, 1], "gain": [1, 1],
                           "score": [0, 1], "p_value": 0.4, "chosen": 1}},
            "no structure in space",
        ),
    ],
)  # fmt: skip
def test_what_went_wrong_is_said_in_words(
    record: dict[str, Any], said: str, tmp_path: Path
) -> None:
    text = " ".join(Notes(write(plain(**record), tmp_path / "page.html")).text.split())
    assert said in text
    assert ("out of the ordinary" in text) == (record == {})


@pytest.mark.parametrize("n_few", [9, 10])
def test_tiny_domains_are_said_in_words(n_few: int, tmp_path: Path) -> None:
    adata = plain(400)
    adata.obs["m2st_domain"] = pd.Categorical(np.where(np.arange(400) < n_few, "2", "1"))
    text = Notes(write(adata, tmp_path / "page.html")).text
    assert ("Domain 2 has less than a twentieth of an equal share" in text) == (n_few < 10)


def test_a_labelled_section_is_no_run(tmp_path: Path) -> None:
    adata = plain()
    adata.obs["m2st_domain"] = pd.Categorical(["L1", "L2"] * 20)
    adata.obs.iloc[:3, adata.obs.columns.get_loc("m2st_domain")] = None
    adata.obs["m2st_confidence"] = 0.5
    adata.uns["m2st"] = {"apply": {"n_unassigned": 2, "n_domains": 2}}
    text = Notes(write(adata, tmp_path / "page.html")).text
    assert "2 observations of 40 have no label: unlike all that is labelled" in text
    assert "1 observation of 40 has no domain: without counts" in text
    assert "An annotator may well give another label." in text
    assert "no record of a clustering" not in text
    page = (tmp_path / "page.html").read_text()
    assert "that an annotator would give it this label" in page
    assert "are those of the labels" in page
    for untrue in ("another seed", "were asked for", "members of the ensemble see"):
        assert untrue not in page


def test_odd_domains_are_said_in_words(tmp_path: Path) -> None:
    adata = plain()
    adata.obs["m2st_domain"] = pd.Categorical(
        np.where(adata.obs["slide"] == "a", "1", "2"), categories=["1", "2", "3"]
    )
    adata.obs.iloc[:2, 0] = None
    adata.obs["m2st_confidence"] = np.where(adata.obs["slide"] == "a", 0.6, 1.0)
    adata.obsm["spatial"][0] = np.nan
    del adata.uns["m2st"]["cluster"]
    text = Notes(write(adata, tmp_path / "page.html")).text
    assert "2 observations of 40 have no domain" in text
    assert "1 observation has no coordinates and is not drawn" in text
    assert "There is no record of a clustering" in text
    assert "Domain 3 has no observation" in text
    assert "equal share" not in text
    assert "in domain 1 half of the observations are below 0.8" in text
    assert "Domains 1 and 2 lie in one section (almost) alone" in text


def test_result_with_domains_alone_is_enough(tmp_path: Path) -> None:
    adata = plain()
    del adata.uns["m2st"], adata.obs["m2st_confidence"]
    page = write(adata, tmp_path / "page.html")
    for words in ("There is no confidence", "no record of a training", "no record in this object",
                  "The data hold no expression"):  # fmt: skip
        assert words in page
    payload = json.loads(
        re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)[0]
    )
    assert [layer["label"] for layer in payload["layers"]] == ["Domain"]
    assert 'id="n-members"' not in page


def test_record_that_r_kept_is_read(tmp_path: Path) -> None:
    # reticulate turns a column of numbers into a row: two members of one epoch
    record = {"loss": [0.5, 0.25], "stopped": "finished", "params": {"scale_dims": [8, 4]}}
    page = write(plain(embed=record), tmp_path / "page.html")
    assert 'id="n-members">2<' in page
    assert [page.count(f"<td>{loss}</td>") for loss in ("0.5000", "0.2500")] == [1, 1]


def test_members_that_end_at_different_epochs_are_said(tmp_path: Path) -> None:
    adata = plain()
    finish(adata, np.arange(40) % 2, np.random.default_rng(0))
    page = write(adata, tmp_path / "page.html")
    assert "converged after 2 to 3 of at most 100 epochs" in page
    adata.uns["m2st"]["embed"]["loss"] = np.ones((2, 3))
    page = write(adata, tmp_path / "page.html", overwrite=True)
    assert "converged after 3 of at most 100 epochs" in page


def test_bridge_writes_the_same_page(tmp_path: Path) -> None:
    adata = plain()
    adata.uns["m2st"]["cluster"]["stability"] = [0.9, 0.8]
    adata.obs["zone"] = pd.Categorical(["x", "y", None, "y"] * 10)
    picture = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    adata.uns["spatial"] = {
        "a": {"images": {"lowres": picture}, "scalefactors": {"tissue_lowres_scalef": 5.0}}
    }
    expression = np.random.default_rng(0).poisson(2.0, (40, 5)).astype(np.float32)
    genes = [f"gene{number}" for number in range(5)]
    full = AnnData(
        expression, obs=adata.obs, var=pd.DataFrame(index=genes), obsm=adata.obsm, uns=adata.uns
    )
    direct = write(full, tmp_path / "direct.html", columns=["zone"], title="Mine")
    columns = [
        {
            "name": key,
            "codes": bytearray(full.obs[key].cat.codes.to_numpy(np.int32).tobytes()),
            "levels": full.obs[key].cat.categories.tolist(),
        }
        for key in ("m2st_domain", "zone")
    ]
    request = {
        "path": str(tmp_path / "bridge.html"),
        "title": "Mine",
        "n_markers": 5,
        "names": full.obs_names.tolist(),
        "columns": columns,
        "confidence": bytearray(full.obs["m2st_confidence"].to_numpy().tobytes()),
        "coordinates": bytearray(np.asarray(full.obsm["spatial"]).tobytes(order="F")),
        "n_axes": 2,
        "sample": bytearray(np.repeat([0, 1], 20).astype(np.int32).tobytes()),
        "sample_names": ["a", "b"],
        "record": adata.uns["m2st"],
        "images": {
            "a": {
                "pixels": bytearray(picture.tobytes(order="F")), "shape": [8, 6, 3], "scale": 5.0
            }
        },
        "expression": {
            "shape": [40, 5], "dense": bytearray(expression.tobytes()), "genes": "\n".join(genes)
        },
    }  # fmt: skip
    assert m2st.bridge.report(request) == {"warnings": []}
    assert (tmp_path / "bridge.html").read_text(encoding="utf-8") == direct
    answer = m2st.bridge.report({**request, "path": str(tmp_path / "bridge.pdf")})
    assert "ends in `.html`" in answer["error"]


def test_kept_colours_are_used(tmp_path: Path) -> None:
    adata = plain()
    adata.uns["m2st_domain_colors"] = ["#123456", "tomato"]
    page = write(adata, tmp_path / "page.html")
    payload = json.loads(
        re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)[0]
    )
    assert payload["layers"][0]["colors"] == ["#123456", "#ff6347", "#dcdcdc"]


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (-np.ones((40, 3), dtype=np.float32), "missing or negative values"),
        (np.full((40, 3), np.nan, dtype=np.float32), "missing or negative values"),
    ],
)
def test_expression_that_is_unfit_gives_no_markers(
    matrix: np.ndarray[Any, Any], said: str, tmp_path: Path
) -> None:
    without = plain()
    adata = AnnData(matrix, obs=without.obs, obsm=without.obsm, uns=without.uns)
    assert said in write(adata, tmp_path / "page.html")
    assert "They were left out" in write(adata, tmp_path / "page.html", n_markers=0, overwrite=True)


def test_mistakes_are_named_and_leave_no_file(tmp_path: Path) -> None:
    adata, page = plain(), tmp_path / "page.html"
    with pytest.raises(ValueError, match=r"ends in `\.html`, found"):
        m2st.report(adata, tmp_path / "page.pdf")
    with pytest.raises(FileNotFoundError, match="Expected the folder"):
        m2st.report(adata, tmp_path / "none" / "page.html")
    with pytest.raises(KeyError, match=r"Expected 'layer' in `adata\.obs`"):
        m2st.report(adata, page, columns=["layer"])
    with pytest.raises(KeyError, match=r"Expected 'centre' in `adata\.obsm`"):
        m2st.report(adata, page, spatial_key="centre")
    with pytest.raises(KeyError, match=r"Run `m2st.tl.cluster"):
        m2st.report(AnnData(obsm={"spatial": np.ones((3, 2))}), page)
    with pytest.raises(ValueError, match="`n_markers` to be at least 0"):
        m2st.report(adata, page, n_markers=-1)
    nowhere = plain()
    nowhere.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="an observation with coordinates"):
        m2st.report(nowhere, page)
    assert not page.exists()
    m2st.report(adata, page)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        m2st.report(adata, page)


def test_command_writes_the_page(results: dict[str, AnnData], tmp_path: Path) -> None:
    source, page = tmp_path / "my result.h5ad", tmp_path / "page.html"
    m2st.io.write(results["sections"].copy(), source)
    before = source.read_bytes()
    command = ["report", source, "-o", page]
    found = call(*command, "--column", "domain", "--markers", "2")
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"Saved {page}: {page.stat().st_size / 1e6:.1f} MB\n"
    direct = write(
        m2st.io.read(source), tmp_path / "direct.html",
        columns=["domain"], n_markers=2, title="my result",
    )  # fmt: skip
    assert page.read_text(encoding="utf-8") == direct
    assert source.read_bytes() == before
    again = call(*command)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr


# what others keep under the same names ----------------------------------------------------------


def notes_of(page: str) -> str:
    return page.split('id="notes"')[1].split("</section>")[0]


def payload_of(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.search(r'id="payload"[^>]*>(.*?)</script>', page)[1])
    return found


def with_image(picture: object, scale: object = 0.5) -> AnnData:
    adata = imaging()
    factors = {"tissue_hires_scalef": scale}
    adata.uns["spatial"] = {"A": {"images": {"hires": picture}, "scalefactors": factors}}
    return adata


@pytest.mark.parametrize(
    "library", [{"is_single": np.True_}, np.zeros((260, 2)), None, "A", {"A": None}, {"A": [1]}]
)
def test_what_is_no_library_is_no_image(library: object, tmp_path: Path) -> None:
    adata = imaging()
    adata.uns["spatial"] = library
    page = write(adata, tmp_path / "report.html")
    assert "image" not in payload_of(page)["sections"][0]


def test_images_of_other_kinds_are_shown(tmp_path: Path) -> None:
    picture = np.full((5, 260, 460), 2000, dtype=np.uint16)
    (section,) = payload_of(write(with_image(picture), tmp_path / "report.html"))["sections"]
    jpeg = base64.b64decode(section["image"].split(",")[1])
    pixels = np.asarray(Image.open(BytesIO(jpeg)))
    assert np.abs(pixels.astype(int) - round(255 * 2000 / 2047 / 2)).max() <= 2
    assert section["image_at"][2] > 0.9


def test_a_huge_image_is_shown_small(tmp_path: Path) -> None:
    picture = np.broadcast_to(np.uint16(900), (26_000, 46_000, 3))
    (section,) = payload_of(write(with_image(picture, 50.0), tmp_path / "r.html"))["sections"]
    jpeg = base64.b64decode(section["image"].split(",")[1])
    assert np.prod(Image.open(BytesIO(jpeg)).size) <= 2000 * 2000


@pytest.mark.parametrize(
    ("picture", "scale", "said"),
    [
        (np.zeros((260, 460, 3)), None, "number above 0 as `tissue_hires_scalef`, found none"),
        (np.zeros((260, 460, 3)), "half", "number above 0 as `tissue_hires_scalef`, found none"),
        (np.zeros((2, 3, 260, 460)), 0.5, "found float64 of shape (2, 3, 260, 460)"),
        ("picture.png", 0.5, "Expected a picture as numbers by height, width and channel"),
    ],
)
def test_an_image_that_cannot_be_shown_is_named(
    picture: object, scale: object, said: str, tmp_path: Path
) -> None:
    page = write(with_image(picture, scale), tmp_path / "report.html")
    assert "image" not in payload_of(page)["sections"][0]
    assert "The tissue image is not shown. Expected" in notes_of(page)
    assert said in notes_of(page)


def test_an_image_of_another_place_is_named(tmp_path: Path) -> None:
    adata = with_image(np.zeros((260, 460, 3)))
    adata.obsm["spatial"] += 10_000
    assert "No observation lies on it" in notes_of(write(adata, tmp_path / "report.html"))


def test_images_of_no_section_are_named(tmp_path: Path) -> None:
    adata = with_image(np.zeros((260, 460, 3)))
    adata.uns["spatial"]["B"] = adata.uns["spatial"]["A"]
    assert "tissue images of A, B, and none of a section" in notes_of(
        write(adata, tmp_path / "r.html")
    )


def test_more_domains_than_a_byte_counts(tmp_path: Path) -> None:
    adata = imaging()
    adata.obs["m2st_domain"] = pd.Categorical(np.arange(260).astype(str))
    layer = payload_of(write(adata, tmp_path / "report.html"))["layers"][0]
    codes = np.frombuffer(base64.b64decode(layer["codes"]), dtype="<u2")
    names = np.array(layer["names"])[codes]
    assert sorted(names) == sorted(adata.obs["m2st_domain"].astype(str))
    assert len(set(layer["colors"])) == 261


RECORDS: dict[str, tuple[object, str]] = {
    "nothing": (None, ""),
    "text": ("m2ST", "all of it"),
    "steps that are none": ({"embed": "a", "cluster": 3, "graph": None}, "graph, embed, cluster"),
    "no numbers": (
        {"embed": {"loss": "a"}, "cluster": {"agreement": ["a"]}},
        "embed.loss, cluster.a",
    ),
    "other members": ({"n_members": 7, "embed": {"loss": np.ones((2, 3))}}, "embed.loss"),
    "half a choice": ({"n_domains": {"candidates": [2, 3], "chosen": 2}}, "n_domains"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_does_not_fit_is_left_out(name: str, tmp_path: Path) -> None:
    adata = imaging()
    adata.uns["m2st"], left_out = RECORDS[name]
    page = notes_of(write(adata, tmp_path / "report.html"))
    assert ("is not as m2ST writes it" in page) == bool(left_out)
    assert left_out in page


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"m2st_confidence": 7.0}, ValueError, r"'m2st_confidence'\]` in \[0, 1\], found 7"),
        ({"m2st_confidence": "high"}, TypeError, r"Expected numbers in .*'m2st_confidence'"),
        ({"m2st_domain": [[1]] * 260}, TypeError, r"Expected labels in .*'m2st_domain'"),
    ],
)
def test_columns_of_another_kind_are_refused(
    change: dict[str, object], error: type[Exception], match: str, tmp_path: Path
) -> None:
    adata = imaging()
    adata.obs = adata.obs.assign(**change)
    with pytest.raises(error, match=match):
        m2st.report(adata, tmp_path / "report.html")


def test_coordinates_of_another_kind_are_refused(tmp_path: Path) -> None:
    adata = imaging()
    adata.obsm["text"] = np.full((260, 2), "a")
    with pytest.raises(TypeError, match=r"Expected numbers in `adata\.obsm\['text'\]`, found text"):
        m2st.report(adata, tmp_path / "report.html", spatial_key="text")
    adata.obsm["line"] = np.zeros((260, 1))
    with pytest.raises(ValueError, match=r"`adata\.obsm\['line'\]` of shape \(n_obs, 2\) or"):
        m2st.report(adata, tmp_path / "report.html", spatial_key="line")


@pytest.mark.parametrize("n_obs", [0, 1, 2, 260])
def test_few_observations_and_missing_domains_are_drawn(n_obs: int, tmp_path: Path) -> None:
    adata = imaging()[: max(n_obs, 1)].copy()
    if n_obs in (0, 260):
        adata.obs["m2st_domain"] = pd.Categorical([None] * adata.n_obs)
    assert "In space" in write(adata, tmp_path / "report.html")


def test_repeated_names_and_text_as_expression_are_no_obstacle(tmp_path: Path) -> None:
    adata = imaging()
    adata.var_names = ["gene"] * adata.n_vars
    with pytest.warns(UserWarning, match="not unique"):  # anndata's, where they are given
        adata = adata.copy()
    write(adata, tmp_path / "report.html")
    adata = imaging()
    adata.X = np.full(adata.shape, "a", dtype=object)
    assert "The expression is not made of numbers" in write(adata, tmp_path / "text.html")
