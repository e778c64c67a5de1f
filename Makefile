VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python pyproject.toml $(wildcard kernels/*.c) $(wildcard setup.py)
	$(PY) -m pip install -q --disable-pip-version-check -e ".[test]"
	touch $@
