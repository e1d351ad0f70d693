# Needs Python 3.11 or 3.12 with pip. `make quickstart` is the shortest way to see everything work.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed
# The pin is in pyproject.toml alone. Installed first, torch resolves by itself to the machine's plain build.
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

.PHONY: help venv quickstart lint test cluster-test bench engines slow scale soak clean

help:
	@echo "make venv        create $(VENV) and install everything (again only when pyproject.toml changed)"
	@echo "make quickstart  run every stage on the toy world, on this machine"
	@echo "make test        lint, types, spelling and all tests"
	@echo "make lint        ruff, mypy and codespell alone"
	@echo "make cluster-test  every stage on three nodes that share no disk; needs root"
	@echo "make bench       measure the figures of the README"
	@echo "make slow        the tests that take half a minute and more each"
	@echo "make engines     every engine's loss curve, and every engine's checkpoint under every other"
	@echo "make scale       prepare ten thousand to a million rows: seconds, memory"
	@echo "make soak        kill a stage -9 again and again: STAGE=prepare KILLS=20"
	@echo "make clean       remove caches and builds; $(VENV) and runs/ stay"

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV), some minutes the first time ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
		{ $(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(PIP) --upgrade pip
	@$(PIP) $(TORCH)
	@$(PIP) --editable ".[test]"
	@touch $@

quickstart: venv
	$(BIN)/raytrain quickstart

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# Two at a time: most tests compute on one thread, and many wait for processes to start.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

cluster-test: venv
	$(BIN)/python -m pytest -m nodes --show-capture=no tests/three_nodes/test_three_nodes.py

bench: venv
	$(BIN)/python -m tests.bench

soak: STAGE ?= prepare
soak: KILLS ?= 20
soak: venv
	$(BIN)/python -m tests.soak --stage $(STAGE) --kills $(KILLS)

engines: venv
	RAYTRAIN_WHOLE_MATRIX=1 $(BIN)/python -m pytest -m slow tests/train/test_engines.py

slow: venv
	$(BIN)/python -m pytest -m slow

scale: venv
	$(BIN)/python -m tests.bench.scale

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
