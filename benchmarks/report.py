"""How large the page of a result is, and how long a browser takes to draw it.

``python -m benchmarks.report [observations]`` needs chromium and chromedriver. The time is from the
start of the navigation to the end of the first drawing, read back from the canvas, in a window of
1280 × 900 without a GPU; the least of three.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import m2st

DRAWN = """
const mark = performance.getEntriesByName("drawn")[0];
if (!mark) return null;
const canvas = document.querySelector("canvas.base");
canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return performance.now();
"""


def result(n_obs: int) -> AnnData:
    """Cells in eight bands, as a run would leave them."""
    rng = np.random.default_rng(0)
    places = rng.random((n_obs, 2)) * [12_000, 8_000]
    codes = (places[:, 1] // 1000).astype(int)
    obs = pd.DataFrame(
        {
            "m2st_domain": pd.Categorical.from_codes(codes, [str(k) for k in range(1, 9)]),
            "m2st_confidence": rng.beta(8, 1, n_obs),
        },
        index=[f"AAACCTGAGAAGGACA-{number}" for number in range(n_obs)],
    )
    return AnnData(obs=obs, obsm={"spatial": places})


def seconds_to_draw(page: Path) -> float:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    try:
        driver.get(page.as_uri())
        drawn = WebDriverWait(driver, 120, poll_frequency=0.02).until(
            lambda browser: browser.execute_script(DRAWN)
        )
    finally:
        driver.quit()
    return float(drawn) / 1000


def main() -> None:
    n_obs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    adata = result(n_obs)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        start = time.perf_counter()
        m2st.report(adata, page)
        written = time.perf_counter() - start
        drawn = min(seconds_to_draw(page) for _ in range(3))
        print(
            f"{n_obs:,} observations: {page.stat().st_size / 1e6:.1f} MB, "
            f"written in {written:.1f} s, drawn in {drawn:.2f} s"
        )


if __name__ == "__main__":
    main()
