# GPU Lab. `make` alone lists what there is. Every target is one script; nothing is decided here.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python

# `make up ADDRESS=0.0.0.0 PORT=8080` overrides lab.yaml for that start.
ifdef ADDRESS
export GPULAB_ADDRESS := $(ADDRESS)
endif
ifdef PORT
export GPULAB_PORT := $(PORT)
endif

# The suites, cheapest first: the first failure should be the one that is quickest to understand.
FAST_SUITES := tests/test_architecture.py tests/test_docs.py tests/test_figures.py tests/unit tests/auth
SUITES := $(FAST_SUITES) tests/machine tests/contract tests/engine tests/images tests/hub tests/chaos tests/notebooks tests/browser tests/quickstart

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: up
up: ## everything, from a fresh clone to a hub that answers (ADDRESS= and PORT= override lab.yaml)
	@scripts/up.sh

.PHONY: down
down: ## stop the hub and all labs; homes, data and models stay
	@scripts/down.sh

.PHONY: restart
restart: ## stop and start the hub alone, e.g. after a change of lab.yaml; running labs go on
	@scripts/down.sh hub && scripts/up.sh

.PHONY: status
status: ## what runs
	@scripts/status.sh

.PHONY: logs
logs: ## the hub's last log lines (FOLLOW=1 goes on)
	@tail -n 200 $(if $(FOLLOW),-F) .lab/log/hub.log

.PHONY: setup
setup: ## venv, proxy, engine, image and data, but no hub
	@scripts/setup.sh

.PHONY: image
image: ## build the lab images where they are not current
	@scripts/setup.sh image

.PHONY: dev
dev: ## the packages for tests and lint
	@scripts/setup.sh dev

.PHONY: test
test: ## everything tested
	@scripts/test.sh $(SUITES)

.PHONY: test-fast
test-fast: dev ## what needs no engine, in under a minute
	@scripts/setup.sh proxy
	@scripts/test-fast.sh $(wildcard $(FAST_SUITES))

.PHONY: test-full
test-full: ## everything tested, with what is too slow for every day
	@GPULAB_TEST_FULL=1 scripts/test.sh $(SUITES)

.PHONY: lint
lint: dev ## style, types, shell, notebooks in step with their sources
	@scripts/lint.sh

.PHONY: bench
bench: setup ## measure this lab against plain JupyterHub, or OF=ledger|line|restart|load|notebooks; writes bench/results (ARGS= has options)
	@$(PY) -m bench$(if $(OF),.$(OF)) $(ARGS)

.PHONY: lock
lock: dev ## refresh every lock: host packages, images, proxy
	@scripts/lock.sh

.PHONY: clean
clean: ## remove containers, network, images, .venv and caches; homes, data and secrets stay
	@scripts/clean.sh

.PHONY: clean-all
clean-all: ## clean, and delete everybody's homes, data and secrets too (asks first)
	@scripts/clean.sh all
