# `make demo` and `make test` set up all they need, each from a clean clone, and can be repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint test-python benchmark clean

demo: $(VENV)/package.stamp
	$(BIN)/m2st demo --output demo

test: lint test-python

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-python: $(VENV)/test.stamp
	$(BIN)/pytest

benchmark: $(VENV)/package.stamp
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.paper

$(VENV)/package.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/package.stamp
	$(PIP) --group test
	touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
