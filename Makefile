# Every command makes its own environment on a fresh machine; Python 3.11 or newer with venv is all they need.
PYTHON ?= python3
COMFYUI ?=
TORCH ?=
FILE ?=
SHEET ?=

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

setup:  ## the environment of the tests, and the hook that lints before a commit
	@python=$$($(PYTHON) -m lab.environment test) && "$$python" -m pre_commit install

lint:  ## style, format and types; half a minute
	@$(PYTHON) -m lab.run_tests lint

check:  ## what to run before a commit: lint, types, the core, the web files; two minutes
	@$(PYTHON) -m lab.run_tests check

test-host:  ## what to run before a pull request: the newest ComfyUI
	@$(PYTHON) -m lab.run_tests host

demo:  ## a picture and a table of what γ does; `make demo COMFYUI=~/ComfyUI` compares with a real ComfyUI too
	@python=$$($(PYTHON) -m lab.environment demo) && "$$python" -m lab.demo.gamma_sweep $(if $(COMFYUI),--comfyui "$(COMFYUI)")

test:  ## what to run before a release: all tests, on the newest and the oldest ComfyUI, the server and the browser
	@$(PYTHON) -m lab.run_tests

test-torch:  ## the core and torch.compile on older PyTorch; `make test-torch TORCH=2.11.0` for one version
	@$(PYTHON) -m lab.run_tests torch $(if $(TORCH),--torch "$(TORCH)")

test-all:  ## what a nightly runs: also sub-quadratic attention and older PyTorch
	@$(PYTHON) -m lab.run_tests all

benchmark:  ## what the pack costs, as ratios; `make benchmark COMFYUI=~/ComfyUI` times whole sampling steps too
	@python=$$($(PYTHON) -m lab.environment $(if $(COMFYUI),test --host "$(COMFYUI)",demo)) && "$$python" -m lab.benchmarks $(if $(COMFYUI),--comfyui "$(COMFYUI)")

benchmark-gpu:  ## what the pack costs on a graphics card, in 4 minutes; needs COMFYUI= and a Python that runs it on the card
	@"$(PYTHON)" -m lab.benchmarks.gpu --comfyui "$(COMFYUI)" --write

evidence:  ## the headline of docs/evidence.md drawn anew in an hour on two cores; OPTIONS=--all draws everything, OPTIONS=--short a slice
	@$(if $(COMFYUI),COMFYUI_PATH="$(COMFYUI)") python=$$($(PYTHON) -m lab.environment test) && "$$python" -m lab.testbed.evidence $(OPTIONS)

evidence-emoji:  ## every number, table and figure of docs/evidence_emoji.md, in about an hour on two cores; may be stopped and goes on; needs npm
	@python=$$($(PYTHON) -m lab.environment evidence) && "$$python" -m lab.evidence

evidence-add:  ## check a trial that somebody sent in; `make evidence-add FILE=own.trial.json` makes it a row of docs/checkpoints.md
	@python=$$($(PYTHON) -m lab.environment demo) && "$$python" -m lab.evidence.add "$(FILE)" $(if $(SHEET),--sheet "$(SHEET)")

figures:  ## which command makes which picture; `make figures NAMES="emblem sweep"` draws them anew, `NAMES=all` everything
	@$(if $(COMFYUI),COMFYUI_PATH="$(COMFYUI)") $(PYTHON) -m lab.figures $(NAMES)

.DEFAULT_GOAL := help
.PHONY: help setup lint check test-host demo test test-torch test-all benchmark benchmark-gpu evidence evidence-emoji evidence-add figures
