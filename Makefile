# `make run` and `make test` need Python 3.11 or 3.12, git and make, and set up all the rest in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow test-slurm fuzz lint clean

run: .venv/ready
	$(BIN)/python -m jdcsuite +experiment=fllic_w sigma=10 name=demo -m

test: .venv/ready lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# on a cluster of two nodes that Debian's packages make of this machine, as root; elsewhere all is skipped
test-slurm: .venv/ready
	$(BIN)/python -m pytest -m slurm -rs

fuzz: .venv/ready
	$(BIN)/python tests/fuzz_jdc.py 20000
	$(BIN)/python tests/fuzz_weights.py 20000

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
