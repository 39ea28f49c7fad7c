# Everything happens in a virtual environment of the checkout's own: `make demo` and `make test` need nothing but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-real lint type fast test test-all docs notebooks coverage surface clean

help:
	@echo "demo      fictional people, a small model that memorized them, three methods that make it forget eight of them"
	@echo "demo-real the same on SmolLM2-135M, from its file to an answer of llama.cpp (downloads; half an hour on two cores)"
	@echo "test      what CI runs: lint, type, tests (some ten minutes on two cores)"
	@echo "fast      quick tests alone (under two minutes)"
	@echo "test-all  test, the long tests, the docs without a warning, the notebooks, and KILLS=60 runs that are killed"
	@echo "lint, type, docs, notebooks, coverage, surface (renew tests/surface.txt), clean"

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: a plain `torch` may pull several GB of CUDA libraries. To compile all files takes longer than those that are imported
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev,docs]"
	touch $@

demo: .venv/ready
	$(BIN)/peft-unlearn demo

# llama-cpp-python is compiled, which takes some ten minutes once.
demo-real: .venv/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf,llama-cpp]"
	$(BIN)/python benchmarks/demo_real.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: .venv/ready
	$(BIN)/mypy

fast: .venv/ready
	$(PYTEST) -m "not slow and not long"

test: lint type
	$(PYTEST) -m "not long"

KILLS ?= 60

test-all: test docs notebooks
	$(PYTEST) -m long
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/kills.py --runs $(KILLS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/kills.py --damage

docs: .venv/ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site is docs/_build/html/index.html"

notebooks: .venv/ready
	$(BIN)/python benchmarks/notebooks.py

coverage: .venv/ready
	$(PYTEST) --cov --cov-report=term --cov-report=html
	@echo "The report is htmlcov/index.html"

# The names, keys and commands that users rely on: a change of them is made on purpose, and its diff is read.
surface: .venv/ready
	$(BIN)/python tests/test_surface.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov docs/_build
