# quickstart and test set up all they need on a machine with Python 3.11 or newer; a second time they just run.
#   make quickstart NAME=小红                  another name for the assistant
#   make quickstart TORCH_INDEX=URL            take torch from another package index, for example the CPU builds
#                                              of pytorch.org, so that no CUDA packages are downloaded
#   PYTHON=python3.12 make test                another Python
#   make image-cpu BASE_IMAGE=NAME             an image of docker/Dockerfile (image-cuda, -serve, -app, -xtuner): docs/images.md
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BASE_IMAGE ?=
NAME ?= 小明
WORKERS ?= 2

BIN := $(VENV)/bin
RUN := $(VENV)/.run-ready
TEST := $(VENV)/.test-ready
# Two test processes with two threads each would fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -q

.PHONY: quickstart test test-all lint types help-time base vision-base clean \
	image-cpu image-cuda image-serve image-app image-xtuner image-locks

quickstart: $(RUN)
	$(BIN)/ftx quickstart --name "$(NAME)"

test: $(TEST)
	$(PYTEST) -m "not system and not gpu"
	@echo "left to make test-all: $$($(BIN)/pytest --collect-only -q -m system 2>/dev/null | grep -c '::') tests that need system parts (root); to a GPU machine: $$($(BIN)/pytest --collect-only -q -m gpu 2>/dev/null | grep -c '::')"

test-all: $(TEST)
	sh scripts/system_parts
	$(PYTEST) -m "not gpu"

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST)
	$(BIN)/mypy

help-time: $(TEST)
	$(BIN)/python benchmarks/help_time.py

# Rebuilds the embedded base from nothing; wants a GPU (some five minutes on one H200).
base: $(TEST)
	$(BIN)/python -m ftx_quickstart.build_base --out build/base
	cp build/base/base/* plugins/ftx_quickstart/base/

# The same for the vision model of quickstart --plugin internvl, which stands on the base.
vision-base: $(TEST)
	$(BIN)/python -m ftx_quickstart.build_vision_base --out build/vision_base
	mkdir -p plugins/ftx_quickstart/vision_base
	cp build/vision_base/base/* plugins/ftx_quickstart/vision_base/

image-cpu image-cuda image-serve image-app image-xtuner:
	BASE_IMAGE="$(BASE_IMAGE)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/image $(@:image-%=%)

# What the images install, with hashes, after a change of setup.cfg, constraints.txt, LMDeploy's lock or the apps' pins.
image-locks: $(RUN)
	$(BIN)/pip install -q uv
	UV=$(BIN)/uv PYTHON=$(BIN)/python sh scripts/image_locks

$(RUN): setup.cfg constraints.txt
	PYTHON="$(PYTHON)" sh scripts/venv "$(VENV)"
	$(if $(TORCH_INDEX),$(BIN)/pip install -q --index-url "$(TORCH_INDEX)" -c constraints.txt torch)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(TEST): $(RUN)
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist runs
