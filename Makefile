# Two words are enough on a fresh machine: `make demo` or `make test`. Each installs what it needs, once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
PINNED := $(BIN)/python $(INSTALL) --constraint constraints.txt
QUICK := -m pytest -m 'not system'

.PHONY: demo test test-fast test-docs test-oldest test-newest coverage lint lint-github format links hooks dist bench base \
    clean venv venv-test venv-lint venv-docs venv-release
.DEFAULT_GOAL := demo

# What is installed: the package alone, and what tests, checks and releases need besides. A stamp for each.

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first and by its exact version, so that nothing that needs it picks another build.
	$(PINNED) torch
	$(PINNED) --editable '.[evaluate]'
	touch $@

.venv/.with-test: .venv/.installed
	$(PINNED) --editable '.[test,deepspeed]'
	touch $@

.venv/.with-lint .venv/.with-docs .venv/.with-release: .venv/.with-%: .venv/.installed
	$(PINNED) --editable '.[$*]'
	touch $@

venv: .venv/.installed
venv-test venv-lint venv-docs venv-release: venv-%: .venv/.with-%

demo: venv
	$(BIN)/mdl-toolkit demo

test: venv-test
	$(BIN)/python -m pytest

# Without the real launches: for the minutes between two edits.
test-fast: venv-test
	$(BIN)/python $(QUICK)

# What the documents say: names of tests, options, versions, links within the repository.
test-docs: venv-test
	$(BIN)/python -m pytest tests/repository/test_documents.py tests/repository/test_bounds.py tests/repository/test_packaging.py

# With the oldest of everything that pyproject.toml lets in: Python 3.10 where there is one, and versions as
# constraints-oldest.txt has them. Takes 7.6 GB of disk where the oldest torch comes with CUDA.
OLDEST_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) $(shell command -v python3.10) $(PYTHON))
test-oldest:
	test -x .venv-oldest/bin/python || $(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(INSTALL) --constraint constraints-oldest.txt torch
	.venv-oldest/bin/python $(INSTALL) --constraint constraints-oldest.txt --editable '.[test]'
	.venv-oldest/bin/python -m pip check
	.venv-oldest/bin/python $(QUICK)

# With the newest of everything that the index has today.
test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(INSTALL) --upgrade --upgrade-strategy eager --editable '.[test]'
	.venv-newest/bin/python -m pip check
	.venv-newest/bin/python $(QUICK)

# Lines that the quick half of the tests runs, in the processes that it starts too: a table, and htmlcov/index.html.
coverage: venv-test
	$(BIN)/python $(QUICK) --cov --cov-report=term:skip-covered --cov-report=html

lint: venv-lint lint-github
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# What GitHub reads: schemas that come with check-jsonschema, and zizmor for what a workflow may do. No network.
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema
lint-github: venv-lint
	$(BIN)/zizmor --offline --quiet .github
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.citation-file-format CITATION.cff
	$(BIN)/pre-commit validate-config

format: venv-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Links to other places than the repository; needs the network. Those within are tested (tests/repository/test_documents.py).
links: venv-docs
	$(BIN)/lychee --no-progress --scheme https --scheme http . .github

# `make lint` on the files of each commit from now on.
hooks: venv-lint
	$(BIN)/pre-commit install

# The files of a release, checked as the index and a user will see them; their version must be that of a TAG=v1.2.3 in the environment.
dist: venv-release
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python $(INSTALL) --constraint constraints.txt dist/*.whl
	.venv-wheel/bin/python -m pip check
	version="$$(.venv-wheel/bin/mdl-toolkit --version)" && echo "$$version" && \
	    { test -z "$$TAG" || test "$$version" = "mdl-toolkit $${TAG#v}"; }

bench: venv
	$(BIN)/python -m benchmarks.run

# Trains the small base model that ships with the package anew.
base: venv
	$(BIN)/python -m scripts.base.build

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-wheel build dist htmlcov mdl-demo .pytest_cache .mypy_cache .ruff_cache
