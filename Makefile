# Tastemaker: `make demo` runs the whole loop on this machine, `make test` passes every test.
.PHONY: help demo test lint install unit integration e2e chaos audit chromium clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# one process a core, one thread a process: threads that wait for each other on a busy core cost more than they save
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(STAMP)  ## install, start everything on this machine and print one URL to open
	@exec $(BIN)/tastemaker demo

install: $(STAMP)  ## make the virtual environment and install the pinned packages

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Tastemaker needs Python 3.11 or newer; '$(PYTHON)' is missing or older. Try: make PYTHON=python3.11 demo"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@test "$$(df -Pk . | awk 'NR==2 {print $$4}')" -gt 9000000 || \
	  { echo "Less than 9 GB of disk are free here; the packages (PyTorch above all) need that much. Free some and run make again."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(STAMP): requirements/web.in requirements/worker.in requirements/constraints.txt pyproject.toml | $(BIN)/python
	@echo "Installing packages (PyTorch is large: this takes a few minutes the first time) ..."
	@$(PIP) install -c requirements/constraints.txt -r requirements/worker.in
	@$(PIP) install --no-deps -e .
	@touch $@

$(DEV_STAMP): requirements/dev.in requirements/constraints.txt $(STAMP)
	@$(PIP) install -c requirements/constraints.txt -r requirements/dev.in
	@touch $@

test: $(DEV_STAMP) chromium lint  ## lint, then unit, integration and browser tests
	@$(PYTEST)

lint: $(DEV_STAMP)  ## ruff, mypy --strict, import rules, Dockerfiles, compose file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint app/Dockerfile worker/Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

unit: $(DEV_STAMP)  ## unit tests only
	@$(PYTEST) tests/unit tests/test_architecture.py

integration: $(DEV_STAMP)  ## integration tests only
	@$(PYTEST) tests/integration

e2e: $(DEV_STAMP) chromium  ## browser tests only
	@$(PYTEST) tests/e2e

chaos: $(DEV_STAMP)  ## thirty kills of random parts at random moments (long)
	@TASTEMAKER_CHAOS_ROUNDS=30 TASTEMAKER_CHAOS_REPORT=$(CURDIR)/benchmarks/results/chaos.json $(BIN)/pytest -q tests/chaos

chromium: $(DEV_STAMP)
	@command -v chromium >/dev/null 2>&1 || test -d $(HOME)/.cache/ms-playwright || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests ..."; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null; \
	  else $(BIN)/playwright install chromium; fi; }

audit: $(BIN)/python  ## known vulnerabilities of the pinned packages (asks PyPI)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip --disable-pip-version-check --quiet install pip-audit==2.10.1
	@$(VENV)/audit/bin/pip-audit --requirement requirements/constraints.txt --no-deps --disable-pip --strict

clean:  ## remove the virtual environment and caches; data stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
