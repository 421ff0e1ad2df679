# `make demo` and `make test` do everything on a fresh machine: Python 3.11 or newer with venv is all they need.
PYTHON ?= python3
COMFYUI ?=

demo:  ## a picture and a table of what γ does; `make demo COMFYUI=~/ComfyUI` compares with a real ComfyUI too
	@python=$$($(PYTHON) -m lab.environment demo) && "$$python" -m lab.demo.gamma_sweep $(if $(COMFYUI),--comfyui "$(COMFYUI)")

test:  ## lint, types and all tests, with a ComfyUI host where one can be found
	@$(PYTHON) -m lab.run_tests

benchmark:  ## what the pack costs, as ratios; `make benchmark COMFYUI=~/ComfyUI` times whole sampling steps too
	@python=$$($(PYTHON) -m lab.environment $(if $(COMFYUI),test --host "$(COMFYUI)",demo)) && "$$python" -m lab.benchmarks $(if $(COMFYUI),--comfyui "$(COMFYUI)")

evidence:  ## every number, table and figure of docs/evidence.md, in about an hour on two cores; may be stopped and goes on; needs npm
	@python=$$($(PYTHON) -m lab.environment evidence) && "$$python" -m lab.evidence

figures:  ## which command makes which picture; `make figures NAMES="emblem sweep"` draws them anew, `NAMES=all` everything
	@$(if $(COMFYUI),COMFYUI_PATH="$(COMFYUI)") $(PYTHON) -m lab.figures $(NAMES)

.PHONY: demo test benchmark evidence figures
