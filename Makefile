.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# uv from the PATH if it runs, or one of our own in .tools: a system's Python often refuses pip outside a virtual
# environment.
OWN_UV := .tools/bin/uv
UV := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),$(OWN_UV))
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# Behind a company's proxy the certificate that counts is in the system's store.
export UV_SYSTEM_CERTS ?= 1
INSTALLED := .venv/.installed
BIN := .venv/bin
WORKERS ?= auto
ARGS ?=

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: run
run: $(INSTALLED) ## install everything and serve, with a PostgreSQL of its own unless LEDGER_DATABASE_URL names one
	@exec $(BIN)/contract-ledger serve $(ARGS)

.PHONY: install
install: $(INSTALLED) ## install everything into .venv

.PHONY: test
test: $(INSTALLED) ## the tests: make test ARGS="-k append", WORKERS=0 for one process
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

.PHONY: check
check: format-check lint types imports drift breaking coverage ## everything a change has to pass
	@echo "All checks passed."

.PHONY: format-check
format-check: $(INSTALLED)
	$(BIN)/ruff format --check --diff .

.PHONY: lint
lint: $(INSTALLED) ## style, Dockerfile and lock file
	$(BIN)/ruff check .
	$(BIN)/hadolint Dockerfile
	"$(UV)" lock --check

.PHONY: types
types: $(INSTALLED)
	$(BIN)/mypy

.PHONY: imports
imports: $(INSTALLED) ## dependencies point one way
	$(BIN)/lint-imports

.PHONY: drift
drift: $(INSTALLED) ## openapi.yaml, schemas/, docs/events.md and docs/operations.md are what the code says, and what was published stays
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
	$(MAKE) --no-print-directory generate INTO="$$made"; \
	if ! diff -u openapi.yaml "$$made/openapi.yaml" || ! diff -ru schemas "$$made/schemas" || \
	   ! diff -u docs/events.md "$$made/docs/events.md" || ! diff -u docs/operations.md "$$made/docs/operations.md"; then \
	  echo "The code says something else than openapi.yaml, schemas/, docs/events.md or docs/operations.md: run 'make generate' and commit what it writes." >&2; exit 1; \
	fi

# A clone without tags (as CI's may be) has nothing to compare with, and says so.
.PHONY: breaking
breaking: $(INSTALLED) ## nothing breaks a client of the openapi.yaml of the last tag v*
	@tag=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true); \
	if [ -z "$$tag" ]; then echo "No tag v* is an ancestor of what is checked out: no client to break."; \
	else echo "Since $$tag:" && git show "$$tag:openapi.yaml" | $(BIN)/contract-ledger openapi --since /dev/stdin; fi

.PHONY: coverage
coverage: $(INSTALLED) ## the tests, with coverage reported
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term $(ARGS)

# Written whole and then moved, so that a failure leaves the old file.
INTO ?= .
.PHONY: generate
generate: $(INSTALLED) ## write openapi.yaml, schemas/, docs/events.md and docs/operations.md from the code
	$(BIN)/contract-ledger openapi > $(INTO)/openapi.yaml.draft
	mv $(INTO)/openapi.yaml.draft $(INTO)/openapi.yaml
	$(BIN)/contract-ledger schemas $(INTO)/schemas
	mkdir -p $(INTO)/docs
	$(BIN)/contract-ledger events > $(INTO)/docs/events.md.draft
	mv $(INTO)/docs/events.md.draft $(INTO)/docs/events.md
	$(BIN)/contract-ledger operations > $(INTO)/docs/operations.md.draft
	mv $(INTO)/docs/operations.md.draft $(INTO)/docs/operations.md

# By the wheel of openapi-generator, whose programs are Java's, and by npm's openapi-typescript.
.PHONY: clients
clients: $(INSTALLED) ## make the clients in Python, TypeScript, Go and Java, and types, in build/clients: see docs/clients.md
	rm -rf build/clients
	$(BIN)/openapi-generator-cli batch --fail-fast --root-dir . clients/*.yaml
	npm exec --yes --package=openapi-typescript@7.13.0 --package=typescript@5.9.3 -- \
	  openapi-typescript openapi.yaml --output build/clients/types/ledger.d.ts

.PHONY: format
format: $(INSTALLED) ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(INSTALLED) ## measure this machine
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-replay
bench-replay: $(INSTALLED) ## measure replays of 5,000,000 events, about half an hour: ARGS="--events 100000" for less
	$(BIN)/python -m benchmarks replay --events 5000000 $(ARGS)

# --locked: an install never changes the lock.
$(INSTALLED): pyproject.toml uv.lock | $(filter $(OWN_UV),$(UV))
	"$(UV)" sync --locked
	@touch $@

$(OWN_UV):
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet uv
