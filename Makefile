# make demo    train a small model on the songs in demo/ and convert one singer to the other (no GPU needed);
#              make demo DATA=folder does it on your own voices: one folder of recordings a speaker in it
# make quality measure the model of make demo; make quality ARGS="-m ... --sources ... --voices ..." another one
# make test    run all tests          make lint    ruff, mypy and import-linter
# make setup   only make .venv        make clean   remove .venv and caches; recordings, models and results stay
# On Windows without make: README.md gives the plain commands.

PYTHON ?= python3
JOBS ?= 2
DATA ?=
DEMO_MODEL := results/demo/work/logs/demo
ARGS ?= -m $(DEMO_MODEL)/G_best.pth -c $(DEMO_MODEL)/config.json --sources demo/held_out --voices demo/voices -f0p fcpe

BIN := .venv/bin
VENV_STAMP := .venv/.created
USER_STAMP := .venv/.installed
EVAL_STAMP := .venv/.installed-eval
DEV_STAMP := .venv/.installed-dev

.PHONY: help setup demo quality test lint clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# A stamp is made only after its work is done, so an install that was cut off is done again.
$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(USER_STAMP): requirements.txt $(VENV_STAMP)
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@

$(EVAL_STAMP): requirements-eval.txt requirements.txt $(VENV_STAMP)
	$(BIN)/python -m pip install -r requirements-eval.txt
	@touch $(USER_STAMP) $@

$(DEV_STAMP): requirements-dev.txt requirements-eval.txt requirements.txt $(VENV_STAMP)
	$(BIN)/python -m pip install -r requirements-dev.txt
	@touch $(USER_STAMP) $(EVAL_STAMP) $@

setup: $(USER_STAMP)

demo: $(USER_STAMP)
	$(BIN)/python scripts/demo.py $(if $(DATA),--data "$(DATA)")

quality: $(EVAL_STAMP)
	$(BIN)/python benchmarks/quality.py --download $(ARGS)

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
