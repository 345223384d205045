.PHONY: demo test check fuzz clean
PYTHON ?= python3
BIN := .venv/bin
# The library alone, then the development tools on top: a demo need not wait for the latter.
CORE := .venv/core.stamp
DEV := .venv/dev.stamp

demo: $(CORE)
	$(BIN)/qgraft demo

test: check
	$(BIN)/python -m pytest -q -n 2

# Hostile input, crashes and faults at full size: 48 minutes of one core.
fuzz: $(DEV)
	QGRAFT_NIGHTLY=1 $(BIN)/python -m pytest -q -n 2 tests/test_hostile_*.py tests/test_crash*.py tests/test_faults.py

check: $(DEV)
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(DEV): $(CORE)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
