# Everything runs from .venv, which is made once and again when pyproject.toml changes.
# Needs on a bare Debian 12: git, make, python3, python3-venv.

PYTHON ?= python3
# a federation keeps to what it began on, so that each kind has a directory of its own
STATE ?= federation$(if $(ENGINES),-engines)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run install dev lint check test long compat differential interop faults model mutants chaos isolated bench bench-engines bench-index bench-purge bench-revoke bench-scale bench-turn bench-drift golden docs clean

BIN := .venv/bin
# pip compiles nothing while it installs: Python does it at first import, for what is imported
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --prefer-binary
SERVERS := .venv/.servers
ALL := .venv/.all
PARALLEL := -n 2
# what tests write lies in memory where there is room for it: they wait for many an fsync elsewhere
MEMORY := $(if $(TMPDIR),,$(if $(shell .ci/memory),TMPDIR=$(shell .ci/memory)))
# the rest, `make test` runs as well: with more workers than cores, since they wait for processes most of the time
FAST := tests/language tests/site tests/architecture --ignore tests/architecture/test_contracts.py
RUN := $(BIN)/rkctl tour --state $(STATE)

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SERVERS) ## a controller and three regions, with the guided tour; ONCE=1 ends after it, ENGINES=1 on real engines
	@$(RUN) $(if $(ONCE),--once) $(if $(PORT),--port $(PORT)) $(if $(ENGINES),--engines)

install: $(SERVERS) ## .venv with the servers, rkctl and the stock clients of the tour

dev: $(ALL) ## .venv with everything for working on it

lint: $(ALL) ## lint, format, types, import contracts, spelling
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo | tail -n 1
	$(BIN)/codespell

check: lint ## the same and the fast tests: about two minutes
	$(BIN)/pytest -q $(PARALLEL) -m "not federation and not compat" $(FAST)

test: $(ALL) ## the whole suite
	@$(BIN)/rkctl engines install --if-allowed
	@$(BIN)/python -m tests.packages
	$(MEMORY) $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder --durations=30 --durations-min=10

long: $(ALL) ## what has a shorter sibling in the suite: more steps in clusters, without memory, more ways to start
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder --long -m long

compat: $(ALL) ## OpenStack's own 138 tests of the Identity API at a controller and at a site, and who answered; downloads tempest
	@$(BIN)/python -m tests.compat.tempest

differential: $(ALL) ## the real Keystone and ours, asked the same: cells, equal, divergences; ONLY=users SAMPLE=300 WORKERS=4 SHOW=crash
	@$(BIN)/python -m tests.differential $(if $(ONLY),--only $(ONLY)) $(if $(SAMPLE),--sample $(SAMPLE)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(SHOW),--show $(SHOW))

interop: $(ALL) ## key directories and tokens beside a real Keystone, which reads ours in a loop or turns the keys itself; SHORT=1 ONLY=reader
	@$(BIN)/python -m tests.interop $(if $(SHORT),--short) $(if $(ONLY),--only $(ONLY))

faults: $(ALL) ## break a federation for 30 minutes and judge what its clients saw; SECONDS=120 SEED=7 EMBEDDED=1
	@$(BIN)/python -m tests.faults $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(EMBEDDED),--embedded)

model: $(ALL) ## keys and revocation under a seeded scheduler, judged at each of 10^6 steps of both; AREA=revocation SEED=7 STEPS=20000
	@$(BIN)/python -m tests.model $(if $(AREA),--area $(AREA)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED))

mutants: $(ALL) ## break each rule and see which test notices; AREA=revocation ONLY=lock-trusted
	@$(BIN)/python -m tests.mutants $(if $(AREA),--area $(AREA)) $(ONLY)

chaos: $(ALL) ## turn the keys 200 times with as many kill -9, load on; no good token may be refused; TURNS=20 SEED=7
	@$(BIN)/python -m tests.chaos $(if $(TURNS),--turns $(TURNS)) $(if $(SEED),--seed $(SEED))

isolated: $(ALL) ## a site alone for 72 simulated hours, then 100,000 events to be caught up; EVENTS=5000
	@EVENTS=$(or $(EVENTS),100000) LEAP_HOURS=1 $(BIN)/pytest -q -n 0 -rP --show-capture=stdout tests/scenarios/test_isolated_for_72_hours.py

bench: $(ALL) ## CPU per validation beside a static answer of the same size
	$(BIN)/python -m tests.bench.bench_validate $(if $(SHORT),--smoke)

bench-engines: $(ALL) ## appends, changes and validations on real engines, alive and dead; WRITE=1 keeps the page
	$(BIN)/python -m tests.bench.bench_engines $(if $(SHORT),--smoke) $(if $(WRITE),--write docs/performance.md)

bench-index: $(ALL) ## live revocations, with 0, 10^5 and 10^6; ONLY='memory start cost missed' MISSED=10000, WRITE=1 keeps the page
	$(BIN)/python -m tests.bench.bench_index $(if $(SHORT),--smoke) $(if $(ONLY),--only '$(ONLY)') \
		$(if $(MISSED),--missed $(MISSED)) \
		$(if $(WRITE),--write docs/performance.md)

bench-purge: $(ALL) ## until stock services turn away 10,000 tokens that ended, by strategy and cause; STRATEGY=MAC
	$(BIN)/python -W ignore -m tests.bench.bench_purge $(if $(SHORT),--smoke) $(if $(STRATEGY),--strategy $(STRATEGY))

bench-revoke: $(ALL) ## from the 204 of a revocation to the first refusal; ONLY='near apart many burst', SHORT=1, WRITE=1 keeps the page
	$(BIN)/python -m tests.bench.bench_revoke $(if $(SHORT),--smoke) $(if $(ONLY),--only '$(ONLY)') $(if $(WRITE),--write docs/performance.md)

bench-scale: $(ALL) ## lists and a great deletion among 100,000 users, on both stores; ONLY=sqlite, WRITE=1 keeps the page
	$(BIN)/python -m tests.bench.bench_scale $(if $(SHORT),--smoke) $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write docs/scale.md)

bench-turn: $(ALL) ## from a turn of the keys to the last acknowledgement of 50 sites; SITES=100 TURNS=3
	$(BIN)/python -m tests.bench.bench_turn $(if $(SHORT),--smoke) $(if $(SITES),--sites $(SITES)) $(if $(TURNS),--turns $(TURNS))

bench-drift: $(ALL) ## until a row changed by hand in a site's replica is put right, and the bytes it takes; ROWS='10000 1000000'
	$(BIN)/python -m tests.bench.bench_drift $(if $(SHORT),--smoke) $(if $(ROWS),--rows $(ROWS))

golden: $(ALL) ## write everything derived again; read the diff
	$(BIN)/python -m tests.golden
	GOLDEN=1 $(BIN)/pytest -q tests/site/test_metrics.py

docs: golden ## the generated pages

clean: ## remove what was built; a federation's data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "python3-venv is needed: apt-get install python3-venv" >&2; exit 2; }

$(SERVERS): pyproject.toml | .venv/bin/python
	@echo "installing the servers and the stock clients into .venv (waiting for packages)"
	@$(PIP) -e '.[speed,tour]'
	@touch $@

$(ALL): pyproject.toml | .venv/bin/python
	@echo "installing everything for development into .venv (waiting for packages)"
	@$(PIP) -e '.[dev]'
	@touch $(SERVERS) $@
