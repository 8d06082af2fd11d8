# osworld-env. `make demo` shows it, `make test` proves it; both install what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PACKAGES := scripts/packages-desktop.txt
PROGRAMS := scripts/packages-programs.txt
VM := scripts/packages-qemu.txt
CLUSTER := scripts/packages-cluster.txt
NODES := scripts/packages-nodes.txt
PROVIDERS := scripts/packages-providers.txt
BENCH := scripts/packages-bench.txt
CHAOS := scripts/packages-chaos.txt
CODE := contract client envpod guest router node operator tests benchmarks

.PHONY: help setup setup-all setup-vm setup-cluster setup-nodes setup-providers demo test crd lint unit service programs vm providers cluster nodes cluster-up chart chaos soak long bench clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## install what the demo needs
	@scripts/setup packages $(PACKAGES)
	@scripts/setup venv
	@scripts/setup runtimes

setup-all: setup ## install what the tests need
	@scripts/setup packages $(PROGRAMS)
	@scripts/setup sshd

setup-vm: setup ## install QEMU and build the virtual machines' image
	@scripts/setup packages $(VM)
	@scripts/setup image

setup-cluster: setup ## build the programs of a real control plane
	@scripts/setup packages $(CLUSTER)
	@nice scripts/setup cluster

setup-nodes: setup-cluster ## what two real nodes run, and their images
	@scripts/setup packages $(NODES)
	@nice scripts/setup nodes

setup-providers: setup ## Docker's engine and a small image, for tests of desktop-env's providers
	@scripts/setup packages $(PROVIDERS)
	@scripts/setup small-guest
	@scripts/setup moto
	@scripts/setup registry

demo: $(if $(filter qemu,$(PROVIDER)),setup-vm,setup) ## two desktops, a router, one real OSWorld task played to its score
	@$(BIN)/osworld-env demo

crd: ## write crds/ from the models of the contract
	$(BIN)/python -m osworld_operator.crd

lint: ## ruff, mypy, import-linter
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports

unit: ## tests without I/O
	$(BIN)/pytest tests/unit

service: ## real processes and desktops on loopback
	$(BIN)/pytest tests/service

programs: ## real programs (LibreOffice, GIMP, VLC, Chromium) scored by OSWorld
	$(BIN)/pytest tests/programs

vm: setup-vm ## real virtual machines: fork, revert, and every way to break one
	$(BIN)/pytest tests/vm

providers: setup-providers ## desktop-env's providers: a real Docker engine with a small guest (root)
	$(BIN)/pytest tests/providers

cluster: setup-cluster ## the operator and its resources at a real API server
	$(BIN)/pytest tests/cluster

nodes: setup-nodes setup-vm ## two real nodes in namespaces of this machine, power cuts included (root)
	$(BIN)/pytest tests/nodes

cluster-up: setup-nodes ## the same two nodes to play with, until Ctrl-C (root)
	@$(BIN)/python tests/nodes/up.py

chart: setup-cluster ## the chart: lint, schema, what it renders, alerts
	$(BIN)/pytest tests/chart

chaos: setup ## episodes while parts of the pool are killed or cut off: no wrong score, no hung call
	@scripts/setup packages $(CHAOS)
	$(BIN)/pytest tests/chaos

soak: setup ## half an hour of episodes while parts are killed: memory, files, processes flat (SOAK_MINUTES)
	$(BIN)/python tests/chaos/soak.py

long: setup-vm setup-nodes ## long forms of tests: 200 forks in a row, twice 200 episodes under chaos, 200 on real nodes (root)
	@scripts/setup packages $(CHAOS)
	$(BIN)/pytest -m long tests/vm tests/chaos
	$(BIN)/pytest -m long tests/nodes

test: ## every rung, from nothing to a verdict
	@scripts/test

bench: setup ## benchmarks with their baselines
	@scripts/setup packages $(BENCH)
	$(BIN)/python -m benchmarks

clean: ## remove what the checkout's tools made (caches outside of it stay)
	rm -rf .venv out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
