# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 1
IN_PARALLEL := -n 3 --dist loadgroup
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help run setup test test-all test-fleet chaos soak mutants check format docs lock bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: .venv/runtime ## run everything on this machine with demo data (stop with Ctrl-C)
	$(BIN)/projector up --demo --workers $(WORKERS)

test: .venv/dev ## the tests for daily work (about 3 minutes on 2 idle cores)
	$(BIN)/pytest --tier first $(IN_PARALLEL) --durations=10

test-all: .venv/dev ## the tests that `make test` leaves out (10 minutes)
	$(BIN)/pytest --tier full $(IN_PARALLEL) --durations=10

test-fleet: .venv/dev ## the long nightly tests
	$(BIN)/pytest --tier fleet $(IN_PARALLEL) --durations=10

mutants: .venv/dev ## plant bugs one at a time, and check that the tests notice each (long)
	$(BIN)/python -m tests.mutants

setup: .venv/dev ## create the virtual environment with all tools

check: .venv/dev ## format, lint, types and import rules, as in CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev ## format the code and fix lint errors
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/dev ## update the generated parts of the reference pages
	$(BIN)/python docs/generate.py

bench: .venv/dev ## run the benchmarks; BENCH="--quick", or names of rows
	$(BIN)/python -m benchmarks $(BENCH)

chaos: .venv/dev ## kill and pause real processes and servers in 200 random runs (minutes)
	$(BIN)/python -m tests.chaos $(CHAOS)

soak: .venv/dev ## an hour of traffic in 12 minutes, to find anything that grows
	$(BIN)/python -m tests.soak $(SOAK)

lock: ## update the lock files to the newest versions (needs uv)
	uv pip compile pyproject.toml --group build --universal --upgrade --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev -c requirements.lock --universal --upgrade --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.lock

clean: ## remove the virtual environment and caches, but no data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

.venv/runtime: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; run make with PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: .venv/runtime requirements-dev.lock
	$(BIN)/pip install -q --require-hashes -r requirements-dev.lock
	touch $@
