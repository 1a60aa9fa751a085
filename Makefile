# Commands for people and for CI. `make verify` only reads and judges; `make fix` writes.
# Everything that is installed lives under target/: nothing on the machine is changed.

# The first interpreter that is new enough for us.
PYTHON ?= $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { command -v $$name; break; }; done)
VENV := $(CURDIR)/target/venv
BENCH_VENV := $(CURDIR)/target/bench-venv
PEERS_VENV := $(CURDIR)/target/bench-peers-venv
PEERS_NPM := $(CURDIR)/target/bench-peers-npm
BIN := $(VENV)/bin
export PYO3_PYTHON := $(BIN)/python
export VIRTUAL_ENV := $(VENV)
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# Clippy sees what maturin sees: else each of them builds pyo3 anew after the other.
AS_MATURIN = PYTHON_SYS_EXECUTABLE=$(BIN)/python PYO3_BUILD_EXTENSION_MODULE=1 \
	PYO3_CONFIG_FILE=$$(ls $(TARGET)/maturin/pyo3-config-*.txt | head -n 1) \
	PYO3_ENVIRONMENT_SIGNATURE=$$($(BIN)/python -c 'import platform, sys; print("cpython-%d.%d-%s" % \
	(*sys.version_info[:2], platform.architecture()[0]))')

RELEASE ?=
# How many processes share the Python tests: each has servers of its own.
JOBS ?= 2
SEED ?=
SEEDS ?=
FOLDER ?= docs
PROTOCOL_TESTS := test(/^(protocol|model|scenarios|coverage|protocols_page|simulation|tidy)/)
NEXTEST := cargo nextest run --no-fail-fast
# What only some later commits have is skipped until it is there.
PYTHON_SOURCES := $(wildcard python/unanimity tests/python examples benches)

.PHONY: help verify verify-rust verify-python fix quick python wheel test demo bench bench-peers bench-docs
.PHONY: bench-growth
.PHONY: simulate simulate-cluster scenarios docs faults

help:
	@grep -E '^# +make ' Makefile | sed 's/^# *//'

# make verify           the gate: changes nothing, exits 0 when everything holds
verify: verify-rust verify-python

verify-rust: python
	cargo fmt --all --check
	$(AS_MATURIN) cargo clippy --workspace --all-targets -- -D warnings
	$(NEXTEST) -p unanimity

verify-python: python
	$(BIN)/python -m mypy.stubtest unanimity._engine --ignore-disjoint-bases
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy --strict python/unanimity tests/python
	MYPYPATH=benches:tests/python $(BIN)/mypy --strict --explicit-package-bases benches
	$(BIN)/pytest tests/python -n $(JOBS) --dist loadfile

# make fix              formats, and mends what the linters can mend
fix: python
	$(AS_MATURIN) cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)
	$(BIN)/ruff format $(PYTHON_SOURCES)

# make quick            the tests of the words and the rules only
quick:
	$(NEXTEST) -p unanimity -E '$(PROTOCOL_TESTS)'

$(VENV)/ready: requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10 or later found; install python3 and python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# make python           the package, built and installed into target/venv; RELEASE=1 for the real speed
python: $(VENV)/ready
	$(BIN)/maturin develop --quiet $(if $(RELEASE),--release)

# make wheel            the wheel that users install, into target/wheels
wheel: $(VENV)/ready
	$(BIN)/maturin build --quiet --release --interpreter $(BIN)/python --out $(CURDIR)/target/wheels

# make test             all the set-up on a fresh machine, then the gate
test:
	command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked
	$(MAKE) verify

# make demo             builds the package for speed and runs the demo on FOLDER (the project's docs by default)
demo:
	$(MAKE) python RELEASE=1
	$(BIN)/unanimity demo $(FOLDER)

$(BENCH_VENV)/ready: benches/requirements.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# make bench            benchmarks beside their peers; BENCH="w3 --rounds 3" picks, BENCH=--quick only tries
bench: $(BENCH_VENV)/ready
	$(MAKE) python RELEASE=1
	$(MAKE) wheel
	cargo bench --quiet --bench journal --no-run
	$(BENCH_VENV)/bin/python benches/run.py $(BENCH)

# The peers of W1 need other versions of the same packages than ours do, and Node's npm.
$(PEERS_VENV)/ready: benches/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@# Only for the schema that it ships: what it needs itself, and a newer Python, it does not get.
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--ignore-requires-python django-absurd==1.0.1
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(PEERS_NPM) \
		@restatedev/restate-server@1.7.12
	touch $@

# make bench-peers      installs DBOS, absurd and Restate, then runs W1 beside them
bench-peers: $(BENCH_VENV)/ready $(PEERS_VENV)/ready
	$(MAKE) python RELEASE=1
	$(BENCH_VENV)/bin/python benches/run.py $(or $(BENCH),w1)

# make bench-growth     how rate and memory go with size, as docs/reference/growth.md (a quarter of an hour)
bench-growth: $(BENCH_VENV)/ready
	$(MAKE) python RELEASE=1
	$(BENCH_VENV)/bin/python benches/growth.py $(BENCH)

# make bench-docs       docs/reference/benchmarks.md, written from what `make bench` measured last
bench-docs: $(VENV)/ready
	$(BIN)/python benches/report.py

# make simulate SEED=7  one run of each simulation, step by step; SEEDS=100000 for the long mode
simulate:
	SEED=$(SEED) SEEDS=$(SEEDS) $(NEXTEST) -p unanimity --no-capture \
		-E 'test(/^simulation/)'

# make faults SEED=7    minutes of load on real nodes under kills, stops and partitions; SECONDS=600 for more
faults: python
	UNANIMITY_FAULT_SECONDS=$(or $(SECONDS),60) $(if $(SEED),SEED=$(SEED)) \
		$(BIN)/pytest -s tests/python/test_raft_faults.py \
		tests/python/test_raft_journal_faults.py -k 'every_promise or stores_agree'

# make simulate-cluster SEED=7  one run of the whole cluster, step by step; SEEDS=2000 for the long mode
simulate-cluster:
	SEED=$(SEED) SEEDS=$(SEEDS) $(NEXTEST) -p unanimity --no-capture \
		-E 'test(/^simulated_cluster::.*keeps_its_promises/)'

# make scenarios        rewrites the expected output of tests/scenarios; read the difference
scenarios:
	UPDATE_SCENARIOS=1 $(NEXTEST) -p unanimity -E 'test(/^scenarios::/)'

# make docs             rewrites what is printed from the code: protocols.md, configuration.md, metrics.md, crash-matrix.md
docs: python
	UPDATE_DOCS=1 $(NEXTEST) -p unanimity -E 'test(/^(protocols|configuration|metrics)_page::/)'
	UPDATE_DOCS=1 $(BIN)/pytest tests/python/test_crash_matrix.py
