# Everything here sets itself up: Python 3.11 or later, make and pip are enough.

PYTHON ?= python3
# Which PyTorch: set PIP_EXTRA_INDEX_URL for a build without CUDA, or TORCH='torch==2.12.*' for a version.
TORCH ?= torch>=2.10,<2.14
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs gpu clean

demo: $(VENV)/.demo
	$(BIN)/bytequilt train demo

test: $(VENV)/.dev
	$(BIN)/ruff check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The pages of docs/ as a site, in build/site; the command reference is written first.
docs: $(VENV)/.dev
	$(BIN)/python docs/commands.py
	$(BIN)/python -m mkdocs build --strict

# All that needs a GPU: its tests, and measurements of training and decoding, written to runs/gpu.
gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.demo: EXTRAS := train,plot
$(VENV)/.dev: EXTRAS := all,dev

# PyTorch first and by itself, so that nothing installed after it brings a second build.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@
