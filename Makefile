# Each target does its own set-up. Nothing is needed beforehand but Python (3.11 to 3.13), make and git.

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print("$(python)")' 2>/dev/null)))
BIN := .venv/bin
# Bytecode is compiled once, here: an import of MLflow takes seconds without it.
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python .venv --build-constraints requirements/installer.txt

.DEFAULT_GOAL := help
.PHONY: help setup run ui serve test e2e check scan format compile images stack-up stack-train stack-down lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/laptop ## Make .venv with everything a laptop needs

run: .venv/laptop ## Train, judge and register a model on a simulated city: no network, about a minute
	@echo "The trips of this run are simulated. README.md shows the same on real ones."
	$(BIN)/tripcast train --source simulated

ui: .venv/laptop ## Open MLflow on what was tracked
	$(BIN)/tripcast ui

serve: .venv/laptop ## Predict with the model of `make run`: a web service and a page
	$(BIN)/tripcast serve --open

# A file of tests is one process's work: what it starts for itself, such as a server, is started once. There is a process
# for each core, so each trains with one thread; where a test asks for two, they wait for each other without spinning.
# Of all tests there is one process more, for those with containers, which wait most of the time (tests/conftest.py). The
# folders with the longest files come first, so that no process is left with one of them at the end.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest --dist loadfile --numprocesses
test-fast: .venv/dev ## Run the tests that start no process, server, container or browser: a minute
	$(PYTEST) auto tests/unit -m "not slow"

test: .venv/dev ## Run all tests but those of a cluster; with TRIPCAST_TLC_DIR=folder also those on real months
	$(PYTEST) $$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') --no-loadscope-reorder \
		tests/containers tests/browser tests/pipelines tests/serving tests/cluster tests/unit

e2e: .venv/dev ## Try everything on the cluster that kubectl is at, with an overlay in it: an hour (docs/kubernetes.md)
	$(BIN)/pytest -m e2e tests/e2e

check: .venv/dev ## Lint, types, layers, and whether compiled/ and docs/reference.md are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python compile.py --check
	$(BIN)/python docs/reference.py --check

scan: .venv/installer ## Look for known weaknesses in the locked dependencies, and for secrets in the history (Go)
	for rung in laptop pipeline serving mlflow; do \
		$(BIN)/uv tool run pip-audit@2.10.1 --strict --disable-pip --require-hashes -r requirements/$$rung.txt || exit 1; \
	done
	go run github.com/zricethezav/gitleaks/v8@v8.30.0 git --redact --no-banner

format: .venv/dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: .venv/dev ## Write docs/reference.md: steps, commands, settings and metrics
	$(BIN)/python docs/reference.py

compile: .venv/laptop ## Compile the pipelines to compiled/*.yaml
	$(BIN)/python compile.py

DOCKER ?= docker
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tripcast/__init__.py)
COMMIT := $(shell git describe --always --abbrev=40 --exclude='*' --dirty=+dirty 2>/dev/null)
images: ## Build the container images; with IMAGES=ghcr.io/OWNER/tripcast take those of this version's release instead
	for image in pipeline serving mlflow; do \
		$(if $(IMAGES),\
		$(DOCKER) pull $(IMAGES)/$$image:v$(VERSION) && \
			$(DOCKER) tag $(IMAGES)/$$image:v$(VERSION) tripcast/$$image:$(VERSION) || exit 1;,\
		DOCKER_BUILDKIT=1 $(DOCKER) build --file docker/Dockerfile --target $$image --tag tripcast/$$image:$(VERSION) \
			--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) . || exit 1;) \
	done

COMPOSE ?= docker compose
STACK = TRIPCAST_VERSION=$(VERSION) $(COMPOSE) --project-name tripcast --env-file docker/.env \
	--file docker/compose.yaml $(if $(filter minio,$(S3)),--file docker/compose.minio.yaml)
stack-up: images docker/.env ## Start object store, PostgreSQL, MLflow and the prediction service (S3=minio for MinIO)
	$(STACK) up --detach
	@echo "MLflow is at http://localhost:5000, predictions are at http://localhost:8080. Next: make stack-train"

stack-train: .venv/laptop docker/.env ## Train in containers on the running stack (TRAIN="--source ..." for other trips)
	set -a && . docker/.env && $(BIN)/tripcast train --runner docker $(or $(TRAIN),--source simulated)

stack-down: docker/.env ## Stop the stack; its data stays in Docker's volumes
	$(STACK) down

kind-up: images ## Make a cluster with kind: Kubeflow Pipelines, MLflow, stores, the prediction service (docs/kubernetes.md)
kind-train: .venv/laptop ## Train in that cluster (TRAIN="--param source=tlc ..." for other trips)
kind-open: ## Pages and predictions of that cluster on this machine's ports, until Ctrl-C
kind-down: ## Remove that cluster with all of its data
minikube-up: images ## The same with minikube: also minikube-train, minikube-open, minikube-down
minikube-train: .venv/laptop
LOCAL_CLUSTER := $(foreach cluster,kind minikube,$(addprefix $(cluster)-,up train open down))
.PHONY: $(LOCAL_CLUSTER)
$(LOCAL_CLUSTER):
	PYTHON=$(PYTHON) deploy/cluster.sh $(subst -, ,$@) $(if $(filter %-train,$@),$(or $(TRAIN),--param source=simulated))

docker/.env:
	umask 077 && $(PYTHON) deploy/new_secrets.py docker > $@

clean: ## Remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# One virtual environment: what development needs is added to what a laptop needs.
.venv/laptop .venv/dev: .venv/%: requirements/%.txt pyproject.toml | .venv/installer
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# The tests make a release, which needs this: it is not to be installed beneath tests that run.
.venv/dev: | .venv/laptop

.venv/installer: requirements/installer.txt
	@test -n "$(PYTHON)" || { echo "tripcast needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# After a change of the dependencies in pyproject.toml. One resolution: the smaller sets are cut out of the largest.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
# Packages that LightGBM and MLflow ask for, and that the prediction service never imports: scipy is for training,
# narwhals for LightGBM's Python API, git for the runs that a training tracks, the others are for MLflow's paid cloud.
# Without them its image is a third smaller.
NOT_SERVED := scipy narwhals gitpython gitdb smmap google-auth pyasn1 pyasn1-modules pycparser
lock: .venv/installer ## Pin all dependencies anew
	$(LOCK) --upgrade requirements/installer.in -o requirements/installer.txt
	$(LOCK) --upgrade pyproject.toml --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra laptop -c requirements/dev.txt -o requirements/laptop.txt
	$(LOCK) pyproject.toml --extra pipeline -c requirements/dev.txt -o requirements/pipeline.txt
	$(LOCK) pyproject.toml --extra serving -c requirements/dev.txt -o requirements/serving.txt \
		$(addprefix --no-emit-package ,$(NOT_SERVED))
	$(LOCK) pyproject.toml --extra server -c requirements/dev.txt -o requirements/mlflow.txt
