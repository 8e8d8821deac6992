# Everything runs from here: python3 and make are all that has to be on the machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PART ?= all
FAST := not slow and not gpu and not soak
# One thread a test process: two of them share the machine, and equal thread counts give equal bits.
test test-slow browser soak: export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What a GPU machine without network usually lacks; `make wheels` puts it into .whl/ for `make gpu` to find.
CARRIED := hjson pydantic pydantic_core annotated-types typing-inspection typing_extensions datasets dill multiprocess \
           tyro docstring_parser typeguard nltk liger_kernel fla-core cut-cross-entropy setuptools
BUILT := deepspeed rouge_score
PLATFORMS := $(foreach n,2_28 2_27 2_24 2_17,--platform manylinux_$(n)_x86_64) --platform manylinux2014_x86_64
pinned = $(foreach p,$(1),$(shell grep -i '^$(p)==' constraints.txt))

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint audit format test-slow browser soak gpu wheels clean

help:  ## this list
	@echo "make TARGET [PYTHON=python3]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## create .venv and install everything, once; later runs need no network

$(VENV)/.ready: pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "clear_dist needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo "$(PYTHON) cannot create virtual environments: install its venv package" \
		"(e.g. python3-venv), or pass another PYTHON=" >&2; exit 1; }
	@echo "installing into $(VENV); a few minutes, once"
	@$(BIN)/pip install -qq $(call pinned,setuptools)
	@$(BIN)/pip install -qq $(call pinned,torch)
	@$(BIN)/pip install -qq --no-build-isolation -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'import json; r = json.load(open("clear_dist/_C.build.json")); \
		print("native ops:", r["reason"] or "built; CUDA kernels: " + (r["cuda_reason"] or ", ".join(r["cuda"])))'
	@touch $@

quickstart: setup  ## learn 24 people, forget a few, write runs/quickstart/index.html
	$(BIN)/clear-dist quickstart --out runs/quickstart

test: lint audit  ## lint, types, import arrows, known faults of dependencies, and the fast tests
	$(BIN)/python -m pytest -q -n 2 -m "$(FAST)"

lint: setup  ## style, types, who imports whom
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

audit: setup  ## known faults of the pinned dependencies, by OSV's database; AUDIT=strict fails where it is out of reach
	@$(BIN)/python .ci/audit

format: setup  ## let ruff rewrite the code
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -q -m "slow and not gpu and not soak"

browser: setup  ## the tests of the report's pages in a Chromium of the system (CLEAR_DIST_BROWSER names another)
	@$(BIN)/pip install -qq $(call pinned,playwright greenlet)
	$(BIN)/python -m pytest -q -m browser

soak: setup  ## the tests that kill and repeat for many minutes
	$(BIN)/python -m pytest -q -m "soak and not gpu"

gpu:  ## on a GPU machine, installed or with .whl/: PART=tests|quickstart|ops|step|farm|eval, or all; under 9 minutes
	@PYTHON="$(PYTHON)" .ci/gpu $(PART)

wheels: setup  ## fill .whl/ with what `make gpu` needs on a machine without network (Python 3.12, x86-64)
	@mkdir -p .whl
	$(BIN)/pip wheel -qq --no-deps --no-build-isolation -w .whl $(call pinned,$(BUILT))
	$(BIN)/pip download -qq --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $(PLATFORMS) \
		-d .whl $(call pinned,$(CARRIED))
	@ls -l .whl

clean:  ## remove what tests and builds leave behind (.venv and runs/ stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .gpu-site
	find clear_dist tests launchers benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
