# Everything runs in a virtual environment of its own; nothing outside this folder is touched.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
SOURCES := pyproject.toml setup.py $(wildcard kernels/*.c)

.PHONY: demo test lint bench gpu-check soak fuzz fuzz-guided scale clean

demo: $(INSTALLED)
	$(VENV)/bin/gpu-extract demo demo

test: $(INSTALLED_TEST)
	$(PY) -m pytest -q

lint: $(INSTALLED_TEST)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(INSTALLED_TEST)
	$(PY) -m pip install -q --disable-pip-version-check -e ".[bench]"
	$(PY) bench/bench_extract.py --name extract
	$(PY) bench/plot.py
	$(PY) bench/readme_table.py --write

gpu-check: $(INSTALLED_TEST)
	$(PY) bench/gpu_check.py --json bench/results/gpu.json
	$(PY) bench/gpu_table.py --write

# Minutes to an hour each; not part of `make test`.
soak: $(INSTALLED_TEST)
	RUN_SLOW=1 $(PY) -m pytest -q -m slow tests/test_long_runs.py tests/test_kill.py

fuzz: $(INSTALLED_TEST)
	RUN_SLOW=1 $(PY) -m pytest -q -m slow tests/test_fuzz.py

# Coverage-guided; atheris has wheels for few versions of Python, so it is no part of the test extra.
fuzz-guided: $(INSTALLED_TEST)
	$(PY) -m pip install -q --disable-pip-version-check atheris
	$(PY) tests/fuzz_alignments.py --atheris -max_total_time=600

scale: $(INSTALLED)
	$(PY) bench/alignments_scale.py

clean:
	rm -rf $(VENV) build demo bench/data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f kernels/*.so

$(PY):
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(PY) $(SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check -e .
	touch $@

$(INSTALLED_TEST): $(PY) $(SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check -e ".[test]"
	touch $@ $(INSTALLED)
