# `make demo` and `make test` do everything on a fresh machine: Python 3.11 or newer with venv is all they need.
PYTHON ?= python3
COMFYUI ?=

demo:  ## a picture and a table of what γ does; `make demo COMFYUI=~/ComfyUI` compares with a real ComfyUI too
	@python=$$($(PYTHON) tools/environment.py demo) && "$$python" -m demo.gamma_sweep $(if $(COMFYUI),--comfyui "$(COMFYUI)")

test:  ## lint, types and all tests, with a ComfyUI host where one can be found
	@$(PYTHON) tools/run_tests.py

.PHONY: demo test
