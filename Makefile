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
# A page with advisories that every full index has.
AUDITED := $(shell sed -n 's|^onnx==|onnx/|p' constraints.txt)
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

UV ?= uv

.PHONY: help demo test lint types format docs sample dist audit locked freeze hashes clean clean-venv
.DELETE_ON_ERROR:

help:
	@echo 'make demo    install, then harden the sample and print the before/after table'
	@echo 'make test    install with the development tools, then run the tests'
	@echo 'make lint    ruff check, ruff format --check, mypy strict, import contracts, limits'
	@echo 'make format  let ruff rewrite what it can'
	@echo 'make dist    build wheel and source archive, and try the wheel in a fresh environment'
	@echo 'make docs    the site of README and docs/ into build/site, every warning an error'
	@echo 'make audit   look the pinned packages up among known vulnerabilities; skipped without a network'
	@echo 'make locked  install by hash, with the development tools'
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

# The variable silences a notice of the theme about another product.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean
	@echo 'docs: build/site/index.html'

sample: $(VENV)/.installed-dev
	$(BIN)/python samples/train_digits.py

# The time of the commit stands in the wheel: the same commit gives the same bytes.
dist: $(VENV)/.installed-dev
	@rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	PYTHON=$(BIN)/python TORCH_INDEX=$(TORCH_INDEX) .ci/check-dist dist

# pip-audit asks PyPI for the advisories on each pinned package, and installs nothing.
audit: $(VENV)/.installed-dev
	@if $(BIN)/python -c "import urllib.request as r; r.urlopen('https://pypi.org/pypi/$(AUDITED)/json', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt --progress-spinner off; \
	else echo 'audit: SKIPPED, no index of advisories can be reached (pypi.org)'; fi

# pip wants a hash for all or for none, and a working tree has no hash: so packages first, then the tree alone.
locked: constraints.hashes.txt | $(BIN)/python
	$(PIP) install -q --no-deps --require-hashes -r constraints.hashes.txt
	$(PIP) install -q --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) '$(TORCH)'
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $(VENV)/.torch $(VENV)/.installed $(VENV)/.installed-dev

# uv reads the hashes of all files of a version from the index; it is needed for nothing else.
COMPILE = $(UV) pip compile -q --no-header --no-annotate --generate-hashes --python-version 3.11
hashes:
	@sed -n '/^#/p' constraints.hashes.txt > hashes.new
	@grep -v -E '^(#|torch==)' constraints.txt | $(COMPILE) --no-deps - >> hashes.new
	@mv hashes.new constraints.hashes.txt
	@echo setuptools | $(COMPILE) -c constraints.txt -o requirements/build.txt - > /dev/null
	@$(COMPILE) -c constraints.txt pyproject.toml --extra runtime --extra service -o requirements/service.txt > /dev/null
# PyTorch for macOS asks for no CUDA, as its CPU build does not; the hashes are those of every platform's files.
	@MACOSX_DEPLOYMENT_TARGET=14.0 $(COMPILE) -c constraints.txt pyproject.toml --extra cpu --no-emit-package torch \
	  --python-platform macos -o requirements/cpu.txt > /dev/null
	@$(COMPILE) -c constraints.txt pyproject.toml --extra gpu --python-platform linux \
	  -o requirements/gpu.txt > /dev/null

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
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[cpu,dev,docs]'
	@touch $@

clean:
	rm -rf build dist demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

clean-venv:
	rm -rf $(VENV)
