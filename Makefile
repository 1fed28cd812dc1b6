# make run    a virtual environment, the package in it, and the main job: 64 images by F-PNDM in 50 steps
# make test   the same environment with the test tools; lint, types and the default tests
# make docs   the documentation: site/index.html
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_ARGS ?= solver=plms steps=50

.PHONY: run test test-all lint bench notebooks docs clean

run: $(VENV)/installed
	$(BIN)/python run.py $(RUN_ARGS)

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On a quiet machine. azula and k-diffusion without what they need besides solvers: a torchvision that may not fit the torch.
bench: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps azula k-diffusion
	$(BIN)/python -m tests.benchmarks.bench

# Runs the notebooks again, their outputs in place.
notebooks: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams notebooks/*.ipynb

# The documentation; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) outputs multirun site .pytest_cache .mypy_cache .ruff_cache
