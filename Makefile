# The commands of development; `make` alone lists them.
#
# The first one makes .venv, with uv where there is one and else with venv and
# pip: the same packages by their hashes, from requirements.lock.

PYTHON ?= python3
UV     ?= $(shell command -v uv 2>/dev/null)
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

# Tests start hundreds of processes, which should not compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(READY) ## See it work: all kinds of tasks, two workers, one is killed
	@$(RUN) -m pgsched.demo

.PHONY: test
test: $(READY) ## Run the tests, on a Postgres of their own
	$(RUN) -m pytest -q -n auto --maxprocesses 4 --dist worksteal

.PHONY: check
check: $(READY) ## Check format, lint, types and house rules
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m mypy
	$(VENV)/bin/squawk --config .squawk.toml sql/*.sql
	$(RUN) -m pytest -q tests/test_rules.py tests/test_plpgsql_check.py

.PHONY: ci
ci: check test ## Do both, as before every commit

.PHONY: fix
fix: $(READY) ## Format, and repair what the linter can
	$(RUN) -m ruff format
	$(RUN) -m ruff check --fix

.PHONY: bench
bench: $(READY) ## Measure on this machine
	$(RUN) -m benchmarks

.PHONY: bench-peers
bench-peers: $(READY) ## Measure beside Procrastinate, PgQueuer, Chancy, awa, Graphile Worker, pg-boss (45 min, npm)
	$(RUN) -m benchmarks.peers

.PHONY: bench-growth
bench-growth: $(READY) ## Measure what a task costs as backlog, record, queues and workers grow (15 min)
	$(RUN) -m benchmarks.growth

.PHONY: bench-page
bench-page: $(READY) ## Renew the tables and plots of docs/benchmarks.md from the last figures
	$(RUN) -m benchmarks.page

.PHONY: db
db: $(READY) ## Run a Postgres until Ctrl-C, and print its DSN
	@$(RUN) -m pgsched.devdb

.PHONY: catalog
catalog: $(READY) ## Renew sql/catalog.json after a change in sql/
	@$(RUN) -m pgsched.devcatalog

.PHONY: settings
settings: $(READY) ## Renew the tables of docs/settings.md after a change of a setting
	@$(RUN) -m tests.settings_page

.PHONY: delivery
delivery: $(READY) ## Hold 4 x 20,000 tasks against the ledger of a hostile receiver
	PGSCHED_TEST_DELIVERY_TASKS=20000 $(RUN) -m pytest -q -s tests/delivery

VERSIONS ?= 15 16 17 18

.PHONY: test-matrix
test-matrix: $(READY) ## Run the tests on Postgres 15, 16, 17 and 18; what is not there comes from npm
	for version in $(VERSIONS); do \
	  bin=$$($(RUN) -m tests.postgres $$version) && PGSCHED_PG_BIN=$$bin $(MAKE) test || exit 1; \
	done

.PHONY: test-pgbouncer
test-pgbouncer: $(READY) ## Run the tests through a PgBouncer in transaction mode
	PGSCHED_TEST_PGBOUNCER=1 $(MAKE) test

.PHONY: chaos
chaos: $(READY) ## Kill workers and servers, cut what connects them, set clocks wrong: nothing is lost
	$(RUN) -m pytest -q -n auto -m chaos tests/chaos

.PHONY: model
model: $(READY) ## Hold 1,000 stories of tasks against a model of their states
	PGSCHED_TEST_MODEL_EXAMPLES=1000 $(RUN) -m pytest -q tests/sql/test_model.py

.PHONY: fuzz
fuzz: $(READY) ## Send the API thousands of random requests, and hold the answers against its document
	PGSCHED_TEST_FUZZ_EXAMPLES=1000 $(RUN) -m pytest -q -n auto --timeout 3600 tests/security/test_openapi.py

.PHONY: chronos
chronos: $(READY) ## Let ten random years of schedules go by under a fake clock
	PGSCHED_TEST_CHRONOS_SEEDS=10 $(RUN) -m pytest -q -n auto tests/chronos/test_year.py

.PHONY: test-node-red
test-node-red: $(READY) ## Run the tests against Node-RED (needs Node.js and npm)
	$(RUN) -m pytest -q -m node_red tests/node_red

.PHONY: lock
lock: ## Renew the lock file after a change in pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --output-file requirements.lock pyproject.toml

# The sources are put on the path and not installed: that would need a build
# backend, which the lock file does not hold.
$(READY): pyproject.toml requirements.lock
	@echo 'installing the packages of requirements.lock into $(VENV), which takes a minute ...'
ifneq ($(UV),)
	@$(UV) venv --quiet --allow-existing --python '>=3.11' $(VENV)
	@$(UV) pip sync --quiet --python $(RUN) --require-hashes --only-binary :all: requirements.lock
else
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'pgsched needs Python 3.11 or newer: make PYTHON=/path/to/python, or install uv'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'this Python cannot make a venv: apt install python3-venv, or install uv'; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --only-binary :all: --requirement requirements.lock
endif
	@echo ../../../../src > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pgsched.pth"
	@printf '%s\n' '#!/bin/sh' 'exec "$$(dirname "$$(realpath "$$0")")/python" -m pgsched "$$@"' \
	  > $(VENV)/bin/pgsched
	@chmod +x $(VENV)/bin/pgsched
	@touch $@
