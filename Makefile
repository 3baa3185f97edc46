# One thread per worker, and one worker more than two cores: those that wait for a daemon or a browser leave theirs to the others.
# `make demo` and `make test` do all the set-up themselves; both work offline apart from the package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= studies/quickstart.yaml

.PHONY: demo test release-tests check ui small docs benchmarks clean

demo: $(VENV)/.installed
	$(BIN)/sae-pipeline run $(STUDY)

small: $(VENV)/.installed
	$(BIN)/sae-pipeline run studies/small.yaml

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not interchange and not slow and not release" -n 3 --dist loadfile --no-loadscope-reorder

# What takes too long for every change: once before a release, after everything that .ci/run does.
release-tests: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m release -v -s

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/harvest.py --build-peers --output benchmarks/results/harvest-small.json
	$(BIN)/python benchmarks/harvest.py --layers 4 5 6 7 --output benchmarks/results/harvest-small-last-four.json
	$(BIN)/python benchmarks/train.py --build-peers --output benchmarks/results/train-cpu.json
	$(BIN)/python benchmarks/train_memory.py --output benchmarks/results/train-memory.json
	$(BIN)/python benchmarks/recovery.py --output benchmarks/results/recovery.json
	$(BIN)/python benchmarks/evaluate.py --memory --output benchmarks/results/evaluate-small.json
	$(BIN)/python benchmarks/match.py --large --output benchmarks/results/match.json
	$(BIN)/python benchmarks/orchestrate.py --output benchmarks/results/orchestrate.json
	$(BIN)/python benchmarks/documented.py

ui: $(VENV)/.installed
	$(BIN)/sae-pipeline ui $(STUDY)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# pip, not uv: the constraint on torch takes the CPU build where one is offered.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .sae build *.egg-info
