# Everything that is done with this repository from a shell. `make` alone lists it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What torch is installed: the package index's (default), or PyTorch's own CPU build (EARLYBELL_TORCH=cpu).
TORCH  := $(or $(EARLYBELL_TORCH),default)
STAMP  := $(VENV)/.installed-$(TORCH)

# uv reads no pip settings: who has told pip about a mirror or a certificate need not say it twice.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
export UV_HTTP_TIMEOUT ?= 180
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifdef CI
export NO_COLOR := 1
export UV_NO_PROGRESS := 1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup servers demo test lint format schemas bench lock clean distclean

help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything that is pinned in requirements/lock.txt.

demo: servers $(STAMP) ## Show the whole of it: a real Kafka and Postgres, both roles, a sample feed.
	@$(BIN)/earlybell demo

test: servers $(STAMP) lint ## Run the checks and all tests, on real servers.
	$(BIN)/python -m pytest

lint: $(STAMP) ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Bring the code into its format and mend what can be mended.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

schemas: $(STAMP) ## Write deploy/schemas anew from the records.
	$(BIN)/python -m earlybell.streams.schemas deploy/schemas

bench: servers $(STAMP) ## Run the benchmarks of tests/benchmarks.
	$(BIN)/python -m tests.benchmarks

lock: $(BIN)/uv ## Resolve pyproject.toml anew into requirements/ (`make lock UPGRADE=--upgrade` for newer versions).
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --quiet $(UPGRADE) -o requirements/lock.txt

clean: ## Remove caches and what was built.
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too.
	rm -rf $(VENV)

servers:
	@deploy/prerequisites.sh servers

$(BIN)/uv: requirements/uv.txt
	@deploy/prerequisites.sh python "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

# The package itself is built by what the lock has installed just before: nothing is fetched for it.
$(VENV)/.installed-default: pyproject.toml requirements/lock.txt $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements/lock.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

# The CPU wheels are other files than the lock's, so the lock fixes the versions here, and not the hashes.
$(VENV)/.installed-cpu: pyproject.toml requirements/lock.txt $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --no-verify-hashes --constraint requirements/lock.txt hatchling editables
	$(BIN)/uv pip install --python $(BIN)/python --no-verify-hashes --constraint requirements/lock.txt \
	  --torch-backend cpu --no-build-isolation --editable ".[dev]"
	@rm -f $(VENV)/.installed-*
	@touch $@

$(VENV)/.installed-%:
	@echo "earlybell: EARLYBELL_TORCH is '$*': set it to cpu, or leave it unset" >&2; exit 1
