# Two commands on a fresh clone: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
GPU    := $(VENV)/gpu-stack

.DEFAULT_GOAL := help
.PHONY: help install demo test test-gpu-stack check fix lock wheel clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

install: $(STAMP)  ## .venv with the locked dependencies and fedllm itself (editable)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedllm needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -e .
	@touch $(STAMP)

demo: $(STAMP)  ## four organisations train one model together (about two minutes on 2 cores)
	$(BIN)/fedllm demo

test: $(STAMP)  ## the default test run (no GPU, no network), on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu-stack: $(GPU)/.installed  ## the tests that need bitsandbytes and DeepSpeed (no GPU)
	PYTHONPATH=$(CURDIR)/$(GPU) $(BIN)/python -m pytest -m gpu_stack

$(GPU)/.installed: requirements-gpu.lock $(STAMP)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --upgrade --target $(GPU) -r requirements-gpu.lock
	@touch $@

check: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# mypy does not follow the package-dir mapping of an editable install: give it the wheel's layout
	@rm -rf build/types && mkdir -p build/types/fedllm && ln -s $(CURDIR)/fedllm/* build/types/fedllm/
	@for part in retrieval eval recipes; do ln -s $(CURDIR)/$$part build/types/fedllm/$$part; done
	MYPYPATH=build/types $(BIN)/mypy

fix: $(STAMP)  ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP)  ## write the installed versions to requirements.lock
	{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

wheel: $(STAMP)  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove .venv, caches and builds (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
