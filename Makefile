# Every target works as the first command on a fresh clone: it makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt
BUNDLE := bundles/hippocampus_mr_segmentation
OUTPUT ?= demo_output
BENCH ?= bench_output

.PHONY: help demo bench test test-all test-triton lint types clean

help:
	@echo "make demo      segment the sample volumes with the trained bundle, see $(OUTPUT)/"
	@echo "make bench     times beside plain convolutions, see $(BENCH)/"
	@echo "make test      the test suite without the slow tests"
	@echo "make test-all  the whole test suite"
	@echo "make test-triton  the Triton kernels in Triton's interpreter, without a GPU"
	@echo "make lint      ruff"
	@echo "make types     mypy"
	@echo "make clean     remove $(VENV), caches and outputs"

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
		echo "constraints.txt needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing monai_crossd into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	@$(PIP) ruff mypy
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python -W ignore -m monai.bundle run --bundle_root $(BUNDLE) --config_file $(BUNDLE)/configs/inference.json \
		--logging_file $(BUNDLE)/configs/logging.conf --dataset_dir $(BUNDLE)/sample --output_dir $(OUTPUT)
	@echo "Label maps: $(OUTPUT)/*_seg.nii.gz   volumes in mL: $(OUTPUT)/volumes.csv   all on one page: $(OUTPUT)/index.html"

bench: $(VENV)/.installed
	@$(BIN)/python -W ignore -m monai_crossd.benchmark --output_dir $(BENCH)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-triton: $(VENV)/.installed-test
	@$(PIP) triton
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/ops/fused tests/layers/test_fused*.py
	$(BIN)/python -m pytest -n auto tests/ops/fused/test_compiles.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUTPUT) $(BENCH) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
