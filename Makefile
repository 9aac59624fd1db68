# Every target sets up .venv by itself; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup align export-tools browser kernels demo demo-short test test-quick test-long faults fuzz lint bench docs gpu test-torch

help:
	@echo "make demo        render faces, train on two processes, verify on people never seen"
	@echo "make test        the test suite (CPU only, a quarter of an hour on 2 cores)"
	@echo "make test-quick  the quick part of it, for after each change (under 90 seconds on 2 cores)"
	@echo "make test-long   the tests that only .ci/run runs: many seconds for what the others show in a smaller way"
	@echo "make faults      kill, stop, starve and damage real jobs; a table of what came of it (20 minutes on 2 cores)"
	@echo "make lint        ruff and mypy"
	@echo "make docs        write configs/base.yaml and the table of docs/configs.md from the schema of the config"
	@echo "make gpu         ten minutes on one GPU: what no CPU can settle (GPU=--fake: what goes without one)"
	@echo "make test-torch  the suite on another torch, by hand: make test-torch V=2.6.0"
	@echo "make bench       the benchmarks at sizes that fit a laptop"
	@echo "make fuzz        a million hostile inputs over every reader of untrusted files (RUNS=...)"
	@echo "make setup       only create .venv"
	@echo "make browser     .venv with what drives the browser of the review page's tests (and Debian's chromium: apt-get)"
	@echo "make align       .venv with what the detectors and clustering need: dlib's models, MTCNN's weights, onnxruntime, faiss, numba"
	@echo "make kernels     .venv with Triton, which interprets and compiles the head's kernels without a GPU"
	@echo "make export-tools  .venv with what writes ONNX and ncnn files: onnx, onnxscript, onnxruntime, pnnx, ncnn"

setup: $(VENV)/.ready

# torch first and alone: a looser requirement asked for before it pulls gigabytes of CUDA packages on some indexes.
$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,eval]"
	@touch $@

# What finding faces in photos and grouping them needs: 400 MB that neither the demo nor training wants.
# Minutes on a slow line: pip says how far it is.
align: setup
	$(BIN)/pip install -c constraints.txt -e ".[align,cluster]"
	$(BIN)/python data_tools/fetch_weights.py

# What writing and reading ONNX and ncnn files needs.
export-tools: setup
	$(BIN)/pip install --quiet -c constraints.txt -e ".[export,ncnn]"

browser: setup
	$(BIN)/pip install --quiet -c constraints.txt -e ".[browser]"

# 700 MB. A CUDA build of torch has it.
kernels: setup
	$(BIN)/pip install --quiet -c constraints.txt -e ".[kernels]"

# Three levels, by the marks `slow` and `long` (CONTRIBUTING.md).
test: setup
	$(BIN)/python -m pytest -q -m "not long"

test-quick: setup
	$(BIN)/python -m pytest -q -m "not slow and not long"

test-long: setup
	$(BIN)/python -m pytest -q -m long

# docs/faults.md. Broken off, it goes on where it was; FAULTS=--overwrite begins anew.
FAULTS ?=

faults: setup
	$(BIN)/python tests/faults/run.py $(FAULTS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# What people read about the keys of a config; a test compares the files with what this writes.
docs: setup
	$(BIN)/python -m recognition.config.generate

# The demo's people: the `people` are learned, the `strangers` are only ever compared.
DEMO := work_dirs/demo_data
DEMO_IDENTITIES ?= 600
DEMO_IMAGES ?= 16
DEMO_OVERRIDES ?=

demo: setup
	rm -rf $(DEMO) work_dirs/demo
	$(BIN)/python data_tools/make_faces.py $(DEMO)/people --identities $(DEMO_IDENTITIES) --images $(DEMO_IMAGES) --seed 1
	$(BIN)/python data_tools/make_faces.py $(DEMO)/strangers --identities 100 --images 12 --first-identity 100000 --seed 1
	$(BIN)/python data_tools/pack_rec.py $(DEMO)/people $(DEMO)/train
	$(BIN)/python data_tools/make_pairs.py $(DEMO)/strangers $(DEMO)/pairs.txt --pairs 3000
	$(BIN)/python data_tools/pack_bin.py $(DEMO)/pairs.txt $(DEMO)/strangers $(DEMO)/unseen.bin
	$(BIN)/torchrun --nproc_per_node=2 train_v2.py configs/demo $(DEMO_OVERRIDES)
	$(BIN)/python eval/verify.py work_dirs/demo $(DEMO)/unseen.bin --baselines
	@echo
	@echo "the faces          $(DEMO)/people, $(DEMO)/strangers"
	@echo "the run            work_dirs/demo: train.log, metrics.jsonl, model.pt"
	@echo "its curves         $(BIN)/tensorboard --logdir work_dirs/demo/tensorboard"
	@echo "your own photos    docs/my_faces.md"

# A tenth of the demo: shows that every command still runs, not how well the network learns.
demo-short:
	$(MAKE) demo DEMO_IDENTITIES=40 DEMO_OVERRIDES="train.num_epoch=1 optim.warmup_epoch=0"

# At sizes that fit a laptop; each script's --help has the flags for more.
bench: setup
	$(BIN)/python benchmarks/head.py
	$(BIN)/python benchmarks/data.py

# docs/measurements/gpu.md; torch in .venv has to be a CUDA build, or with GPU=--fake a CPU build beside g++.
GPU ?=

gpu: setup
	$(BIN)/python benchmarks/gpu.py $(GPU)

# In an environment of its own. The oldest supported is 2.6.0; torch names the one sympy that it takes.
V ?= 2.6.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

test-torch:
	$(PYTHON) -m venv work_dirs/torch-$(V)
	work_dirs/torch-$(V)/bin/pip install --quiet --extra-index-url $(TORCH_INDEX) "torch==$(V)"
	{ grep -v -e '^torch==' -e '^sympy==' constraints.txt; echo 'torch==$(V)'; } > work_dirs/torch-$(V)/constraints.txt
	work_dirs/torch-$(V)/bin/pip install --quiet -c work_dirs/torch-$(V)/constraints.txt -e ".[dev,eval]"
	work_dirs/torch-$(V)/bin/python -m pytest -q -m "not slow and not long"

# Guided by coverage; findings go to work_dirs/fuzz (docs/safety.md).
RUNS ?= 1000000

fuzz: setup
	$(BIN)/pip install --quiet -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz.run --runs $(RUNS)
