# Start with `make demo` and `make test`; `make help` lists all targets.
# Python packages are in .venv, from pinned constraints. Long builds are cached in $XDG_CACHE_HOME/galactic
# (~/.cache/galactic).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For tests of a part: make test ARGS="tests/unit -k table"
ARGS ?=
# Processes that run tests: three for two processors, as some of them wait. Each has a lab of its own; with GALACTIC_LAB
# all tests run in that one.
WORKERS ?= $(if $(GALACTIC_LAB),0,$(shell echo $$(($$(nproc) * 3 / 2))))
# pytest ends with a table of the versions that tests used, and of builds since this time.
VERSIONS := --versions=$(shell date +%s)

.PHONY: help venv demo test plugin unit check generate format docs image sbom audit clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/made: pyproject.toml lab/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=…"; exit 1; }
	@echo "making .venv (once)"
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e lab
	@touch $@

$(VENV)/docs-made: $(VENV)/made
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# Without a network `make audit` reports that nothing was audited, and passes.
$(VENV)/audit-made: $(VENV)/made
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	@touch $@

venv: $(VENV)/made ## the Python environment

demo: venv ## a 3-node lab with two VPCs, and proof that they work; KEEP=1 leaves it running
	@$(BIN)/galactic demo $(if $(KEEP),--keep) $(ARGS)

test: venv $(VENV)/docs-made ## all tests: units, kernels, databases, brokers, image, chart, end to end; WORKERS=1 one by one
	@$(BIN)/galactic lab build
ifeq ($(ARGS),)
	@$(BIN)/pytest tests -n $(WORKERS) --dist loadfile $(VERSIONS)
else
	@$(BIN)/pytest $(VERSIONS) $(ARGS)
endif

plugin: venv ## the CNI plugin with an interpreter of its own, into dist/plugin
	@$(BIN)/python -m cni_plugin.bundle dist/plugin $(BIN_DIR)

unit: venv ## unit tests alone, in a minute or so
	@$(BIN)/pytest tests/unit -n $(WORKERS) --dist worksteal $(VERSIONS) $(ARGS)

check: venv ## style, types, layers, generated files, words of prose
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m galactic.crds.schema --check crds charts/galactic/files/crds
	@PYTHONPATH=tools $(BIN)/python -m release.manifest --check
	@PYTHONPATH=tools $(BIN)/python -m reference --check docs
	@PYTHONPATH=tools $(BIN)/python -m observability --check
	@PYTHONPATH=tools $(BIN)/python -m release.licences --check
	@PYTHONPATH=tools $(BIN)/python -m prose
	-@$(MAKE) --no-print-directory $(VENV)/audit-made
	@PYTHONPATH=tools $(BIN)/python -m release.audit

generate: venv ## CRDs from the models, dist/install.yaml from the chart, reference pages from the code
	@$(BIN)/python -m galactic.crds.schema crds charts/galactic/files/crds
	@PYTHONPATH=tools $(BIN)/python -m release.manifest
	@PYTHONPATH=tools $(BIN)/python -m reference docs
	@PYTHONPATH=tools $(BIN)/python -m observability
	@PYTHONPATH=tools $(BIN)/python -m release.licences
	@PYTHONPATH=tools $(BIN)/python -m prose --write

image: venv ## the image, by docker, podman or buildah: IMAGE=name:tag BASE=image NEWER=image ENGINE=… TARGET=dev PIP=machine
	@PYTHONPATH=tools $(BIN)/python -m release.image --tag '$(IMAGE)' --base '$(BASE)' --newer '$(NEWER)' --engine '$(ENGINE)' --target '$(or $(TARGET),image)' --pip '$(PIP)'

sbom: venv ## the image's libraries from PyPI, as CycloneDX, into dist/
	@PYTHONPATH=tools $(BIN)/python -m release.sbom

audit: venv ## known vulnerabilities of the image's libraries
	-@$(MAKE) --no-print-directory $(VENV)/audit-made
	@PYTHONPATH=tools $(BIN)/python -m release.audit

docs: $(VENV)/docs-made ## the documentation as web pages, into dist/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "dist/docs/index.html"

format: venv ## ruff's automatic fixes
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

clean: ## .venv and caches of this checkout (not what was built: ~/.cache/galactic)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
