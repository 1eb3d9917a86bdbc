# Every target does all the set-up it needs; bare `make` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
STAMP  := $(VENV)/.installed
TRITON_36 := build/triton-3.6.0
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test check-long lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

NATIVE := setup.py $(wildcard kernels/native/*.cpp kernels/native/*.inl)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit("superserve needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## make the virtual environment .venv and install everything into it

serve: $(STAMP) ## serve the embedded supernet on http://127.0.0.1:8000 (PORT=...)
	$(BIN)/superserve serve --supernet digits --port $(PORT)

demo: $(STAMP) ## calm, burst, calm against the embedded supernet, live in the terminal
	$(BIN)/superserve demo

test: $(STAMP) ## run the functional tests (under 15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

check-long: $(STAMP) ## run what takes minutes: hundreds of subnets against the ofa package...
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long
	$(BIN)/python -m kernels.audit --write
	test -d $(TRITON_36)/triton || $(BIN)/python -m pip install --quiet --no-deps --target $(TRITON_36) triton==3.6.0
	$(BIN)/python -m kernels.audit --write --triton $(TRITON_36)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff format the code and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## run the benchmarks; tables on the screen, JSON under benchmarks/results
	$(BIN)/python -m benchmarks.actuation
	$(BIN)/python -m benchmarks.forward

.PHONY: gpu-check
GPU_PYTHON = $(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON))
gpu-check: ## on a GPU: check every kernel and subnet, then time them; without a network, in 9 minutes
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) -m benchmarks.gpu $(GPU_FLAGS)

# What a machine with PyTorch and Triton usually lacks for the whole server and its load.
GPU_PACKAGES ?= fastapi uvicorn uvloop httptools python-multipart httpx orjson pillow simplejpeg typer rich \
	safetensors locust scipy matplotlib
GPU_PYTHON_VERSION ?= 3.12
WHEELS := build/wheels
GPU_VENV := build/gpu-venv
GPU_SERVER = $(if $(wildcard $(STAMP)),$(BIN)/python,$(GPU_VENV)/bin/python)

.PHONY: gpu-wheels gpu-experiment
gpu-wheels: ## with a network: fetch the wheels that a GPU machine without one needs for the server
	$(PYTHON) -m pip download --quiet --dest $(WHEELS) --only-binary :all: --python-version $(GPU_PYTHON_VERSION) \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-c constraints.txt $(GPU_PACKAGES)

gpu-experiment: ## on a GPU: profile, throughput range, policies under load on the whole server; without a network
	test -e $(STAMP) || test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv --system-site-packages $(GPU_VENV)
	test -e $(STAMP) || $(GPU_VENV)/bin/python -m pip install --quiet --no-index --find-links $(WHEELS) $(GPU_PACKAGES)
	test -e $(STAMP) || $(GPU_VENV)/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation -e .
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_SERVER) -m benchmarks.gpu.serving $(GPU_FLAGS)

.PHONY: experiments
experiments: $(STAMP) ## the live experiments of docs/experiments.md: an hour on an idle machine
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[peers]'
	$(BIN)/python -m benchmarks.live --docs docs/experiments.md --reports docs/live

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
