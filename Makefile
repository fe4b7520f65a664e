# Everything lives in this checkout: the environment in .venv (with the download cache), shards in data, runs in runs.
# UV_CACHE_DIR and PIP_CACHE_DIR, where set, are used instead of the cache in .venv.

PYTHON ?= python3
UV_VERSION := 0.13.9
RUN := emoji-demo

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
FUSERAY := $(VENV)/bin/fuseray
INSTALLED := $(VENV)/.installed

export UV_CACHE_DIR ?= $(CURDIR)/$(VENV)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/$(VENV)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint clean-demo

help: ## List what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 names another interpreter for the first call (3.11 or 3.12)."

install: $(INSTALLED) ## Make .venv with the pinned requirements; does nothing when it is up to date.

demo: $(INSTALLED) ## Build shards, train, evaluate and report on real data; a second call repeats nothing.
	@$(FUSERAY) data emoji data/emoji
	@$(FUSERAY) train workloads/recipes/$(RUN).yaml --resume auto
	@$(FUSERAY) evaluate $(RUN)
	@$(FUSERAY) report $(RUN)
	@echo
	@echo "The demo is done."
	@echo "  report       runs/$(RUN)/report.html      open it in a browser: $(PY) -m webbrowser -t file://$(CURDIR)/runs/$(RUN)/report.html"
	@echo "  checkpoints  runs/$(RUN)/checkpoints      list them: $(FUSERAY) checkpoints list $(RUN)"
	@echo "  model        runs/$(RUN)/model            safetensors and tokenizer files"
	@echo "  MLflow       runs/mlflow.db               browse it: $(VENV)/bin/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db"

test: $(INSTALLED) ## Run the whole test suite.
	@$(PY) -m pytest --numprocesses 2

lint: $(INSTALLED) ## Run ruff, mypy and import-linter.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@NO_COLOR=1 $(VENV)/bin/lint-imports

clean-demo: ## Remove the demo's shards and run; other runs and the MLflow store stay.
	@rm -rf data/emoji runs/$(RUN)
	@echo "removed data/emoji and runs/$(RUN)"

$(INSTALLED): requirements.lock pyproject.toml $(VENV)/.made
	@echo "installing the pinned requirements into $(VENV) (a few GB, once)"
	@$(PY) -m pip install --quiet "uv==$(UV_VERSION)"
	@$(UV) pip install --quiet --compile-bytecode --python $(PY) --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps -e .
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 || { \
	  echo "$(PYTHON) is not there, or is not Python 3.11 or 3.12 ($$($(PYTHON) --version 2>&1 | tail -1))." >&2; \
	  echo "Install one of them and name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments: its modules venv and ensurepip are missing." >&2; \
	  echo "On Debian and Ubuntu: apt install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
