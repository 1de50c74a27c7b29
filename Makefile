# Everloop. `make serve` installs and serves; `make test` installs what tests need and runs them.
# PORT, EVERLOOP_HOME, EVERLOOP_API_KEY and every other EVERLOOP_ variable are honoured.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := $(wildcard native/*) hatch_build.py

.PHONY: serve test test-slow fuzz check model bench docs clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.installed
	@exec $(BIN)/everloop serve

# Two processes with one thread each are quicker than one with two, and disturb each other less.
test: $(VENV)/.dev $(VENV)/.sdk
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/.dev $(VENV)/.sdk
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 1800

# Random examples in plenty for every property; `make test` repeats fixed ones.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "hypothesis and not slow" --hypothesis-profile fuzz

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

# Writes the pages that are made from the program: settings and commands.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

# The default model again, from the public files in EVERLOOP_DATA to its card, in WORK (./work).
model: $(VENV)/.dev
	@PATH="$(abspath $(BIN)):$$PATH" sh recipes/everloop-small/make.sh

bench: $(VENV)/.dev
	@set -e; for file in bench/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf $(VENV) src/everloop/engine/native/_native.so .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# The stamps make the second start immediate; a change of pyproject.toml or of the native sources
# installs again, which compiles them.
$(VENV)/.installed: pyproject.toml $(NATIVE) | $(BIN)/python
	@echo "Installing Everloop into $(VENV) (PyTorch is large: some minutes on the first run)"
	@$(PIP) install -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(NATIVE) | $(BIN)/python
	@echo "Installing Everloop with what its tests need into $(VENV)"
	@$(PIP) install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.sdk: tests/sdk.py | $(VENV)/.dev
	@echo "Installing the old OpenAI clients that tests speak with"
	@$(BIN)/python -m tests.sdk
	@touch $@
