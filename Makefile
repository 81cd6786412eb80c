# SPDX-License-Identifier: Apache-2.0
# Two commands for a stranger: `make demo` hardens the sample, `make test` runs the tests.
# Both need only Python 3.11+ and make; the second call of either finds everything installed.

PYTHON ?= python3
VENV ?= .venv
# PyTorch's own index has the CPU build; PyPI's Linux wheel brings gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Two workers on two cores, so each computes on one thread; a file stays whole, for its fixtures.
PYTEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.PHONY: help demo test lint types format sample freeze clean clean-venv
.DELETE_ON_ERROR:

help:
	@echo 'make demo    install, then harden the sample and print the before/after table'
	@echo 'make test    install with the development tools, then run the tests'
	@echo 'make lint    ruff check, ruff format --check, mypy strict, import contracts, limits'
	@echo 'make format  let ruff rewrite what it can'
	@echo 'make sample  train the sample again (samples/train_digits.py)'

demo: $(VENV)/.installed
	@mkdir -p demo-output
	$(BIN)/patcher harden samples/digits.onnx --clean-dir samples/clean --method unit --seed 0 \
	  --triggered samples/triggered.npz \
	  -o demo-output/digits.hardened.onnx --report-dir demo-output/report

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types
	cd build/types && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config ../../pyproject.toml --no-cache
	$(BIN)/python -m benchmarks.house --check

# mypy does not know setuptools' package-dir mapping, under which calibrate/ and export/ are
# patcher.calibrate and patcher.export. It is shown the tree as it is installed, made of links.
types: $(VENV)/.installed-dev
	@mkdir -p build/types/patcher
	@find build/types -type l ! -exec test -e {} \; -exec rm {} +
	@ln -sfn $(addprefix $(CURDIR)/,$(filter-out %/__pycache__,$(wildcard patcher/*)) calibrate export) build/types/patcher/
	@ln -sfn $(addprefix $(CURDIR)/,benchmarks samples cli.py) build/types/
	cd build/types && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml \
	  --cache-dir ../../.mypy_cache patcher benchmarks samples cli.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sample: $(VENV)/.installed-dev
	$(BIN)/python samples/train_digits.py

freeze:
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(PIP) freeze --all --exclude-editable | grep -v -E '^(pip|wheel)[ =]' | sed 's/+cpu$$//' >> constraints.new
	@mv constraints.new constraints.txt

# The interpreter says itself when it is too old; pip's own message comes much later.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): PyTorch and the rest, 1.2 GB on disk, a few minutes once.'

# torch alone first: --no-deps keeps every other package on the usual index, and no retries means
# that without a way to TORCH_INDEX the configured index decides.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt setuptools
	$(PIP) install -q --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) '$(TORCH)'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[cpu]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[cpu,dev]'
	@touch $@

clean:
	rm -rf build dist demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

clean-venv:
	rm -rf $(VENV)
