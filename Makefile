# Every target makes its own virtual environment first, with the versions in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test lint clean

# Train on short corridors, evaluate, and write the picture of what the agent remembers.
demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/expirespan-train --env expirespan/CorridorShort-v0 $(DEMO) --out runs/demo
	$(BIN)/expirespan-evaluate runs/demo --sample --episodes 500 --timeline

# A short ramp and a small budget, since corridors of 3 to 20 steps would fit into the default ones.
DEMO := --total-steps 300000 --ramp 2 --memory-budget 4

test: $(INSTALLED)
	$(BIN)/pytest -n 2 -rs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# torch first and by its exact version: an open range takes gigabytes of CUDA.
$(INSTALLED): pyproject.toml constraints.txt memory/kernels.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt 'setuptools>=77'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --config-settings editable_mode=strict --editable '.[dev,browser]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
