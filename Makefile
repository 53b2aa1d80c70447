# `make run` sets up and runs the example, `make test` sets up and tests. Set-up needs Python 3.11 and make, no more.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup services run signup test lint bench crash crash-planted docs pictures clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.dev
CASE ?=
RESUME ?=
SPLIT ?=
PURCHASES ?=
FAULTS ?=
ENGINE ?=
STORE ?=
STOP ?=
SECONDS ?= 120
SEED ?=

CORE_TESTS := tests/premortem tests/protection tests/test_failing.py tests/test_mending.py tests/test_operate.py \
  tests/test_operate_groups.py tests/test_operation.py tests/test_parking_lot.py tests/test_redriving.py \
  tests/test_rehearsal.py tests/test_schedules.py

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with all pinned packages (every other command sets up what it needs by itself)

$(VENV)/bin/python:
	@for each in $${PYTHON:-} python3.11 python3.12 python3.13 python3; do \
	  if "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$each"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=…" >&2; exit 2; fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)

$(VENV)/.%: requirements/%.txt $(wildcard requirements/*.txt) pyproject.toml | $(VENV)/bin/python
	@echo "installing what $< lists into $(VENV): once, about a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

services: $(READY)  ## install what is missing and start PostgreSQL, PgBouncer and Apache Kafka on loopback (STOP=1 stops them)
	@$(BIN)/python -m services $(if $(STOP),stop,start)

# A name of one of our own servers, or a URL, becomes an option of the replay; without one, or for sqlite, there is none.
place = $(if $(filter-out sqlite,$(2)),--$(1) "$$($(if $(findstring :,$(2)),echo '$(2)',$(BIN)/python -m services url $(2)))")

run: $(VENV)/.run  ## set up and run the shop on 69,659 real purchases (ENGINE=kafka STORE=postgres SPLIT=1 FAULTS=1 RESUME=1 PURCHASES=1500)
	@places=(); places+=($(call place,engine,$(ENGINE)) $(call place,store,$(STORE))); \
	cd examples/shop && "$(CURDIR)/$(BIN)/python" -m replay $${places[@]+"$${places[@]}"} \
	  $(if $(RESUME),--resume) $(if $(SPLIT),--split) $(if $(FAULTS),--faults) $(if $(PURCHASES),--purchases $(PURCHASES))

signup: $(VENV)/.run  ## set up and run examples/signup: the smallest one
	@$(BIN)/python examples/signup/app.py

test: $(READY) lint  ## set up and run all checks and tests, on all cores (CI=true installs the servers and needs them all)
	@$(if $(CI),$(BIN)/python -m services install)
	@$(BIN)/python -m pytest --numprocesses "$$($(BIN)/python -c 'import os; print(3 * os.cpu_count() // 2)')" --dist loadfile -m "not alone"
	@$(BIN)/python -m pytest -m alone

test-postgres: $(READY)  ## the tests of the core once more, with their stores on PostgreSQL (a quarter of an hour)
	@TEST_STORE=postgres $(BIN)/python -m pytest $(CORE_TESTS) --ignore tests/premortem/test_storm.py

lint: $(READY)  ## style and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.bench  ## measure all cases (twenty minutes) and write docs/bench.md; make bench CASE=publish-1000 measures one
	@$(BIN)/python -m bench $(CASE)

crash: $(READY)  ## harm a program of services for two minutes, and prove what it kept (ENGINE=kafka STORE=postgres FAULTS=300 SEED=7)
	@$(BIN)/python -m tests.crash $(if $(ENGINE),--engine $(ENGINE)) $(if $(STORE),--store $(STORE)) --seconds $(SECONDS) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

crash-planted: $(READY)  ## the same with one bug planted at a time: the lab has to find each (ENGINE=postgres STORE=postgres)
	@$(BIN)/python -m tests.crash --all-planted $(if $(ENGINE),--engine $(ENGINE)) $(if $(STORE),--store $(STORE))

docs: $(READY)  ## build the site into build/docs, warnings as errors, and follow its links
	@$(BIN)/python docs/_site/readme_figures.py
	@$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going -q -E -d build/docs-trees docs build/docs
	@$(BIN)/python docs/_site/links.py build/docs
	@echo "open build/docs/index.html"

pictures: $(VENV)/.pictures  ## make the pictures of the docs from the texts beside them
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/_site/pictures.py

clean:  ## remove what the commands above made
	@if [ -d .services ] && [ -x $(BIN)/python ]; then $(BIN)/python -m services wipe; fi
	@rm -rf .services $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis examples/*/.evenflow
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
