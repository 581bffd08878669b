# `make help` lists what there is. Everything that CI runs is `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
CLUSTER ?= local

.PHONY: help setup check lint test demo demo-down images generate bench bench-gate cluster-up cluster-down clean-cache

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.venv/.complete: requirements/dev.lock pyproject.toml contracts/pyproject.toml operator/pyproject.toml images/engine/pyproject.toml images/node/pyproject.toml images/quantiser/pyproject.toml
	./scripts/setup

setup: .venv/.complete ## Make .venv from the lock

lint: setup ## Format, lint, types, layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# What is costly is built before pytest starts: there it can show its progress, and no test waits for it.
check: lint ## Lint, and every test that needs no root: unit, runtime, engine, chart, API server
	$(PYTHON) -m local_cluster build --only etcd,kube-apiserver,kubectl,helm,pause,web,registry
	$(PYTHON) -m torch_environments
	./scripts/quantiser-tests -n 2 -m "not long"
	$(PYTHON) -m pytest -m "not cluster and not images"

test: lint ## Everything CI runs: all tests, on the real local cluster too (root)
	$(PYTHON) -m local_cluster packages
	$(PYTHON) -m local_cluster build
	$(PYTHON) -m local_cluster free --wait 1800
	$(PYTHON) -m image_builder all
	$(PYTHON) -m torch_environments
	./scripts/quantiser-tests -n 2 -m "not long"
	$(PYTHON) -m pytest

demo: setup ## Local cluster, images, chart, examples/tiny.yaml, one chat completion (CLUSTER=kind: on kind)
	$(PYTHON) examples/demo.py --cluster $(CLUSTER)

demo-down: setup ## Stop the demo's cluster and leave nothing behind
	$(PYTHON) examples/demo.py --down --cluster $(CLUSTER)

images: setup ## Build the operator's and the CPU engine's image into the cache
	$(PYTHON) -m image_builder all

generate: setup ## Write what is generated: the CRD, its copy in the chart, the API reference
	./scripts/generate

bench: setup ## Make the figures of docs/performance.md (local cluster, root)
	$(PYTHON) benchmarks/operator_latency.py

bench-gate: setup ## Play every engine that the gate may meet 20 times, print its verdicts (5 min; CLOCK=real: hours)
	$(PYTHON) benchmarks/gate_verdicts.py --clock $(or $(CLOCK),virtual)

cluster-up: setup ## Start the local cluster and leave it running
	$(PYTHON) -m local_cluster up

cluster-down: setup ## Stop it and leave nothing behind
	$(PYTHON) -m local_cluster down

clean-cache: ## Remove everything costly that was built and kept (binaries, images, models)
	./scripts/clean-cache
