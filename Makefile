# make demo and make test do everything on a fresh machine with Python 3.11+.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test slow lint check clean
setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup  ## the whole main job on the generated long-tail set
	$(BIN)/raylabel demo

test: setup  ## every test but the slow ones
	$(BIN)/python -m pytest -m 'not slow' --durations=20

slow: setup  ## kills, whole runs, job submission
	$(BIN)/python -m pytest -m slow --durations=20

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: test slow lint  ## what CI runs

clean:
	rm -rf .venv runs
