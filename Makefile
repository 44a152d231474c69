# Each target sets up what it needs, in .venv. `make PYTHON=/path/to/python3.12 demo` chooses the interpreter.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
JOBS ?= 2
PYTEST_FLAGS ?= -n $(JOBS) --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml runtime/setup.cfg constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
EDITABLE := --config-settings editable_mode=compat --editable ./runtime

# What tests ask of NVIDIA, all of it usable without a GPU: TensorRT-RTX with its parser and builder (90 MB), and, about
# 1 MB each, the stubs of TensorRT's Python module and its bindings by version.
STUBS := tensorrt-stubs==10.13.0.35.1
BINDINGS := tensorrt-bindings==8.6.1 $(addprefix tensorrt-cu12-bindings==,\
	10.0.1 10.3.0 10.7.0 10.13.3.9 10.16.1.11 11.0.0.114 11.4.0.106)

.PHONY: help demo test test-fast nvidia fuzz check format lint types layers native clean

help: ## Show what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/installed-demo ## Compile the digits teacher for three devices, run them, print the table
	$(BIN)/coformerc build examples/digits/digits.toml -o build/digits

test: $(VENV)/installed-dev nvidia fuzz ## Run all tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: $(VENV)/installed-dev ## Run the tests that take seconds
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not slow"

check: lint types layers native test ## What CI runs: style, types, layers, native kernels, all tests

nvidia: $(VENV)/installed-dev ## Get what tests ask of NVIDIA; what cannot be had here is skipped, with a word
	@test -e $(VENV)/installed-nvidia || $(MAKE) --no-print-directory $(VENV)/installed-nvidia \
		|| echo "make: not all of NVIDIA's packages can be had here; the tests that need them are skipped" >&2

fuzz: $(VENV)/installed-dev ## Get atheris, for fuzzing led by coverage; where it cannot be had, those tests are skipped, with a word
	@test -e $(VENV)/installed-fuzz || $(MAKE) --no-print-directory $(VENV)/installed-fuzz \
		|| echo "make: atheris cannot be had here; the tests that need it are skipped" >&2

format: $(VENV)/installed-dev ## Rewrite the files in the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(VENV)/installed-dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev ## Check types, strictly
	$(BIN)/mypy

layers: $(VENV)/installed-dev ## Check that imports point downward only
	$(BIN)/lint-imports

native: ## Build the native kernels and run their own tests
	cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release
	cmake --build build/native --parallel $(JOBS)
	ctest --test-dir build/native --output-on-failure

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# The interpreter is looked for only when there is no environment yet.
$(BIN)/python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for candidate in python3 python3.13 python3.12 python3.11 python3.10; do \
			if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
				python="$$candidate"; break; \
			fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "make: no Python 3.10 or later on PATH; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
		echo "make: $$python is older than Python 3.10 or does not run; name another: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! "$$python" -m venv $(VENV); then \
		rm -rf $(VENV); \
		echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi

$(VENV)/installed-demo: $(INPUTS) | $(BIN)/python
	$(PIP) $(EDITABLE) --editable .
	@touch $@

$(VENV)/installed-dev: $(INPUTS) | $(BIN)/python
	$(PIP) $(EDITABLE) --editable '.[dev]'
	@touch $(VENV)/installed-demo $@

# Into folders of their own: bindings of several versions, and stubs that mypy would stop at (see test_tensorrt_types.py).
$(VENV)/installed-nvidia: $(INPUTS) | $(VENV)/installed-dev
	@failed=0; \
	get="$(BIN)/python -m pip --disable-pip-version-check install --quiet --retries 1 --timeout 20"; \
	tag="$$($(BIN)/python -c 'import sys; print("cp{}{}".format(*sys.version_info))')"; \
	$$get --constraint constraints.txt tensorrt-rtx-cu12 || failed=1; \
	for package in $(STUBS) $(BINDINGS); do \
		into="build/tensorrt-bindings/$$tag-$${package#*==}"; \
		case "$$package" in *stubs*) into=build/tensorrt-stubs;; esac; \
		test -d "$$into" && continue; \
		rm -rf "$$into.part"; \
		if $$get --no-deps --target "$$into.part" "$$package"; then mv "$$into.part" "$$into"; else failed=1; fi; \
	done; \
	exit "$$failed"
	@touch $@

# Wheels only: to build it takes clang and minutes. Other Pythons than these have none, and pip then installs nothing.
$(VENV)/installed-fuzz: $(INPUTS) | $(VENV)/installed-dev
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --retries 1 --timeout 20 --only-binary :all: \
		--constraint constraints.txt 'atheris; python_version >= "3.11" and python_version < "3.14"'
	@touch $@
