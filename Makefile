# make demo | test | test-newer | test-under-load | matrix | lint | docs | bench | deps | clean
#
# Everything runs in a virtual environment made here: .venv, or .venv-3.13 for `make test PYTHON=python3.13`, or
# where VENV= says. It is made once and brought up to date when pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A version manager's python3.11 may exist and yet not run, so each is tried.
ifndef PYTHON
PYTHON := $(shell for it in python3.11 python3; do $$it -c '' 2>/dev/null && echo $$it && break; done)
VENV ?= .venv
endif
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

BIN := $(VENV)/bin
SOURCES = $(wildcard src tests examples bench tools docs)
# mypy wants at least one file in a folder it is given.
TYPED = $(foreach folder,$(SOURCES),$(if $(shell find $(folder) -name '*.py' -print -quit),$(folder)))

NEWER ?= 3.15

.PHONY: help demo test test-newer test-under-load matrix lint docs fuzz bench deps clean check-python

help:
	@echo 'make demo    a server on four workers, http://127.0.0.1:8000; Ctrl-C ends it'
	@echo 'make test    format, lint, types, tests (PYTHON=python3.13 for another interpreter, ARGS=... for pytest)'
	@echo 'make test-newer   the tests with a Python from Debian sid (NEWER=3.14; 3.15 without it), by tools/newer-pythons'
	@echo 'make test-under-load'
	@echo '             the tests alone, three times (RUNS=), while four other processes compute (LOAD=)'
	@echo 'make matrix  programs of others under everycore run, with their packages in .venv-matrix (ARGS=-k uvicorn)'
	@echo 'make lint    what make test does before the tests'
	@echo 'make docs    the documentation as a site, in build/site; a link that leads nowhere fails it'
	@echo 'make fuzz    three minutes of coverage-guided fuzzing, with Python 3.13 (FUZZ_PYTHON=)'
	@echo 'make bench   the benchmarks (ARGS=...)'
	@echo 'make deps    installs the programs that tests and benchmarks start, by apt-get'
	@echo 'make clean   removes what was made here'

demo: $(VENV)/.installed
	@exec $(BIN)/python tools/foreground.py $(BIN)/everycore serve --app-dir examples --workers 4 --show-counts hello:app

test: lint
	@$(BIN)/python -m pytest $(ARGS)

test-newer:
	@tools/newer-pythons test $(NEWER) $(ARGS)

RUNS ?= 3
LOAD ?= 4
test-under-load: $(VENV)/.developing
	@for run in $$(seq $(RUNS)); do echo "run $$run of $(RUNS)"; \
		$(BIN)/python tools/under_load.py --processes $(LOAD) $(BIN)/python -m pytest $(ARGS) || exit; done

# Programs of others (tests/matrix), on the oldest Python. What is found is written to tests/matrix/results.json.
# -n: they mostly wait, for imports and for a second's answers.
MATRIX_PYTHON ?= $(or $(shell tools/find-python 3.11 2>/dev/null),python3.11)
MATRIX_AT_ONCE ?= 5
.venv-matrix/.made: pyproject.toml
	@$(MATRIX_PYTHON) -m venv .venv-matrix
	@.venv-matrix/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-matrix/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[standard]' --group matrix
	@touch $@

matrix: .venv-matrix/.made
	@.venv-matrix/bin/python -m pytest tests/matrix -m matrix -n $(MATRIX_AT_ONCE) $(ARGS)
	@.venv-matrix/bin/python docs/make_servers.py

lint: $(VENV)/.developing
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy $(TYPED)

# -W: a warning is an error, and with --keep-going all of them are told. -E: every page is read anew, for a link that
# leads to a page is checked when the page is read that has it.
.venv-docs/.made: pyproject.toml | check-python
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

docs: .venv-docs/.made
	@rm -rf build/site
	@.venv-docs/bin/python -m sphinx -W --keep-going -q -E -d build/site-read -b html -c docs . build/site
	@echo 'the site is in build/site: open build/site/index.html'

# A minute of each; what is found is kept in tools/fuzz-corpus. FUZZ='-runs=10000000' is libFuzzer's.
FUZZ_PYTHON ?= $(or $(shell tools/find-python 3.13 2>/dev/null),python3.13)
FUZZ ?= -max_total_time=60
.venv-fuzz/.made: pyproject.toml
	@$(FUZZ_PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/pip install -q atheris==3.1.0 pytest .
	@touch $@

fuzz: .venv-fuzz/.made
	@.venv-fuzz/bin/python tools/fuzz.py decoders $(FUZZ)
	@.venv-fuzz/bin/python tools/fuzz.py histories $(FUZZ)
	@.venv-fuzz/bin/python tools/fuzz.py mailboxes $(FUZZ)

# Apart from the others, so that no test finds a server that it does not expect.
.venv-bench/.made: pyproject.toml | check-python
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --group bench --editable '.[standard]'
	@touch $@

bench: .venv-bench/.made
	@.venv-bench/bin/python -m bench $(ARGS)

deps:
	@tools/deps

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples bench tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

check-python:
	@tools/check-python '$(PYTHON)'

# The environment is thrown away when it is half made, or when its interpreter has gone.
$(VENV)/.installed: pyproject.toml | check-python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[standard]'
	@touch $@

$(VENV)/.developing: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@
