# make lab opens the course, make test checks everything. Each sets up .venv by itself the first
# time (several gigabytes, most of it PyTorch) and starts at once after that: see start.py.

PYTHON ?= python3
BIN := .venv/bin
START := $(PYTHON) start.py

# One thread adds floats in one order, so that outputs do not depend on the number of cores.
# `make lab` leaves the number to PyTorch: all cores.
test-fast notebooks: export OMP_NUM_THREADS := 1

# A check that passes in a test is nobody's progress.
test-fast notebooks: export FBNET_LESSON_PROGRESS := off

.PHONY: help lab test test-fast lint notebooks weights lock clean

help:
	@echo "make lab        open the course in JupyterLab"
	@echo "make test       everything: lint, tests, outputs and budgets of all notebooks; no network"
	@echo "make test-fast  the quick tests, in a few minutes"
	@echo "make lint       ruff"
	@echo "make notebooks  build notebooks/ and solutions/*.ipynb from solutions/*.py"
	@echo "make weights    train the shipped weights anew (16 minutes)"
	@echo "make lock       resolve locks/ anew from pyproject.toml (needs uv)"
	@echo "make clean      remove caches and build folders; keeps .venv and runs/"

lab:
	@$(START) lab

test:
	@$(START) test

test-fast:
	@$(START) setup pretrained test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" tests

lint:
	@$(START) setup pretrained test
	$(BIN)/ruff check .

notebooks:
	@$(START) setup
	$(BIN)/python -m fbnet_lesson build

# About a quarter of an hour on 2 cores. Other processors round differently: other weights, like AP.
weights:
	@$(START) setup
	$(BIN)/fbnet-lesson train --data shapes --iterations 3600 --out runs/mask_rcnn_tiny_shapes
	cp runs/mask_rcnn_tiny_shapes/model.safetensors data/weights/mask_rcnn_tiny_shapes.safetensors

lock:
	$(PYTHON) locks/make.py --upgrade

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find fbnet_lesson tests solutions notebooks \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
