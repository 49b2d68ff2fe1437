# `make demo` and the tests set up what they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=

.PHONY: help demo test test-all lint docs bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.ready: setup.cfg pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "detkd needs Python 3.10 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --disable-pip-version-check -c .ci/constraints.txt -e ".[test]"
	touch $@

demo: $(VENV)/.ready ## the whole line on rendered scenes: data, teacher, student, distilled student, table
	$(BIN)/detkd demo

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.ready ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.ready ## all tests, which is what CI runs
	$(PYTEST)

$(VENV)/.dev: $(VENV)/.ready
	$(BIN)/python -m pip install $(PIP_FLAGS) --disable-pip-version-check -c .ci/constraints.txt -e ".[test,dev]"
	touch $@

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready ## write docs/config.md anew from the dataclasses
	$(BIN)/python -m detkd.cli.config_page docs/config.md

bench: $(VENV)/.ready ## ratios of speed and cost
	$(BIN)/detkd bench train

clean: ## remove the virtual environment and build leftovers (never runs/ or datasets/)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
