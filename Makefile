# `make demo`, `check`, `test` and `test-all` set up all they need, each from a clean clone, and can be
# repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSIONS := --constraint constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(VERSIONS)

# What Debian has of the R side; elsewhere, install the same from CRAN and Bioconductor.
R_PACKAGES := r-base-core r-bioc-hdf5array r-bioc-scran r-bioc-singlecellexperiment \
	r-cran-callr r-cran-ggplot2 r-cran-knitr r-cran-mclust r-cran-reticulate r-cran-rmarkdown \
	r-cran-seurat r-cran-testthat r-cran-withr
# rpy2 is built against R, which needs these headers.
R_PACKAGES += libblas-dev libpcre2-dev
# The tests of the report look at it in a browser; without one they are skipped.
BROWSER := chromium chromium-driver
R_LIBRARY := $(CURDIR)/$(VENV)/R
export R_LIBS := $(R_LIBRARY)
export RETICULATE_PYTHON := $(CURDIR)/$(BIN)/python
export M2ST_SHARED_DATA ?= $(abspath $(CURDIR)/../shared/data)

# A process per core, of one thread each: more threads than cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

.PHONY: demo dist docs vignettes check quick test test-all check-newest check-oldest \
	check-prerelease lint test-python fuzz browser r-packages \
	install-r test-r check-r check-r-all benchmark guard clean

demo: $(VENV)/package.stamp
	$(BIN)/m2st demo --output demo

# Without R, browser and clusters, at every save.
check: lint quick

quick: $(VENV)/test.stamp
	$(PYTEST) -m "not slow and not r and not browser and not dist"

test: lint test-python test-r check-r

# All there is, for an hour or two: before a release.
test-all: lint
	$(MAKE) test-python MARKS= OPTIONS=--hypothesis-profile=thorough
	$(MAKE) test-r check-r-all fuzz docs check-newest

# The newest release of each dependency, in an environment of its own: PYTHON=python3.13.
check-newest:
	rm -f .venv-newest/*.stamp
	$(MAKE) check VENV=.venv-newest VERSIONS="--upgrade --upgrade-strategy eager"

# The lowest version that pyproject.toml allows of each dependency, which uv can find and pip cannot.
check-oldest:
	rm -f .venv-oldest/*.stamp
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	.venv-oldest/bin/uv pip compile --quiet --resolution lowest-direct --group test \
		--output-file .venv-oldest/lowest.txt pyproject.toml
	$(MAKE) quick VENV=.venv-oldest VERSIONS="--constraint .venv-oldest/lowest.txt"

# What the next releases will be.
check-prerelease:
	rm -f .venv-prerelease/*.stamp
	$(MAKE) quick VENV=.venv-prerelease VERSIONS="--upgrade --upgrade-strategy eager --pre"

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

MARKS := -m "not slow"
test-python: $(VENV)/r.stamp install-r browser
	$(PYTEST) $(MARKS) $(OPTIONS)

# Objects of all kinds by the thousand, and kills, interrupts and full disks by the hundred.
FUZZ := 10000
fuzz: export OMP_NUM_THREADS := 1
fuzz: $(VENV)/r.stamp install-r
	$(BIN)/python -m tests.fuzz_run 0 $(FUZZ)
	$(BIN)/python -m tests.fuzz_interop 0 $(FUZZ)
	$(BIN)/python -m tests.interrupted 100

# Installs a browser where this may be done.
browser:
	@dpkg -s $(BROWSER) >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
		--no-install-recommends $(BROWSER) >/dev/null; } || command -v chromium >/dev/null \
		|| echo "chromium not found, and it cannot be installed here: the report is not looked at."

# Installs R and its packages where this may be done: on Debian, as root.
r-packages:
	@dpkg -s $(R_PACKAGES) >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
		--no-install-recommends $(R_PACKAGES) >/dev/null; } || command -v Rscript >/dev/null || { \
		echo "R not found, and it cannot be installed here. Needed: $(R_PACKAGES)"; exit 1; }

install-r: $(VENV)/package.stamp r-packages
	mkdir -p $(R_LIBRARY)
	R CMD INSTALL --library=$(R_LIBRARY) rpackage

test-r: install-r
	Rscript rpackage/tests/report.R

# Code, help pages and examples, in check-r-all the vignettes too; the tests ran above.
# SpatialExperiment is not in Debian.
check-r: BUILD_OPTIONS := --no-build-vignettes
check-r: CHECK_OPTIONS := --ignore-vignettes
check-r check-r-all: test-r
	rm -rf build/R && mkdir -p build/R
	cd build/R && R CMD build $(BUILD_OPTIONS) ../../rpackage
	cd build/R && _R_CHECK_FORCE_SUGGESTS_=false \
		R CMD check --no-manual --no-tests $(CHECK_OPTIONS) m2st_*.tar.gz
	! grep -E "^Status:.*(ERROR|WARNING)" build/R/m2st.Rcheck/00check.log

# Pages of R's vignettes as `vignette()` shows them. R installs them from a folder only where they are
# ready, and so they are kept; a test tells when a vignette has changed since.
vignettes: install-r
	mkdir -p rpackage/inst/doc
	for page in rpackage/vignettes/*.Rmd; do Rscript -e \
		"rmarkdown::render('$$page', output_dir = 'rpackage/inst/doc', quiet = TRUE)" || exit 1; done
	cp rpackage/vignettes/*.Rmd rpackage/inst/doc

# Wheel and sdist, in dist/. The command is tried as installed from each, away from this folder.
INSTALLED := build/dist/bin
dist:
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist
	$(INSTALLED)/pip install --quiet build twine
	$(INSTALLED)/python -m build --outdir dist
	$(INSTALLED)/twine check --strict dist/*
	$(INSTALLED)/pip install --quiet $(VERSIONS) torch dist/*.whl
	cd build/dist && bin/m2st demo && bin/m2st report demo/cortex.h5ad -o demo/report.html
	$(INSTALLED)/pip install --quiet --no-deps --force-reinstall dist/*.tar.gz
	cd build/dist && bin/m2st info

# The site, in site/. Vignettes run anew; a warning or a broken link ends it. No network is needed.
docs: $(VENV)/docs.stamp install-r
	rm -rf build/docs build/html && mkdir -p build/docs/benchmarks
	cp -r *.md CITATION.cff vignettes docs build/docs  # laid out alike, so that links hold in both
	cp benchmarks/*.* build/docs/benchmarks
	cd build/docs && mv docs/conf.py docs/index.md . && cp -r docs/_static .
	$(BIN)/python -m typer m2st.cli utils docs --name m2st --title "Command line" \
		--output build/docs/docs/cli.md
	Rscript docs/r.R build/docs/r
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going \
		build/docs build/html
	$(BIN)/linkchecker --no-status --config docs/linkchecker.ini build/html/index.html
	rm -rf site && mv build/html site

benchmark: $(VENV)/package.stamp test-r
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.paper
	$(BIN)/python -m benchmarks.reliability
	$(BIN)/python -m benchmarks.composition
	$(BIN)/python -m benchmarks.conversions
	Rscript benchmarks/bridge.R

# Asserts times, so it is in no tier of tests: run it where nothing else works.
guard: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.guard --check

$(VENV)/package.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/package.stamp
	$(PIP) --group test
	touch $@

# rpy2 is built against R, which must be there first.
$(VENV)/r.stamp: $(VENV)/test.stamp | r-packages
	$(PIP) --group r
	touch $@

$(VENV)/docs.stamp: $(VENV)/r.stamp
	$(PIP) --group docs
	touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-prerelease demo build site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
