# Every target makes .venv itself when it is missing or out of date.
#   make demo | test | torture | check | bench | docs | docs-check | container-check | clean
#   make lock | audit | sbom     what is installed: its hashes, its known holes, the list of it
# PYTHON=python3.12 chooses the interpreter of a new .venv; ARGS goes to pytest, to the demo or to the
# benchmarks (ARGS="--only encode,bus" measures those two); JOBS says how many processes run tests.

PYTHON ?= python3
ARGS ?=
JOBS ?= 3

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.made-from
BENCH_STAMP := $(VENV)/.peers-from
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# All that is needed stands in a lock file: with --no-deps nothing comes in beside what is listed.
# PyTorch without CUDA is taken where a package index has it, else the common one.
LOCKED := --require-hashes --no-deps --no-build-isolation --use-pep517
UV := build/lock/bin/uv

# The model comes with a package: nothing here may wait for a network.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test torture check bench docs docs-check container-check format lock audit sbom clean

demo: $(STAMP)
	$(PY) -m demo $(ARGS)

test: $(STAMP)
	@$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest --numprocesses $(JOBS) --no-loadscope-reorder $(ARGS)
	@$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

torture: $(STAMP)
	$(PY) -m tests.torture $(ARGS)

check: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(BENCH_STAMP)
	$(PY) -m benchmarks.report --all $(ARGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-check: $(STAMP)
	$(PY) -m pytest -q -m docs $(ARGS)

container-check: $(STAMP)
	$(PY) -m containers.check $(ARGS)

format: $(STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# The resolver is locked as all else is, and lives apart: nobody needs it but here.
lock: $(STAMP)
	@test -x $(UV) || $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r locks/tool.txt
	$(PY) locks/renew.py $(UV)

audit: $(STAMP)
	$(PY) locks/audit.py $(ARGS)

sbom: $(STAMP)
	$(PY) locks/sbom.py dist/consonance.cdx.json

$(STAMP): pyproject.toml constraints.txt $(wildcard locks/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Consonance needs Python 3.11 or newer, $(PYTHON) is not that; name another with PYTHON=..." >&2; exit 2; }
	@echo "Making $(VENV) with the pinned dependencies (about 2 minutes; PyTorch alone is some 200 MB or, with CUDA, some GB) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(LOCKED) -r locks/build.txt
	@$(PIP) $(LOCKED) -r locks/torch-cpu.txt 2> $(VENV)/torch-cpu || $(PIP) $(LOCKED) -r locks/torch.txt
	@$(PIP) $(LOCKED) -r locks/runtime.txt -r locks/dev.txt
	@$(PY) locks/complete.py || $(PIP) $(LOCKED) -r locks/cuda.txt
	@$(PIP) --no-deps --no-build-isolation --no-index -e .
	@$(PY) -m pip --disable-pip-version-check check > $(VENV)/checked || { cat $(VENV)/checked >&2; exit 1; }
	@touch $(STAMP)

$(BENCH_STAMP): $(STAMP)
	@echo "Adding what the benchmarks measure beside ours ..."
	@$(PIP) $(LOCKED) -r locks/bench.txt
	@touch $(BENCH_STAMP)

clean:
	rm -rf $(VENV) build dist site .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
