# Every target sets up .venv by itself when needed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home

.PHONY: demo test test-fast lint dev clean

demo: $(VENV)/.installed
	$(BIN)/leakage demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

test-fast: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dev: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	$(BIN)/dagster dev -w workspace.yaml

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp dagster.yaml $@

# The first of these interpreters that runs and is new enough makes the environment.
$(VENV)/.installed: pyproject.toml constraints.txt
	@for python in $(PYTHON) python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then echo "Python 3.11 or 3.12 with venv is needed: install it, or call make PYTHON=/path/to/python3.12"; exit 1; fi; \
	echo "installing into $(VENV) with $$chosen"; \
	[ -x $(BIN)/python ] || $$chosen -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
