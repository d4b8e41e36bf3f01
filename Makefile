# Everything runs in a virtual environment of its own, made on first use and renewed when
# setup.py changes. Choose the interpreter with `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench

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

demo: $(VENV)/.installed-run  ## train, prune, quantize, export and compare a small CNN (under 3 minutes)
	$(BIN)/tfcompress run configs/digits_prune_int8.yaml --output=runs/demo --overwrite

test: $(VENV)/.installed-test  ## the tests that every change runs
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-all: $(VENV)/.installed-test  ## all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test  ## the benchmarks against tfmot and the plain converter
	$(BIN)/python benchmarks/resnet8_cifar10.py
	$(BIN)/python benchmarks/step_time.py
