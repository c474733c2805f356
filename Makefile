# `demo` installs what running needs into a virtual environment, `test` and `lint` the tools of development and the
# browser's driver too, all in the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check
RUN := $(VENV)/installed
DEV := $(VENV)/installed-dev
SOURCES := pyproject.toml constraints.txt memory/expire_span/kernels.c $(wildcard memory/expire_span/kernels/*.h)

.PHONY: demo test lint clean

# Train on short corridors, evaluate, and write the picture of what the agent remembers.
demo: $(RUN)
	rm -rf runs/demo
	$(BIN)/expirespan-train --env expirespan/CorridorShort-v0 $(DEMO) --out runs/demo
	$(BIN)/expirespan-evaluate runs/demo --sample --episodes 500 --timeline
	@echo
	@echo "Next: open runs/demo/timeline.png, then look into the agent's memory in the browser (Ctrl-C stops it):"
	@echo "    $(BIN)/tensorboard --logdir runs"

# A short ramp and a small budget, since corridors of 3 to 20 steps would fit into the default ones.
DEMO := --total-steps 300000 --ramp 2 --memory-budget 4

test: $(DEV)
	$(BIN)/pytest -n 2 --dist worksteal -rs

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# torch first and by its exact version: an open range takes gigabytes of CUDA.
define install
	@echo "Installing into $(VENV) (one to three minutes the first time, most of it PyTorch):"
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --quiet --constraint constraints.txt 'setuptools>=77'
	$(PIP) --constraint constraints.txt --no-build-isolation --config-settings editable_mode=strict --editable '$(PROJECT)'
endef

$(RUN): PROJECT := .
$(RUN): $(SOURCES)
	$(install)
	touch $@

$(DEV): PROJECT := .[dev,browser]
$(DEV): $(SOURCES)
	$(install)
	touch $(RUN) $@

clean:
	rm -rf $(VENV) build dist *.egg-info
