# Two commands: `make demo` runs the main job, `make test` every check. Both set up what they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The second distribution; an sdist of efface does not hold it, and takes the one that is published.
WORLDS := $(wildcard packages/efface-worlds)
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow lint types imports dists bench clean

demo: $(READY)
	$(BIN)/efface demo --out demo-out

test: lint types imports $(if $(WORLDS),dists)
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term:skip-covered --durations=15

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

imports: $(READY)
	$(BIN)/python tools/check_imports.py

dists: $(READY)
	$(BIN)/python tools/check_dists.py

bench: $(READY)
	$(BIN)/python -m benchmarks.leace

# torch first and through the constraints: alone, pip would take a newer build with gigabytes of CUDA.
$(READY): pyproject.toml $(WORLDS:%=%/pyproject.toml) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' $(addprefix --editable ,$(WORLDS))
	touch $(READY)

clean:
	rm -rf .venv demo-out .pytest_cache .ruff_cache .hypothesis .coverage
