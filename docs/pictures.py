"""Draws the pictures of the README into docs/_static: ``python docs/pictures.py``.

The report is looked at with Chromium.
"""

from __future__ import annotations

from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

import m2st

FOLDER = Path(__file__).parent / "_static"
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
WIDTH, HEIGHT = 1200, 1000


def photograph(page: Path, picture: Path) -> None:
    """Take a picture of the top of a page."""
    options = ChromeOptions()
    for option in (*OPTIONS, f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(option)
    with Chrome(options, ChromeService(which("chromedriver"))) as browser:
        browser.get(page.as_uri())
        browser.save_screenshot(str(picture))


def beside(left: Path, right: Path, picture: Path) -> None:
    """Put two pictures side by side, on white."""
    with Image.open(left) as one, Image.open(right) as other:
        page = Image.new("RGB", (one.width + other.width, max(one.height, other.height)), "white")
        page.paste(one, (0, 0))
        page.paste(other, (one.width, 0))
        page.save(picture, optimize=True)


if __name__ == "__main__":
    adata = m2st.datasets.simulate_cortex(n_obs=3600)
    m2st.run(adata, 7, progress=False)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        m2st.pl.domains(adata, truth="domain").savefig(place / "domains.png", dpi=110)
        m2st.pl.confidence(adata).savefig(place / "confidence.png", dpi=110)
        beside(place / "domains.png", place / "confidence.png", FOLDER / "domains.png")
        m2st.report(adata, place / "report.html", title="A simulated cortex")
        photograph(place / "report.html", FOLDER / "report.png")
