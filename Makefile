# What you can do with this repository from a shell. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Processes that run tests, each with private servers. Tests wait more than they compute: three suit two cores.
WORKERS ?= 3
# Which torch to install: the package index's (default), or PyTorch's own CPU build (EARLYBELL_TORCH=cpu).
TORCH  := $(or $(EARLYBELL_TORCH),default)
STAMP  := $(VENV)/.installed-$(TORCH)

# uv and requests do not read pip's settings: pass on the mirror and the certificate that pip uses.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
export REQUESTS_CA_BUNDLE ?= $(PIP_CERT)
endif
export UV_HTTP_TIMEOUT ?= 180
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifdef CI
export NO_COLOR := 1
export UV_NO_PROGRESS := 1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup kernels demo test nightly soak lint format schemas bench lock clean distclean

help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: kernels ## Create .venv with everything pinned in requirements/lock.txt.

kernels: $(STAMP) ## Compile the kernels if their C sources have changed.
	@$(BIN)/python earlybell/inference/kernels/build.py

demo: kernels ## Run the whole pipeline on a sample feed, with a real Kafka and Postgres.
	@$(BIN)/earlybell demo

# Tests and benchmarks start Python processes; without bytecode each of them compiles what it imports.
test nightly soak bench: export PYTHONDONTWRITEBYTECODE :=

test: kernels lint ## Run the checks and all tests, on real servers.
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20

nightly: kernels ## Run the tests that take too long for every change.
	$(BIN)/python -m pytest -m nightly

soak: kernels ## Inject 1,000 random faults under load, for hours, and account for every message.
	$(BIN)/python -m tests.faults.soak --faults 1000

lint: $(STAMP) ## Check style, format, layers and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(STAMP) ## Format the code, and fix what can be fixed automatically.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

schemas: $(STAMP) ## Regenerate deploy/schemas from the records.
	$(BIN)/python -m earlybell.streams.schemas deploy/schemas

bench: kernels ## Run the benchmarks of tests/benchmarks.
	$(BIN)/python -m tests.benchmarks

lock: $(BIN)/uv ## Resolve pyproject.toml into requirements/lock.txt (`make lock UPGRADE=--upgrade` for newer versions).
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --quiet $(UPGRADE) -o requirements/lock.txt

clean: ## Remove caches and build outputs.
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too.
	rm -rf $(VENV)

$(BIN)/uv: requirements/uv.txt
	@deploy/prerequisites.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

# The package itself is built with what the lock has just installed: nothing more is downloaded.
$(VENV)/.installed-default: pyproject.toml requirements/lock.txt $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements/lock.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

# The CPU wheels differ from the lock's files, so here the lock fixes the versions but not the hashes.
$(VENV)/.installed-cpu: pyproject.toml requirements/lock.txt $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --no-verify-hashes --constraint requirements/lock.txt hatchling editables
	$(BIN)/uv pip install --python $(BIN)/python --no-verify-hashes --constraint requirements/lock.txt \
	  --torch-backend cpu --no-build-isolation --editable ".[dev]"
	@rm -f $(VENV)/.installed-*
	@touch $@

$(VENV)/.installed-%:
	@echo "earlybell: EARLYBELL_TORCH is '$*': set it to cpu, or unset it" >&2; exit 1
