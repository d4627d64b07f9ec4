# `make` alone lists the targets. Everything lands in .venv and .cache; `make clean` removes both.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

ARGS ?=
PYTHON ?=
export PYTHON
# nginx is there on Debian, where the shell of an ordinary user does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

# Tests take from a tenth of a second to several: a process that is done takes work from the others. They wait for servers
# and clients for half of their time, so one process more than there are cores keeps all of them busy.
PYTEST := .venv/bin/pytest -n $$(($$(nproc) + 1)) --dist worksteal $(ARGS)
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
	@scripts/install-test-tools
	@$(PYTEST)

.PHONY: test-floors
test-floors: $(TOOLS) ## Run a part of the tests with the oldest dependencies that pyproject.toml allows
	@scripts/install-test-tools
	@scripts/test-floors $(ARGS)

.PHONY: test-postgresql
test-postgresql: $(TOOLS) ## Run on PostgreSQL what SQLite is tried with, and what replicas survive
	@scripts/install-test-tools
	@$(PYTEST) -m postgresql

# Where servers of the tests keep what is pushed: tests/backing.py. Empty: SQLite and a directory.
BACKING ?=
.PHONY: test-matrix
test-matrix: $(TOOLS) ## Run what is pushed by clients on another backing (BACKING="postgresql s3 3", ARGS="tests/push")
	@scripts/install-test-tools
	@HARMONIA_PY_BACKING="$(or $(BACKING),postgresql s3 3)" $(PYTEST) $(if $(ARGS),,tests/e2e/test_push.py tests/e2e/test_push_client.py tests/security/test_hostile_pushes.py)

.PHONY: test-replicas
test-replicas: $(TOOLS) ## Kill three replicas, restart PostgreSQL, let the bucket fail, for 15 minutes (SECONDS=, SEED=)
	@scripts/install-test-tools
	@HARMONIA_PY_REPLICAS_SECONDS=$(or $(SECONDS),900) HARMONIA_PY_SEED=$(or $(SEED),0) .venv/bin/pytest $(EVERYTHING) tests/faults/test_replicas.py -k bucket $(ARGS)

.PHONY: test-nix-versions
test-nix-versions: $(TOOLS) ## Run every pair of Nix 2.8, 2.26 and 2.34, as daemon and client, as who pushes and who substitutes (as root, on Debian)
	@scripts/install-test-tools
	@scripts/make-nix-versions
	@HARMONIA_PY_BACKING="$(BACKING)" $(PYTEST) $(EVERYTHING) tests/e2e/test_nix_versions.py tests/e2e/test_push_versions.py

.PHONY: test-s3
test-s3: $(TOOLS) ## What is kept in a bucket, against a real server of S3 and one that answers wrongly
	@scripts/install-test-tools
	@$(PYTEST) -m s3 tests/s3 tests/faults tests/contracts tests/attic $(ARGS)

.PHONY: test-slow
test-slow: $(TOOLS) ## Run the other slow tests: gigabytes, a hundred thousand files, every attack of one address
	@scripts/install-test-tools
	@$(PYTEST) -m slow --ignore=tests/e2e/test_nix_versions.py --ignore=tests/e2e/test_push_versions.py --ignore=tests/systemd --ignore=tests/release --ignore=tests/container

.PHONY: test-power-cuts
test-power-cuts: $(TOOLS) ## Kill workers and cut the power 200 times while clients push (as root; ROUNDS=, SEED=)
	@scripts/install-test-tools
	@HARMONIA_PY_BACKING="$(BACKING)" HARMONIA_PY_POWER_CUTS=$(or $(ROUNDS),200) HARMONIA_PY_SEED=$(or $(SEED),0) .venv/bin/pytest $(EVERYTHING) tests/faults/test_push_kills.py $(ARGS)

.PHONY: model
model: $(TOOLS) ## Take a million steps of the model of what is kept (ARGS="--steps 20000 --processes 2 --seed 1")
	@PYTHONPATH=tests:tests/model:. .venv/bin/python -m many_steps $(ARGS)

.PHONY: measure-attacks
measure-attacks: $(TOOLS) ## Measure what other clients notice of one hostile address, on a quiet machine
	@scripts/install-test-tools
	@HARMONIA_PY_MEASURE=1 .venv/bin/pytest $(EVERYTHING) tests/security/test_one_hostile_address.py $(ARGS)

.PHONY: test-systemd
test-systemd: $(TOOLS) ## Boot a machine in a folder and run the service there (as root, on Debian)
	@.venv/bin/pytest $(EVERYTHING) tests/systemd $(ARGS)

.PHONY: test-container
test-container: $(TOOLS) ## Build the image of container/ and run it with podman (as root, on Debian; needs no registry)
	@scripts/install-test-tools
	@.venv/bin/pytest $(EVERYTHING) tests/container $(ARGS)

# The soak's own network is that of the machine it boots; what it imports of the tests is in tests/.
SOAK := PYTHONPATH=tests:. .venv/bin/python -m soak

.PHONY: test-soak
test-soak: $(TOOLS) ## Soak that service for a minute and a half: everything asked and done at once (as root, on Debian)
	@$(SOAK) --seconds 90 $(ARGS)

.PHONY: soak
soak: $(TOOLS) ## The same for half an hour (ARGS="--seconds 600 --seed 7 --json FILE")
	@$(SOAK) --seconds 1800 $(ARGS)

KEPT_SOAK := HARMONIA_PY_BACKING="$(BACKING)" PYTHONPATH=tests:. .venv/bin/python -m soak.kept

.PHONY: test-soak-kept
test-soak-kept: $(TOOLS) ## Soak what is pushed for 75 s: pushes, kills, a full disk, lost files (as root; BACKING="postgresql s3")
	@scripts/install-test-tools
	@$(KEPT_SOAK) --seconds 75 $(ARGS)

.PHONY: soak-kept
soak-kept: $(TOOLS) ## The same for an hour (ARGS="--seconds 900 --seed 7 --json FILE")
	@scripts/install-test-tools
	@$(KEPT_SOAK) --seconds 3600 $(ARGS)

.PHONY: test-browser
test-browser: $(TOOLS) ## Look at the pages in Chromium; pictures go to .cache/screenshots
	@scripts/install-test-tools
	@scripts/install-chromium
	@.venv/bin/pytest -m browser tests/browser $(ARGS)

.PHONY: test-all
test-all: $(TOOLS) ## Run all tests, the slow ones too, and other Nix versions where it can
	@scripts/install-test-tools
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

.PHONY: map
map: ## Print every module with its first line (ARGS="catalog web/fast": of these packages)
	@python3 scripts/map.py $(ARGS)

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
dist: $(TOOLS) ## Make what a release consists of in dist/: wheel, source, the one file, manual page, notes, checksums
	@rm -f dist/*.whl dist/*.tar.gz
	@SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}" .venv/bin/python -c 'from setuptools import build_meta; build_meta.build_wheel("dist"); build_meta.build_sdist("dist")' >/dev/null
	@.venv/bin/python scripts/make_single_file.py $(ARGS)
	@.venv/bin/python scripts/sbom.py >dist/harmonia-py.cdx.json
	@.venv/bin/python scripts/release_files.py

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
