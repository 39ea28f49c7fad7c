# Everything happens in a virtual environment of the checkout's own: `make demo` and `make test` need nothing but Python >= 3.10.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: a plain `torch` may pull several GB of CUDA libraries
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/ready
	$(BIN)/peft-unlearn demo

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
