# `make run` and `make test` set up everything they need; the others are for those who work on the code.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 1
IN_PARALLEL := -n 3 --dist loadgroup
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help run setup test test-all test-fleet chaos soak mutants check format docs lock bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: .venv/runtime ## everything on this machine, with a demo tenant (Ctrl-C ends it)
	$(BIN)/projector up --demo --workers $(WORKERS)

test: .venv/dev ## what daily work can break, on real servers from wheels (3 minutes)
	$(BIN)/pytest --tier first $(IN_PARALLEL) --durations=10

test-all: .venv/dev ## the tests that `make test` leaves out (10 minutes)
	$(BIN)/pytest --tier full $(IN_PARALLEL) --durations=10

test-fleet: .venv/dev ## the tests that take longer still; for the night
	$(BIN)/pytest --tier fleet $(IN_PARALLEL) --durations=10

mutants: .venv/dev ## plant bugs, one at a time, and see that the tests notice every one
	$(BIN)/python -m tests.mutants

setup: .venv/dev ## the virtual environment, with everything in it

check: .venv/dev ## what CI checks besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/dev ## write the generated parts of the reference pages again
	$(BIN)/python docs/generate.py

bench: .venv/dev ## how fast, as ratios to references of the same run; BENCH="--quick", or names of rows
	$(BIN)/python -m benchmarks $(BENCH)

chaos: .venv/dev ## 200 runs of real processes and servers, killed and paused by chance; which promises held (minutes)
	$(BIN)/python -m tests.chaos $(CHAOS)

soak: .venv/dev ## an hour of traffic in 12 minutes over real processes and servers: does anything grow? (minutes)
	$(BIN)/python -m tests.soak $(SOAK)

lock: ## write the locks again, with the newest versions (needs uv)
	uv pip compile pyproject.toml --group build --universal --upgrade --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev -c requirements.lock --universal --upgrade --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.lock

clean: ## remove what was made, but no data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

.venv/runtime: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: .venv/runtime requirements-dev.lock
	$(BIN)/pip install -q --require-hashes -r requirements-dev.lock
	touch $@
