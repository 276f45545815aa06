# make lab opens the course, make test checks everything. Each sets up .venv by itself the first
# time (several gigabytes, most of it PyTorch) and starts at once after that.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
NOTEBOOKS = $(wildcard notebooks/*.ipynb solutions/*.ipynb)

# One thread adds floats in one order, so that outputs do not depend on the number of cores.
# `make lab` leaves the number to PyTorch: all cores.
test test-fast notebooks: export OMP_NUM_THREADS := 1

# A check that passes in a test is nobody's progress.
test test-fast notebooks: export FBNET_LESSON_PROGRESS := off

.PHONY: help lab test test-fast lint notebooks weights lock clean

help:
	@echo "make lab        open the course in JupyterLab"
	@echo "make test       everything: lint, tests, outputs and budgets of all notebooks; no network"
	@echo "make test-fast  the quick tests, under two minutes"
	@echo "make lint       ruff"
	@echo "make notebooks  build notebooks/ and solutions/*.ipynb from solutions/*.py"
	@echo "make weights    train the shipped weights anew (16 minutes)"
	@echo "make lock       resolve requirements.lock anew from pyproject.toml (needs uv)"
	@echo "make clean      remove caches and build folders; keeps .venv and runs/"

lab: $(READY)
	$(BIN)/fbnet-lesson lab

test: lint
	$(BIN)/python -m pytest -p fbnet_lesson.course.budgets --nbval --nbval-current-env \
	  tests $(NOTEBOOKS)

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow" tests

lint: $(READY)
	$(BIN)/ruff check .

notebooks: $(READY)
	$(BIN)/python -m fbnet_lesson build

# About a quarter of an hour on 2 cores. Other processors round differently: other weights, like AP.
weights: $(READY)
	$(BIN)/fbnet-lesson train --data shapes --iterations 3600 --out runs/mask_rcnn_tiny_shapes
	cp runs/mask_rcnn_tiny_shapes/model.safetensors data/weights/mask_rcnn_tiny_shapes.safetensors

lock:
	UV_PYTHON_DOWNLOADS=never uv pip compile pyproject.toml --quiet --no-config --all-extras \
	  --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --upgrade --output-file requirements.lock

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find fbnet_lesson tests solutions notebooks \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# .installing marks an installation under way: if it is still there, the last one was interrupted.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "This course needs Python 3.10 or newer; \"$(PYTHON)\" is $$($(PYTHON) --version 2>&1)."; \
	  echo "Install one and name it, as in: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "\"$(PYTHON)\" cannot make virtual environments: its venv module is not installed."; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@if [ -e $(VENV)/.installing ]; then \
	  echo "The last installation was interrupted; starting again."; rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/.installing
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm $(VENV)/.installing && touch $(READY)
