# Everything here sets up what it needs in .venv first; Python 3.11 to 3.13, pip and make are all
# that the machine has to have. `make PYTHON=python3.12 ...` takes another Python.
.DEFAULT_GOAL := help
.PHONY: help demo cluster cluster-down test test-full test-browser check bench soak lock clean
.NOTPARALLEL:

SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(SUITABLE)' 2>/dev/null && echo "$$python" && break; done)
VENV := .venv/bin
SETUP = @test -n "$(PYTHON)" || { echo 'nbtrain needs Python 3.11 to 3.13' >&2; exit 1; }; \
	"$(PYTHON)" tools/environment.py

help:  ## Show what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo:  ## Train the digits notebook on two workers and check what comes out
	$(SETUP) demo
	@$(VENV)/python tools/demo.py

cluster:  ## Boot a Kubernetes of two nodes for trying and testing, or say that it is up
	$(SETUP) dev
	@$(VENV)/python -m tests.cluster up

cluster-down:  ## End it and leave nothing behind
	$(SETUP) dev
	@$(VENV)/python -m tests.cluster down

test:  ## Run all checks and tests (those marked `full` where CI is set)
	$(SETUP) dev
	@$(VENV)/python tools/test.py

test-full:  ## Run all checks and all tests
	$(SETUP) dev
	@CI=true $(VENV)/python tools/test.py

test-browser:  ## Run the tests of the front end in Chromium (which has to be there, and node)
	$(SETUP) dev
	@$(VENV)/python tools/test.py --browser

check:  ## Run the checks alone: ruff, mypy, the layers, the notebooks
	$(SETUP) dev
	@$(VENV)/python tools/test.py --checks

bench:  ## Run the benchmarks and write docs/benchmarks.md
	$(SETUP) demo
	@$(VENV)/python -m benchmarks

soak:  ## Train 200 runs with faults at random moments, and write docs/soak.md
	$(SETUP) dev
	@$(VENV)/python -m tests.soak --runs 200 --report docs/soak.md

lock:  ## Resolve pyproject.toml anew into requirements/ (needs uv)
	tools/lock.sh --upgrade

clean:  ## Remove what make has set up
	rm -rf .venv .bootstrap .demo dist
