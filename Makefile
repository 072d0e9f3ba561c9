# `make demo` scores the shipped slide, `make test` checks everything; both start from a bare Python 3.11 or newer.
PYTHON ?= python3
SLIDE := tests/slides/CMU-1-Small-Region.svs
RESULTS := glassrt-demo

VENV := .venv
BIN := $(VENV)/bin
# Stamps: what stands in the environment, older than pyproject.toml when it must be installed anew.
CREATED := $(VENV)/.created
RUNNABLE := $(VENV)/.installed-cpu
TESTABLE := $(VENV)/.installed-dev

.PHONY: demo test lint install-dev clean

demo: $(RUNNABLE)
	$(BIN)/glassrt score $(SLIDE) --out $(RESULTS)
	@echo "The results lie in $(CURDIR)/$(RESULTS)"

# pytest's exit status 5, no test collected, fails this target as any other does. Files are dealt to two processes; one
# that dies ends the run, which would wait for ever otherwise. Each has torch compute in one thread: on as many cores as
# processes, more threads wait for each other, and the whole takes a third longer.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --max-worker-restart 0 --dist loadfile

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p glassrt
	$(BIN)/lint-imports

install-dev: $(TESTABLE)

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "GlassRT needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(RUNNABLE): pyproject.toml | $(CREATED)
	$(BIN)/pip install --editable '.[cpu]'
	touch $@

# torch goes first and pinned: a range that another package asks for could bring in a build many times the size.
# TIAToolbox, one of the peers of the benchmarks, goes without the many packages that it does not need there.
$(TESTABLE): pyproject.toml constraints.txt | $(CREATED)
	$(BIN)/pip install --constraint constraints.txt torch
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --constraint constraints.txt --no-deps tiatoolbox
	touch $(RUNNABLE) $@

clean:
	rm -rf $(VENV) $(RESULTS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
