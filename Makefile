# One virtual environment for everything. `make demo` is the way in.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
# Of what pip says only the large downloads and the long last step: enough to see that it is alive. The loop, and
# with it the recipe, fails if pip did.
SHORTLY := while read -r line; do case "$$line" in \
	Downloading*" MB)"* | "Using cached"*" MB)"*) echo "  $$line" ;; \
	"Installing collected packages"*) echo "  unpacking $$(echo "$$line" | wc -w | tr -d ' ') packages (half a minute) ..." ;; \
	FAILED) exit 1 ;; esac; done

.DEFAULT_GOAL := help
.PHONY: help install demo tour site docs findings address snapshots validate test test-all bench dist floors release-check lint format clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

# Made again when a dependency or a pin changes. The stamp is written last: a broken install is repeated.
$(STAMP): pyproject.toml constraints.txt hatch_build.py
	@echo "Installing Remainder and its dependencies into $(VENV) (one to two minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --quiet --upgrade pip
	@{ $(PIP_INSTALL) --progress-bar off --editable ".[dev]" || echo FAILED; } | $(SHORTLY)
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@echo "Installing what builds the documentation ..."
	@{ $(PIP_INSTALL) --progress-bar off --editable ".[docs]" || echo FAILED; } | $(SHORTLY)
	@touch $@

install: $(STAMP)  ## make the environment

demo: $(STAMP)  ## score two autoencoders and a projection of a real model, and say where they would stand on the board
	$(BIN)/remainder run smollm2-135m/resid-15 --with topk-sae-16 --with topk-sae-32 --with pca-400 --tier demo

tour: $(STAMP)  ## a control with a known answer, a small model, a circuit
	$(BIN)/remainder run controls/gaussian-equivalence tiny/modular-addition --rungs full
	$(BIN)/remainder run tiny/induction-circuit

site: $(STAMP)  ## build the board from the records in leaderboard/results, into site/
	$(BIN)/remainder board build

docs: $(DOCS_STAMP)  ## build the documentation into build/docs; fails at a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "To read and search it: $(BIN)/remainder board serve --site build/docs"

findings: $(STAMP)  ## write all pages and figures that follow from committed records, in minutes
	@for page in findings coarse_graining what_moved idea ladder sanity "clone_power --page"; do \
		set -- $$page; $(BIN)/python docs/examples/$$1.py $$2 || exit 1; done

address: $(STAMP)  ## fail while the address of the repository is not set; ADDRESS=https://… sets it for once
	@$(BIN)/python docs/mkdocs/address.py

snapshots: $(STAMP)  ## make every frozen snapshot again from its records, and fail if one comes out otherwise
	@for file in leaderboard/snapshots/*.json; do \
		$(BIN)/remainder board freeze "$$(basename "$$file" .json)" --check || exit 1; done

validate: $(STAMP)  ## measure the benchmark itself, and write docs/validation.md
	$(BIN)/remainder validate

# On all cores, but no more than four: every worker loads torch. Each is given its part of the tests in a row, so that
# fixtures of a module are made once, and helps out in the end. Benchmarks need a core to themselves (`make bench`).
TEST_WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --maxprocesses=4 --dist=worksteal

test: $(STAMP)  ## quick tests
	$(PYTEST)

test-all: $(DOCS_STAMP)  ## slow tests too
	$(PYTEST) -m ""

# Two processes of one thread each: what is held against peers, and circuits, take as long as all others together.
BENCH := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --benchmark-only --unchecked -q
BESIDE := tests/benchmarks/test_peers.py tests/benchmarks/test_circuit_passes.py
bench: $(STAMP)  ## benchmarks, without the run-time type checks of the tests; writes docs/performance.md
	@mkdir -p .benchmarks
	@$(BENCH) $(BESIDE) --benchmark-json=.benchmarks/beside.json > .benchmarks/beside.log 2>&1 & beside=$$!; \
	$(BENCH) tests/benchmarks $(BESIDE:%=--ignore=%) --benchmark-json=.benchmarks/others.json; others=$$?; \
	wait $$beside; failed=$$?; cat .benchmarks/beside.log; [ $$others = 0 ] && [ $$failed = 0 ]
	$(BIN)/python tests/benchmarks/page.py .benchmarks/beside.json .benchmarks/others.json docs/performance.md

dist: $(STAMP)  ## build both wheels and the source distribution, and try them in an environment of their own
	$(BIN)/python tests/packaging/dist.py dist

floors: $(STAMP)  ## try the oldest dependencies that pyproject.toml allows
	$(BIN)/python tests/packaging/floors.py

release-check: lint test-all docs dist snapshots floors address  ## all that must hold before a release

lint: $(STAMP)  ## ruff, which room imports which, and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove the environment and what tools left behind (not the model cache)
	rm -rf $(VENV) build dist .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find harness tests tasks baselines -name __pycache__ -type d -exec rm -rf {} +
