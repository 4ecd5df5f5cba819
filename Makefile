# `make demo` and `make test` set up everything on a machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test slow lint check clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed  ## .venv with raylabel and what its tests need

# editable_mode=compat puts the repository on sys.path, so that a folder named raylabel does not hide the package.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --config-settings editable_mode=compat --editable '.[dev]'
	touch $@

demo: setup  ## every stage on the generated long-tail set
	$(BIN)/raylabel demo

test: setup  ## all tests except the slow ones
	$(BIN)/python -m pytest -m 'not slow' -n 3 --durations=20

slow: setup  ## kills, whole runs, job submission
	$(BIN)/python -m pytest -m slow -n 2 --durations=20

lint: setup  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: test slow lint  ## what CI runs

clean:  ## remove .venv and runs/
	rm -rf .venv runs
