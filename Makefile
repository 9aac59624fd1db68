# Every target sets up .venv by itself; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint bench

help:
	@echo "make demo    render faces, train on two processes, verify on people never seen"
	@echo "make test    the whole test suite (CPU only, under 10 minutes on 2 cores)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks at sizes that fit a laptop"
	@echo "make setup   only create .venv"

setup: $(VENV)/.ready

# torch first and alone: a looser requirement asked for before it pulls gigabytes of CUDA packages on some indexes.
$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,eval]"
	@touch $@

test: setup
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
