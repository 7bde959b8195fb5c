# One virtual environment for everything. `make demo` is the way in.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo site validate test test-all bench lint format clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# Made again when a dependency or a pin changes. The stamp is written last: a broken install is repeated.
$(STAMP): pyproject.toml constraints.txt hatch_build.py
	@echo "Installing Remainder and its dependencies into $(VENV) (one to two minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --upgrade pip
	@$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

install: $(STAMP)  ## make the environment

demo: $(STAMP)  ## score interpretations: two controls, small models, a real one
	$(BIN)/remainder run controls/gaussian-equivalence controls/two-point
	$(BIN)/remainder run --suite tiny
	$(BIN)/remainder run smollm2-135m/resid-15 --with mean-only --with topk-sae-32 --with pca-128

site: $(STAMP)  ## build the board from the records in leaderboard/results, into site/
	$(BIN)/remainder board build

validate: $(STAMP)  ## measure the benchmark itself, and write docs/validation.md
	$(BIN)/remainder validate

# On all cores, but no more than four: every worker loads torch. Benchmarks need a core to themselves (`make bench`).
TEST_WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --maxprocesses=4

test: $(STAMP)  ## quick tests
	$(PYTEST)

test-all: $(STAMP)  ## slow tests too
	$(PYTEST) -m ""

bench: $(STAMP)  ## benchmarks, without the run-time type checks of the tests
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --jaxtyping-packages=

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove the environment and what tools left behind (not the model cache)
	rm -rf $(VENV) build dist .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find harness tests tasks baselines -name __pycache__ -type d -exec rm -rf {} +
