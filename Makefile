# Everything runs in a virtual environment of its own, made on first use and renewed when
# setup.py changes. Choose the interpreter with `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench docs notebooks

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit( \
	    "tfcompress needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is %d.%d; run: make ... PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, so that the demo does not install the test tools.
$(VENV)/.installed-run: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-dev: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,notebooks]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-run

$(VENV)/.installed-docs: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-notebooks: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,notebooks]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-run

$(VENV)/.installed-bench: setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,aeq]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-run

demo: $(VENV)/.installed-run  ## train, prune, quantize, export and compare a small CNN (under 3 minutes)
	$(BIN)/tfcompress run configs/digits_prune_int8.yaml --output=runs/demo --overwrite

test: $(VENV)/.installed-test  ## the tests that every change runs
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-all: $(VENV)/.installed-notebooks  ## all tests, the slow ones and the notebooks too
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench  ## the benchmarks against other libraries (hours), and their page
	$(BIN)/python benchmarks/resnet8_cifar10.py
	$(BIN)/python benchmarks/ptq.py
	$(BIN)/python benchmarks/sparsity.py
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/shrink_coverage.py --export
	$(BIN)/python benchmarks/mask_update.py
	$(BIN)/python benchmarks/evaluation_speed.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/user_code.py
	$(BIN)/python benchmarks/page.py

docs: $(VENV)/.installed-docs  ## convert every layer for the support table (10 minutes), and build site/
	$(BIN)/python docs/support_table.py
	$(BIN)/python docs/recipe_reference.py
	$(BIN)/python benchmarks/page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo site/index.html

notebooks: $(VENV)/.installed-notebooks  ## run the notebooks again and keep their outputs
	cd notebooks && for name in *.ipynb; do \
	    ../$(BIN)/jupyter execute --inplace $$name || exit 1; done
