# make help lists the targets. Only Python 3.11+, git and make are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REPEATS ?= 5
# Three test processes share the tests, as many wait for a run of theirs; JOBS=0 runs all in one, for a debugger.
JOBS ?= 3
PARALLEL := -n $(JOBS) --dist worksteal
# The folders that start real runs, servers, browsers or node, or kill what they started.
SLOW := browser cli clients docs e2e faults server slurm supervise verbs
# The inspector wants a newer node than Debian has, so node comes along.
NPM_TOOLS := node@22.23.3 @modelcontextprotocol/inspector@2.12.0 @modelcontextprotocol/conformance@0.2.0-alpha.12 \
	@modelcontextprotocol/sdk@1.32.2 @modelcontextprotocol/client@2.4.0 \
	@anthropic-ai/claude-code@2.1.197 @openai/codex@0.171.0 @google/gemini-cli@0.61.0
# Libraries that turn our tools into a model's; they want another MCP SDK than we do.
CONVERTERS := google-genai==3.6.1 openai-agents==0.24.0 anthropic==2.14.0 semantic-kernel==1.45.0
# Its thirteen packages are of no use to the tests, so it has an environment of its own.
MUTATION_TOOL := cosmic-ray==8.7.0

.DEFAULT_GOAL := help
.PHONY: help demo test-fast test coverage test-browser test-clients test-slurm lint bench kills faults chances mutate lock clean docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.run ## calibrate a real speech workload on this CPU, through the MCP server
	$(BIN)/tune-mcp demo --repeats $(REPEATS)

test-fast: $(VENV)/.dev ## the tests that start no run, server or browser (90 seconds on two cores)
	$(BIN)/python -m pytest $(PARALLEL) $(SLOW:%=--ignore=tests/%)

test: $(VENV)/.dev ## all tests that need neither a browser, node nor Slurm (8 minutes on two cores)
	$(BIN)/python -m pytest $(PARALLEL) --ignore=tests/browser --ignore=tests/clients --ignore=tests/slurm

coverage: $(VENV)/.dev ## the same but for kills and crashes, with the share of lines and branches that they reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --ignore=tests/browser --ignore=tests/clients --ignore=tests/slurm --ignore=tests/faults
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-browser: $(VENV)/.dev ## open report and dashboard in a headless Chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pytest tests/browser

test-clients: $(VENV)/.dev .npm/.ready .converters/.ready ## inspector, conformance suite, converters, agents (Debian: apt-get install npm)
	$(BIN)/python -m pytest tests/clients

test-slurm: $(VENV)/.dev ## runs on a two-node Slurm of their own, as root (apt-get install slurmctld slurmd slurm-client munge)
	$(BIN)/python -m pytest -rs -n 2 --dist worksteal tests/slurm

.converters/.ready: Makefile
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .converters
	$(BIN)/uv pip install --quiet --python .converters/bin/python $(CONVERTERS)
	@touch $@

.npm/.ready: Makefile
	npm install --prefix .npm --no-save --no-package-lock --no-audit --no-fund --silent $(NPM_TOOLS)
	@touch $@

lint: $(VENV)/.dev ## formatting, style, types, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

kills: $(VENV)/.dev ## kill processes of real runs at 205 random moments, 20 on two lanes (TUNE_FAULT_SEED=N; 3 minutes)
	TUNE_FAULT_KILLS=205 TUNE_LANE_KILLS=20 $(BIN)/python -m pytest -q -s $(PARALLEL) tests/faults/test_kills.py

faults: $(VENV)/.dev ## kill runs and edit, copy and delete their files at random, 300 and 1,200 rounds (TUNE_FAULT_SEED=N; an hour)
	TUNE_FAULT_ROUNDS=$${TUNE_FAULT_ROUNDS:-300} $(BIN)/python -m pytest -q -s tests/faults/test_tampering.py

bench: $(VENV)/.dev ## figures, each as a ratio measured side by side (10 minutes and more)
	$(BIN)/python benchmarks/run.py

chances: $(VENV)/.dev ## whether the printed chances come true: predicted / actual (30 seconds)
	$(BIN)/python benchmarks/chances.py

mutate: $(VENV)/.dev .mutate/.ready ## mutate the modules that decide (MODULE=part/of/path, MOST=sample); hours without MODULE
	.mutate/venv/bin/python tests/mutation/run.py $(MODULE) $(if $(MOST),--most $(MOST)) --python $(CURDIR)/$(BIN)/python

.mutate/.ready: Makefile
	$(PYTHON) -m venv .mutate/venv
	.mutate/venv/bin/python -m pip install --quiet --disable-pip-version-check $(MUTATION_TOOL)
	@touch $@

docs: $(VENV)/.dev ## write the reference pages that are made from code
	$(BIN)/python docs/reference/generate.py

lock: ## write both lock files anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock

clean: ## forget environments and caches
	rm -rf $(VENV) .mutate .converters .pytest_cache .ruff_cache .coverage*
