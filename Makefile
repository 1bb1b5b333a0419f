# The project's commands. `make help` lists them; everything runs from .venv, which `make install` keeps in step with the lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PROTO_SRC := $(shell find protos -name '*.proto')

.PHONY: help install lock run test unit lint format typecheck proto-lint generate generate-check wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

install: .venv/installed ## make .venv from requirements.lock (hashes checked) and the project itself in it

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "This Python lacks venv: install it (on Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## resolve pyproject.toml into requirements.lock again (hashes, no registry addresses)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --group dev pyproject.toml --output-file requirements.lock

clean: ## remove what the targets made
	rm -rf .venv .cache build dist third_party .mypy_cache .pytest_cache .ruff_cache .hypothesis
