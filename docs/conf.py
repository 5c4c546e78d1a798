"""Settings of the documentation site; `make docs` builds it."""

from __future__ import annotations

import importlib.metadata
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "m2ST"
author = copyright = "The m2ST developers"
release = importlib.metadata.version("m2st")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # all formulas without a network, when building and when reading
]
exclude_patterns = ["README.md", "benchmarks/NOTEBOOK.md"]  # index.md includes it; a raw log

# Pages: Markdown, with links to headings as GitHub makes them.
myst_heading_anchors = 3
myst_title_to_header = True  # the vignettes of R have their title in a header

# Vignettes: executed at each build, in an empty folder; an error ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 600  # seconds for a block
nb_output_stderr = "show"

# Python: pages from the docstrings. A name in backticks is a link where there is such a thing.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
napoleon_google_docstring = False
# The first two are ours; the third is in words here, without a type in its first line.
napoleon_custom_sections = ["Shapes", "Writes", "Returns"]

html_theme = "furo"
html_title = f"m2ST {release}"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False  # pages are made in part, so that their sources tell little
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app: Sphinx) -> None:
    """Let pages without a title of their own, such as printed tables, have the file's name."""
    app.connect("source-read", _add_title)


def _add_title(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith("benchmarks/") and not source[0].startswith("# "):
        title = PurePath(page).name.capitalize().replace("_", " ")
        source[0] = f"# {title}\n\n{source[0]}"
