# A newcomer needs `make serve` and `make test`; the rest is for people who work on SmartBatch.
PYTHON ?= python3
MODEL ?= resnet18
BIN := .venv/bin
HANDLER := $(shell find handler -name '*.py' -o -name '*.yaml' -o -name '*.[ch]')
# pip's progress bar is the only sign of life during the first, long install; bytecode makes every later start faster.
PIP_INSTALL := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip install --disable-pip-version-check
C_SOURCES := $(shell find handler -name '*.[ch]')
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest

.PHONY: help setup serve test check bytecode style types jar tested format frontend stock bench figures soak fuzz audit clean FORCE
.DELETE_ON_ERROR:
.PRECIOUS: model_store/.%.settings model_store/%.mar

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.runtime  ## create .venv and install SmartBatch into it

serve: model_store/$(MODEL).mar  ## serve $(MODEL) on http://127.0.0.1:8080 until Ctrl-C
	@exec $(BIN)/smartbatch serve --model $(MODEL)

# The tests wait for servers half of the time, so twice as many at a time as there are cores.
test: .venv/.dev  ## all tests, with real servers on free ports
	$(PYTEST) -m 'not slow' -n 4

# Types are checked in what the tests leave of the processor.
check: .venv/.dev  ## what CI runs: format, lint, types, tests
	@$(MAKE) --no-print-directory -j 3 tested types

tested: $(FIRST) style jar
	@$(MAKE) --no-print-directory test

# In a new environment: bytecode of what tests import, and of the tests, which else each of their processes writes.
bytecode:
	$(PYTEST) --collect-only -q -m 'not slow' >/dev/null || true  # what cannot be collected, the tests tell

style:
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/ruff check .

types:
	nice $(BIN)/mypy

jar:
	$(BIN)/python frontend/build.py --check --test

frontend: .venv/.dev  ## the jar that mends TorchServe's frontend, and its unit tests (needs Debian's ecj or a JDK from 17 on)
	$(BIN)/python frontend/build.py --test

bench: .venv/.runtime  ## SmartBatch beside its peers, in bench/results (about an hour; BENCH=--quick for eleven minutes)
	bench/setup.sh
	bench/.venv/bin/python -m bench.peers $(BENCH)

figures: .venv/.runtime model_store/resnet18.mar  ## every picture and figure of README and docs, anew (two hours; FIGURES=--quick rehearses)
	bench/setup.sh
	bench/.venv/bin/python -m bench.figures $(FIGURES)

stock: .venv/.dev  ## the tests with real servers once more, on TorchServe's frontend as it came
	SMARTBATCH_FRONTEND=stock $(PYTEST) tests/e2e -m 'not slow' -n 2

fuzz: .venv/.dev  ## a million executions over the decoders
	$(BIN)/python -m pip install -q atheris
	$(BIN)/python -m fuzz --executions 1000000

soak: .venv/.dev  ## the tests too long for CI: soak, overload, twenty retunes, 10,000 requests good and bad
	$(BIN)/python -m pip install -q -e '.[ray]'
	$(PYTEST) -m slow --timeout 3600

audit: .venv/.dev  ## known vulnerabilities: Python packages and the frontend's jar
	$(BIN)/python -m pip install -q pip-audit
	$(BIN)/python tools/audit.py

format: .venv/.dev  ## put the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_SOURCES)
	$(BIN)/ruff check --fix .

clean:  ## remove the environment, archives and run directories
	rm -rf .venv .smartbatch model_store/*.mar model_store/.*.settings .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "SmartBatch needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating .venv"
	$(PYTHON) -m venv .venv
	@# The pip that Python 3.11 brings takes half as long again for so many packages.
	$(PIP_INSTALL) --quiet --upgrade pip

.venv/.runtime: pyproject.toml | .venv/bin/python
	@echo "Installing SmartBatch, PyTorch and TorchServe into .venv: several GB, minutes at the first time"
	$(PIP_INSTALL) -e '.[load]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch .venv/.runtime $@

# An archive is rebuilt when the handler changes, or MODEL_PATH does: the settings file remembers the last one.
model_store/%.mar: model_store/.%.settings $(HANDLER) | .venv/.runtime
	./archive.sh --model $* --force

model_store/.%.settings: FORCE
	@echo 'MODEL_PATH=$(MODEL_PATH)' | cmp -s - $@ || echo 'MODEL_PATH=$(MODEL_PATH)' > $@
