# `make help` lists what there is. Everything that CI runs is `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
REPORTS := build/reports
PYTEST = $(PYTHON) -m pytest --fixture-times=$(REPORTS)/fixtures.jsonl
CLUSTER ?= local

.PHONY: help setup check lint test test-long test-builds programs demo demo-down images docs docs-serve generate bench bench-gate cluster-up cluster-down clean-cache

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.venv/.complete: requirements/dev.lock pyproject.toml contracts/pyproject.toml operator/pyproject.toml cli/pyproject.toml images/engine/pyproject.toml images/node/pyproject.toml images/quantiser/pyproject.toml
	./scripts/setup

setup: .venv/.complete ## Make .venv from the lock

lint: setup ## Format, lint, types, layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# What is costly is built before pytest starts: there it can show its progress, and no test waits for it.
check: lint ## Lint, types, layers, and the tests that need nothing built but helm (3 minutes)
	$(PYTHON) -m local_cluster build --only helm
	$(PYTEST) -n 3 --dist loadgroup -m check

# $(1) narrows what each step of pytest selects, $(2) the same for the quantiser's. $(3) is how many scenarios share the
# cluster: those of `make test` wait more than they compute, the long ones start real engines.
define test_steps
	mkdir -p $(REPORTS) && rm -f $(REPORTS)/*
	date +%s > $(REPORTS)/began
	$(PYTEST) -n 3 --dist loadgroup -m "not cluster and not images$(1)" --junitxml=$(REPORTS)/processes.xml
	./scripts/quantiser-tests -n 2 $(2) --junitxml=$(CURDIR)/$(REPORTS)/quantiser.xml
	$(PYTEST) -m "images and not cluster$(1)" --junitxml=$(REPORTS)/images.xml
	$(PYTEST) -n $(3) --maxschedchunk=1 -m "cluster and not alone$(1)" --junitxml=$(REPORTS)/cluster.xml
	$(PYTEST) -m "cluster and alone$(1)" --junitxml=$(REPORTS)/alone.xml
endef

test: lint test-builds ## Everything CI runs: all but the long tests, on the real local cluster too (root, 25 minutes)
	$(call test_steps, and not long,-m "not long",6)

test-long: lint test-builds ## Everything, every scenario with a real engine too; result in docs/measurements/tests.md
	$(PYTHON) -m local_cluster build --only karpenter,kwok
	$(call test_steps,,,2)
	$(PYTHON) hack/report_test_run.py $(REPORTS)/*.xml --record "make test-long" \
	    --seconds $$(( $$(date +%s) - $$(cat $(REPORTS)/began) ))

test-builds: setup ## Build what the tests need: programs, images, environments with torch (once; root)
	$(PYTHON) -m local_cluster packages
	$(MAKE) -j2 programs images
	$(PYTHON) -m local_cluster free --wait 1800
	$(PYTHON) -m torch_environments

programs: setup ## Build the local cluster's programs into the cache
	$(PYTHON) -m local_cluster build

demo: setup ## Local cluster, images, chart, examples/tiny.yaml, one chat completion (CLUSTER=kind: on kind)
	$(PYTHON) examples/demo.py --cluster $(CLUSTER)

demo-down: setup ## Stop the demo's cluster and leave nothing behind
	$(PYTHON) examples/demo.py --down --cluster $(CLUSTER)

# PUSH and the like are read from the environment, so that the shell takes them as they were typed.
images: setup ## Build the images for CPUs into the cache (CUDA=1: the engine for GPUs; PUSH=REGISTRY: build and push those for GPUs; BUILDER, TAG)
ifeq ($(strip $(PUSH)),)
	$(PYTHON) -m image_builder $(if $(CUDA),engine-cuda,all)
else
	$(PYTHON) -m image_builder.publish "$$PUSH" $(if $(BUILDER),--builder "$$BUILDER") $(if $(TAG),--tag "$$TAG")
endif

SITE := NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs
SITE_CONFIG := --config-file hack/documentation/mkdocs.yml

docs: setup ## Build the site of the documentation into build/site; it needs no internet
	$(SITE) build --quiet --strict $(SITE_CONFIG)
	@echo "open build/site/index.html"

docs-serve: setup ## Show the site at http://127.0.0.1:8000, and every change of a page at once
	$(SITE) serve $(SITE_CONFIG) --watch README.md

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
