# Two words are enough on a fresh machine: `make demo` or `make test`. Both make what they need, in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test test-fast bounds lint format bench base clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first and by its exact version, so that nothing that needs it picks another build.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

venv: $(STAMP)

demo: venv
	$(BIN)/mdl-toolkit demo

test: venv
	$(BIN)/python -m pytest

# Without the real launches: for the minute between two edits.
test-fast: venv
	$(BIN)/python -m pytest -m 'not system'

# The same with the oldest of everything that pyproject.toml lets in: Python 3.10 where there is one, and versions
# as constraints-lowest.txt has them. Takes 7 GB of disk where the oldest torch comes with CUDA.
OLDEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) $(shell command -v python3.10) $(PYTHON))
LOWEST := .venv-lowest/bin/python
bounds:
	test -x $(LOWEST) || $(OLDEST) -m venv .venv-lowest
	$(LOWEST) -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt torch
	$(LOWEST) -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt --editable . \
	    pytest hypothesis bitsandbytes tensorboard 'setuptools>=77'
	$(LOWEST) -m pip check
	$(LOWEST) -m pytest -m 'not system'

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python benchmarks/run.py

# Trains the small base model that ships with the package anew.
base: venv
	$(BIN)/python scripts/build_base.py

clean:
	rm -rf .venv .venv-lowest build dist mdl-demo .pytest_cache .mypy_cache .ruff_cache
