# `make demo` and `make test` set up everything they need inside this checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test torture bench lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the main job: broker, worker, one real experiment, from submission to its end"
	@echo "make test    all tests; those that need Docker, Google's emulator or Chromium skip where there is none"
	@echo "make torture what takes long: real time constants, many rounds, soaks; writes docs/torture.md"
	@echo "make bench   speed beside that of rivals and of bare clients; writes docs/benchmarks*.md"
	@echo "make lint    ruff, ruff format, mypy --strict"
	@echo "make clean   remove what these made"

$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready
	@$(BIN)/python scripts/demo.py

# Most tests wait for other processes, so more of them run at a time than there are cores; who has nothing left to do
# takes tests over from others, so that no slow ones are left to the end.
test: $(VENV)/ready
	$(BIN)/pytest --numprocesses 5 --dist worksteal

torture: $(VENV)/ready
	$(BIN)/python scripts/torture.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/transport.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/broker.py --markdown docs/benchmarks-broker.md
	$(BIN)/python benchmarks/attempts.py --markdown docs/benchmarks-attempts.md

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
