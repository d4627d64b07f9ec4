# `make` alone lists the targets. Everything lands in .venv and .cache; `make clean` removes both.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

ARGS ?=
PYTHON ?=
export PYTHON

# Tests take from a tenth of a second to several: who is done takes work from the others.
PYTEST := .venv/bin/pytest -n auto --dist worksteal $(ARGS)
# Empty: no `-m` of pyproject.toml's, so the slow tests as well.
EVERYTHING := -m ""

# A stamp says that .venv has what a lock file says; .venv with the tools also has what is needed to run.
RUNNABLE := .venv/.runnable
TOOLS := .venv/.tools

$(RUNNABLE): requirements-build.lock requirements.lock pyproject.toml scripts/make-venv
	@scripts/make-venv requirements.lock
	@touch $@

$(TOOLS): requirements-build.lock requirements-dev.lock pyproject.toml scripts/make-venv
	@scripts/make-venv requirements-dev.lock
	@touch $@ $(RUNNABLE)

.PHONY: run
run: $(RUNNABLE) ## Serve this machine's store on port 5000 (ARGS="--bind 127.0.0.1:8080", "--config FILE")
	@exec .venv/bin/harmonia-py serve $(ARGS)

.PHONY: test
test: $(TOOLS) ## Run the fast tests, against the real Nix (ARGS="tests/e2e -x")
	@scripts/install-nix
	@$(PYTEST)

.PHONY: test-nix-versions
test-nix-versions: $(TOOLS) ## Run every pair of Nix 2.8, 2.26 and 2.34, as daemon and as client (as root, on Debian)
	@scripts/install-nix
	@scripts/make-nix-versions
	@$(PYTEST) $(EVERYTHING) tests/e2e/test_nix_versions.py

.PHONY: test-slow
test-slow: $(TOOLS) ## Run the other slow tests: gigabytes, a hundred thousand files
	@scripts/install-nix
	@$(PYTEST) -m slow --ignore=tests/e2e/test_nix_versions.py --ignore=tests/systemd --ignore=tests/release --ignore=tests/container

.PHONY: test-systemd
test-systemd: $(TOOLS) ## Boot a machine in a folder and run the service there (as root, on Debian)
	@.venv/bin/pytest $(EVERYTHING) tests/systemd $(ARGS)

.PHONY: test-container
test-container: $(TOOLS) ## Build the image of container/ and run it with podman (as root, on Debian; needs no registry)
	@scripts/install-nix
	@.venv/bin/pytest $(EVERYTHING) tests/container $(ARGS)

# The soak's own network is that of the machine it boots; what it imports of the tests is in tests/.
SOAK := PYTHONPATH=tests:. .venv/bin/python -m soak

.PHONY: test-soak
test-soak: $(TOOLS) ## Soak that service for a minute and a half: everything asked and done at once (as root, on Debian)
	@$(SOAK) --seconds 90 $(ARGS)

.PHONY: soak
soak: $(TOOLS) ## The same for half an hour (ARGS="--seconds 600 --seed 7 --json FILE")
	@$(SOAK) --seconds 1800 $(ARGS)

.PHONY: test-browser
test-browser: $(TOOLS) ## Look at the pages in Chromium; pictures go to .cache/screenshots
	@scripts/install-nix
	@scripts/install-chromium
	@.venv/bin/pytest -m browser tests/browser $(ARGS)

.PHONY: test-all
test-all: $(TOOLS) ## Run all tests, the slow ones too, and other Nix versions where it can
	@scripts/install-nix
	@scripts/make-nix-versions || [[ $$? == 77 ]]
	@scripts/make-machine >/dev/null || [[ $$? == 77 ]]
	@scripts/install-chromium || [[ $$? == 77 ]]
	@$(PYTEST) $(EVERYTHING)

.PHONY: check
check: $(TOOLS) ## Lint, check formatting, types, the direction of imports, and that lock files and reference are current
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/python scripts/lock.py --check
	@.venv/bin/python scripts/generate_reference.py --check

.PHONY: format
format: $(TOOLS) ## Format, and mend what the linter can mend
	@.venv/bin/ruff check --fix-only
	@.venv/bin/ruff format

.PHONY: bench
bench: $(TOOLS) ## Measure beside nginx on real files, and rewrite benchmarks/results (benchmarks/README.md)
	@.venv/bin/python -m benchmarks.run $(ARGS)

.PHONY: lock
lock: $(TOOLS) ## Make the lock files after a change of dependencies (ARGS=--upgrade: newest versions; needs uv)
	@.venv/bin/python scripts/lock.py $(ARGS)

DOCS := .venv/.docs

$(DOCS): requirements-docs.lock $(TOOLS)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-docs.lock
	@touch $@

.PHONY: docs
docs: $(DOCS) ## Write the reference from the code, and build the documentation in .cache/site (every link is checked)
	@.venv/bin/python scripts/generate_reference.py
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict
	@.venv/bin/python scripts/check_site.py .cache/site

.PHONY: dist
dist: $(TOOLS) ## Build wheel, source archive, the one file, and the bill of materials in dist/
	@SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}" .venv/bin/python -c 'from setuptools import build_meta; build_meta.build_wheel("dist"); build_meta.build_sdist("dist")' >/dev/null
	@.venv/bin/python scripts/make_single_file.py $(ARGS)
	@.venv/bin/python scripts/sbom.py >dist/harmonia-py.cdx.json
	@ls dist

.PHONY: test-dist
test-dist: $(TOOLS) ## Make the one file and try it where there is nothing but Python (as root, on Debian)
	@.venv/bin/pytest $(EVERYTHING) tests/release $(ARGS)

.PHONY: audit
audit: $(TOOLS) ## Look for known vulnerabilities in the locked dependencies; says so when nobody can be asked
	@scripts/audit

.PHONY: release-check
release-check: $(TOOLS) ## Check that this commit can be released: changelog, tag, locks, reference, a wheel that is reproducible
	@.venv/bin/python scripts/release_check.py

.PHONY: clean
clean: ## Remove everything that was made here
	@rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
