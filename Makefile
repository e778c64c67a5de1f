# Everything runs in virtual environments of its own; nothing outside this folder is touched.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
UV := .venv-uv/bin/uv
UV_VERSION := 0.13.9
CYCLONEDX_VERSION := 7.5.0
SOURCES := pyproject.toml setup.py $(wildcard kernels/*.c kernels/*.h requirements/*.txt requirements/*.sh)
# Where tests/conftest.py would take memory for the folders of tests.
ON_DISK := PYTEST_DEBUG_TEMPROOT=$(or $(TMPDIR),/tmp)
# Tests start children by the hundred: these find byte code, even where the surroundings would have none written.
export PYTHONDONTWRITEBYTECODE =
# As many processes as this one may use cores; one that has nothing left to do takes tests from the others.
SUITE := -m pytest -q -n logical --dist worksteal

.PHONY: demo test test-bare test-servers test-newest test-lowest test-wheel sbom lint lock site bench gpu-check wheels \
    rehearsal soak crops soak-service fuzz fuzz-guided fuzz-service sanitize sanitize-threads scale clean
.PRECIOUS: %/bin/python  # make would remove it, as it does with what only stands between two rules

demo: $(VENV)/.base
	$(VENV)/bin/gpu-extract demo demo

test: $(VENV)/.test
	$(PY) $(SUITE)

# Without the packages of the extras.
test-bare: .venv-bare/.base
	.venv-bare/bin/python $(SUITE)

# Against servers that others wrote, and on a Ray of this machine, which are too large for every environment.
test-servers: .venv-servers/.servers
	RUN_SLOW=1 $(ON_DISK) .venv-servers/bin/python -m pytest -q tests/test_stores_s3.py tests/test_cluster_ray.py \
	    tests/test_service_page.py tests/test_site.py tests/test_face_report_browser.py

# With the newest and the lowest versions that pyproject.toml allows; docs/dependencies.md says what came of it.
test-newest: .venv-newest/bin/python $(UV)
	$(COMPILE_WITHOUT_TORCH) --upgrade --python $< --extra test -o .venv-newest/lock.txt
	requirements/install.sh .venv-newest .venv-newest/lock.txt test
	$< $(SUITE)

test-lowest: .venv-lowest/bin/python $(UV)
	$(COMPILE_WITHOUT_TORCH) --upgrade --resolution lowest-direct --python $< --extra test -o .venv-lowest/lock.txt
	requirements/install.sh .venv-lowest .venv-lowest/lock.txt test
	$< $(SUITE)

# Archives, installed with all dependencies in clean environments that have no compiler.
test-wheel: $(VENV)/.test
	RUN_SLOW=1 $(ON_DISK) $(PY) -m pytest -q tests/test_packaging.py

# What is in the images, from their locks.
sbom:
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/pip install -q --disable-pip-version-check cyclonedx-bom==$(CYCLONEDX_VERSION)
	mkdir -p build
	set -e; for target in cpu cuda; do .venv-sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml \
	    --output-reproducible -o build/sbom-$$target.json requirements/container-$$target.txt; done

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) docs/generate.py --check
	$(VENV)/bin/codespell
	$(VENV)/bin/clang-format --dry-run -Werror kernels/*.c kernels/*.h bench/*.c

# The documents as a site in build/site, strictly; `python3 -m http.server -d build/site` shows it, with its search.
site: $(VENV)/.test $(UV)
	$(UV) pip install -q --python $(PY) -r pyproject.toml --extra docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build -q --strict
	$(PY) -m pytest -q tests/test_site.py

bench: $(VENV)/.test
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[bench]"
	$(PY) bench/bench_extract.py --name extract
	$(PY) bench/plot.py
	$(PY) bench/readme_table.py --write

# With PY or WHEELS in the machine's own Python, without a network: docs/gpu-day.md.
GPU_CHECK_FLAGS ?=
gpu-check: $(if $(WHEELS)$(filter command,$(origin PY)),,$(VENV)/.test)
	$(if $(WHEELS),$(or $(filter-out $(VENV)/bin/python,$(PY)),$(PYTHON)),$(PY)) bench/gpu_day.py \
	    $(if $(WHEELS),--wheels $(WHEELS)) $(if $(COMMIT),--commit $(COMMIT)) $(GPU_CHECK_FLAGS)

# What `make gpu-check` may lack on a machine without a network, for its version of Python.
FOR ?= 3.12
wheels: WHEELS ?= wheels
wheels: $(VENV)/.base
	mkdir -p $(WHEELS)
	set -e; for packages in linux-$(FOR)-base headless; do $(PY) -m pip download -q --no-deps --only-binary :all: \
	    --python-version $(FOR) --implementation cp --abi cp$(subst .,,$(FOR)) --abi abi3 --abi none \
	    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
	    --platform manylinux2014_x86_64 -d $(WHEELS) -r requirements/$$packages.txt; done
	cp kernels/*.abi3.so $(WHEELS)
	git rev-parse HEAD > $(WHEELS)/commit

# What the Dockerfile says, done without a container daemon: docs/container.md. As root, on Debian.
TARGET ?= cpu
rehearsal: $(VENV)/.base
	$(PY) tests/rehearsal.py --target $(TARGET) --revision "$$(git rev-parse HEAD)"

# Minutes to an hour each; not part of `make test`.
soak: $(VENV)/.test
	RUN_SLOW=1 $(ON_DISK) $(PY) -m pytest -q -m slow tests/test_long_runs.py tests/test_kill.py tests/test_power_cut.py \
	    tests/test_shards.py tests/test_faces.py tests/test_kernels_triton.py tests/test_disk_full.py tests/test_proof.py \
	    tests/test_prune.py tests/test_batch.py tests/test_surroundings.py \
	    tests/test_reindex.py tests/test_rename.py tests/test_device_failures.py tests/test_kernels_surfaces.py \
	    tests/test_crew.py
	RUN_SLOW=1 $(ON_DISK) $(PY) -m pytest -q tests/test_stores.py -k lost_at_any_request
	KILLS=100 $(ON_DISK) $(PY) -m pytest -q tests/test_processes.py -k killed_at_random

# The CUDA kernel in Triton's interpreter against the reference.
crops: $(VENV)/.test
	CROPS=10000 $(PY) $(SUITE) tests/test_kernels_triton.py tests/test_kernels_surfaces.py -k random_crops

soak-service: $(VENV)/.test
	SERVICE_KILLS=200 $(ON_DISK) $(PY) -m pytest -q tests/test_service_jobs.py -k killed_at_random
	RUN_SLOW=1 $(ON_DISK) $(PY) -m pytest -q -m slow tests/test_service_jobs.py tests/test_service_uploads.py \
	    tests/test_service_full_disk.py tests/test_client.py

fuzz: $(VENV)/.test
	RUN_SLOW=1 $(PY) -m pytest -q -m slow tests/test_fuzz.py tests/test_safe_pickle.py

# Coverage-guided; atheris has wheels for few versions of Python, so it is no part of the test extra.
fuzz-guided: $(VENV)/.test
	$(PY) -m pip install -q --disable-pip-version-check atheris
	$(PY) tests/fuzz_alignments.py --atheris -max_total_time=600

# The service against its own description; schemathesis is no part of the test extra for what it brings along.
FUZZ_SECONDS ?= 600
fuzz-service: $(VENV)/.test
	$(PY) -m pip install -q --disable-pip-version-check schemathesis==4.32.5
	$(PY) -m tests.fuzz_service $(FUZZ_SECONDS)

# The tests of our C under AddressSanitizer and UndefinedBehaviorSanitizer, and those with threads of C under
# ThreadSanitizer; built from a copy, so that what is installed stays as it is. With GCC, whose runtime must be loaded
# before an interpreter that knows nothing of it; -s, as a report goes to a stream that pytest would keep. Leaks are not
# looked for: Python and NumPy do not give back all their memory.
SANITIZED = build/sanitize-$(SANITIZER)
SANITIZE = rm -rf $(SANITIZED) && \
    mkdir -p $(SANITIZED)/bench && cp -R bench/results $(SANITIZED)/bench && \
    cp -R gpu_extract kernels tests pyproject.toml setup.py README.md LICENSE $(SANITIZED) && \
    cd $(SANITIZED) && rm -f kernels/*.so && \
    CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(CHECKS) -fno-sanitize-recover=undefined" \
    $(abspath $(PY)) setup.py -q build_ext --inplace && ls kernels/_cutter.*.so && \
    env LD_PRELOAD="$$(gcc -print-file-name=lib$(SANITIZER).so)" PYTHONPATH="$$PWD" PYTHONMALLOC=malloc

sanitize: SANITIZER = asan
sanitize: CHECKS = address,undefined
sanitize: $(VENV)/.test
	$(SANITIZE) ASAN_OPTIONS=detect_leaks=0 $(abspath $(PY)) -m pytest -q -s -p no:cacheprovider tests/test_kernels.py \
	    tests/test_kernels_png.py tests/test_kernels_yuv.py tests/test_kernels_cutter.py tests/test_kernels_jpeg.py \
	    tests/test_kernels_sharpness.py tests/test_kernels_opcodes.py tests/test_kernels_columns.py \
	    tests/test_kernels_inflate.py tests/test_frames_png.py tests/test_frames_jpeg.py

sanitize-threads: SANITIZER = tsan
sanitize-threads: CHECKS = thread
sanitize-threads: $(VENV)/.test
	$(SANITIZE) TSAN_OPTIONS=halt_on_error=1 $(abspath $(PY)) -m pytest -q -s -p no:cacheprovider tests/test_kernels_cutter.py

scale: $(VENV)/.base
	$(PY) bench/alignments_scale.py

clean:
	rm -rf $(VENV) .venv-* build demo bench/data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f kernels/*.so

# The locks: `make lock` keeps the versions that still fit, `make lock UPGRADE=--upgrade` takes the newest ones.
COMPILE_PACKAGES = $(UV) pip compile -q --generate-hashes --only-binary :all: --custom-compile-command "make lock"
COMPILE = $(COMPILE_PACKAGES) pyproject.toml --group build --constraint requirements/torch.txt
COMPILE_WITHOUT_TORCH = $(COMPILE) --no-emit-package torch --excludes requirements/cuda.txt
# The Python of the Dockerfile's Debian.
FOR_CONTAINER = $(UPGRADE) --python-platform linux --python-version 3.13 --constraint requirements/linux-3.13-test.txt

lock: $(UV)
	set -e; for version in 3.11 3.12 3.13 3.14; do \
	    lock=requirements/linux-$$version; for_python="$(UPGRADE) --python-platform linux --python-version $$version"; \
	    $(COMPILE_WITHOUT_TORCH) $$for_python --extra test -o $$lock-test.txt; \
	    $(COMPILE_WITHOUT_TORCH) $$for_python --extra suite --no-emit-package triton \
	        --constraint $$lock-test.txt -o $$lock-base.txt; \
	    $(COMPILE_WITHOUT_TORCH) $$for_python --extra test --extra servers --extra browser --extra ray \
	        --extra docs \
	        --constraint $$lock-test.txt -o $$lock-servers.txt; \
	done
	set -e; for target in cpu cuda; do \
	    $(COMPILE_PACKAGES) $(FOR_CONTAINER) pyproject.toml requirements/headless.txt --extra cloud --extra serve \
	        --excludes requirements/without-$$target.txt --constraint requirements/torch.txt \
	        -o requirements/container-$$target.txt; \
	done
	$(COMPILE_PACKAGES) $(FOR_CONTAINER) --group build -o requirements/container-build.txt

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

%/bin/python:
	$(PYTHON) -m venv $*

# The lock is that of the virtual environment's Python.
LOCK = requirements/$(shell $< -c 'import sys; print("%s-%d.%d" % (sys.platform, *sys.version_info[:2]))')-$(@F:.%=%).txt

%/.base: %/bin/python $(SOURCES)
	requirements/install.sh $* $(LOCK) suite
	touch $@

%/.test: %/bin/python $(SOURCES)
	requirements/install.sh $* $(LOCK) test
	touch $@ $*/.base

%/.servers: %/bin/python $(SOURCES)
	requirements/install.sh $* $(LOCK) test,servers,browser,ray,docs
	touch $@
