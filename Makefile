# StreetVision: `make run` does the main job end to end, `make test` runs the tests. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
UV_TARGET := .uv
EXTRAS := data,synthesize,train,onnx,registry,pipelines,predictor,tensorrt,miner
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
TORCH_BACKEND ?=
DATA ?=
PRESET ?=
STATE ?= .streetvision
PROFILE ?= kind
ARGS ?=
PYTEST := $(PY) -m pytest
PYTEST_2 := OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile # two files at a time

export DATA PRESET STATE # through the environment, so that any name of a folder is safe
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

##@ The two commands

.PHONY: run
run: $(VENV)/.installed ## the main job, end to end; DATA=folder for your own photos, PRESET=dinov2-base for another backbone
	@$(PY) -m serving.local --state "$$STATE" run $${DATA:+--data "$$DATA"} $${PRESET:+--preset "$$PRESET"} $(ARGS)

.PHONY: test
test: $(VENV)/.installed ## every test that needs nothing but PyPI (about 15 minutes); what is left out is counted
	@$(PYTEST_2) tests/unit -q -m "not gpu" $(ARGS)
	@$(PYTEST_2) --ignore tests/unit -q -m "not gpu and not cluster and not images" --durations=10 $(ARGS)

##@ A stack that stays up

.PHONY: up
up: $(VENV)/.installed ## predictor, miner edge and MLflow stay running (after the main job, where there is no champion)
	@$(PY) -m serving.local --state "$$STATE" up $(ARGS)

.PHONY: down
down: $(VENV)/.installed ## stops what `make up` started
	@$(PY) -m serving.local --state "$$STATE" down

.PHONY: status
status: $(VENV)/.installed ## what is running, which model, where
	@$(PY) -m serving.local --state "$$STATE" status $(ARGS)

##@ On Kubernetes

.PHONY: images
images: $(VENV)/.installed ## every container image but the GPU ones, with its size and what is inside (an engine is installed where none is)
	@$(PY) -m tests.cluster engine
	@$(PY) -m manifests.images $(ARGS)

.PHONY: kind-up
kind-up: $(VENV)/.installed ## a local cluster with cert-manager, KServe and kwok; no registry is needed
	@$(PY) -m tests.cluster up $(ARGS)
	@$(PY) -m tests.cluster load

.PHONY: kind-down
kind-down: $(VENV)/.installed ## removes the local cluster and all that was started for it; what was built is kept
	@$(PY) -m tests.cluster down $(ARGS)

.PHONY: deploy
deploy: $(VENV)/.installed ## brings the whole stack to the current cluster: PROFILE=kind or PROFILE=gpu; says what the cluster lacks
	@if test $(PROFILE) = kind; then $(PY) -m tests.cluster load; fi
	@$(PY) -m manifests.deploy $(PROFILE) $(ARGS)

.PHONY: image-test
image-test: $(VENV)/.installed ## the images that `make images` built: contents, sizes, how they run
	@$(PYTEST) tests/images -q -m images $(ARGS)

.PHONY: cluster-test
cluster-test: $(VENV)/.installed ## the charts on the cluster of KUBECONFIG; what it lacks is skipped by name and counted
	@$(PY) -m tests.cluster load
	@$(PYTEST_2) tests/cluster -q -m cluster --durations=10 $(ARGS)

.PHONY: test-full
test-full: test images image-test kind-up deploy cluster-test kind-down ## `make test` and all that needs apt, Go and root

##@ Development

.PHONY: install
install: $(VENV)/.installed ## the virtual environment alone

.PHONY: unit
unit: $(VENV)/.installed ## the unit suite alone, under a minute
	@$(PYTEST_2) tests/unit -q -m "not slow and not gpu" $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.installed ## hostile input, 5,000 cases of each kind
	@HYPOTHESIS_PROFILE=fuzz $(PYTEST) -q -m fuzz $(ARGS)

.PHONY: check
check: $(VENV)/.installed ## ruff, pyright and the import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright
	@$(PYTEST) -q tests/unit/test_import_rules.py

.PHONY: tools
tools: ## an S3 server that checks signatures (with Go) and promtool (with apt), for the tests that need them, into .tools
	@. manifests/versions.env; test -x .tools/versitygw || \
	  GOBIN="$$PWD/.tools" go install "github.com/versity/versitygw/cmd/versitygw@$$VERSITYGW_VERSION"
	@test -x .tools/promtool || { folder=$$(mktemp -d); trap 'rm -r "$$folder"' EXIT; \
	  (cd "$$folder" && apt-get -q download prometheus && dpkg-deb -x prometheus_*.deb .); cp "$$folder/usr/bin/promtool" .tools/; }

.PHONY: compile
compile: $(VENV)/.installed ## writes pipelines/compiled/*.yaml
	@$(PY) -m pipelines compile

.PHONY: bench
bench: $(VENV)/.installed ## measures the figures of docs/benchmarks.md
	@$(PY) -m tests.bench $(ARGS)

.PHONY: figures
figures: $(VENV)/.installed ## draws the plots of docs/ anew
	@$(PY) -m docs.figures.subnet
	@$(PY) -m docs.figures.power

.PHONY: constraints
constraints: $(VENV)/.installed ## pins every version anew in constraints.txt, within pyproject.toml
	@$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --all-extras --group dev --no-header --no-annotate \
	  --no-emit-index-url pyproject.toml -o constraints.txt

.PHONY: clean
clean: ## removes the virtual environment and all local state
	@rm -rf $(VENV) $(UV_TARGET) .tools .streetvision

# The environment: .venv made by venv, or by uv where python3 has pip but no venv; then everything by uv from constraints.txt.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "found $$($(PYTHON) --version 2>&1), expected Python 3.11 or 3.12: name one with \`make PYTHON=python3.12 ...\`" >&2; exit 1; }
	@if ! test -x $(PY) || ! $(PY) -m uv --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  if $(PYTHON) -m venv $(VENV) >/dev/null 2>&1; then \
	    $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt uv; \
	  elif rm -rf $(VENV) && $(PYTHON) -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade --target $(UV_TARGET) uv 2>/dev/null; then \
	    PYTHONPATH=$(UV_TARGET) $(PYTHON) -m uv venv -q --python $(PYTHON) $(VENV); \
	    PYTHONPATH=$(UV_TARGET) $(PYTHON) -m uv pip install -q --python $(PY) -c constraints.txt uv; \
	  else \
	    echo "python3 has neither venv nor pip: install one of them (Debian and Ubuntu: \`apt-get install python3-venv\`) and run make again" >&2; exit 1; \
	  fi; \
	fi
	@echo "installing what constraints.txt pins into $(VENV) (about 6 GB with PyPI's CUDA build of PyTorch; TORCH_BACKEND=cpu makes it 2 GB)"
	@$(PY) -m uv pip install -q --python $(PY) -c constraints.txt $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) \
	  --compile-bytecode -e '.[$(EXTRAS)]' --group dev
	@touch $@

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
