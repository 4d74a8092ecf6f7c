# qianyan: make run, make test; `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

PUBLIC_PORT  ?= 8080
PRIVATE_PORT ?= 8443
DIR          ?= var
SOAK_SECONDS ?= 30
SOAK_ROUNDS  ?= 5
LOAD_SECONDS ?= 120

NATIVE := $(shell find signer/_native signer/issuance service/wire status signer/engine/sdf qianyan_status crl loadtest -name '*.c' ! -name '*_cy.c' -o -name '*.h' -o -name "*.pyx" -o -name "*.pxi" -o -name "*.pxd" -o -name build.py -o -path crl/extensions.py)

BUILD_PACKAGES := gcc libc6-dev libldap2-dev libsasl2-dev
TEST_PACKAGES  := openssl default-jdk-headless libbcprov-java libbcpkix-java libbcutil-java valgrind binutils clang \
  libclang-rt-14-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user postgresql redis-server slapd ldap-utils nginx-light wrk \
  poppler-utils fonts-dejavu-core fonts-droid-fallback \
  chromium prometheus haproxy docker-compose systemd
LOAD_PACKAGES  := postgresql redis-server slapd ldap-utils

.PHONY: help run test lint bench dudect soak fuzz lock clean simulate load load-smoke bench-save bench-compare bench-counted capacity-measure
.DELETE_ON_ERROR:

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(VENV)/.built ## build, make a demonstration authority under ./var, start, walk the main job, keep serving
	@$(BIN)/qianyan demo --dir $(DIR) --public-port $(PUBLIC_PORT) --private-port $(PRIVATE_PORT)

test: $(VENV)/.built-dev ## everything that judges the project: style, types, contracts, tests against real peers
	@tools/apt-need.sh "the tests judge with them" $(TEST_PACKAGES)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.built-dev ## the part of `make test` that reads the sources only
	$(BIN)/python -m pytest -q tests/test_sources.py

bench: $(VENV)/.built-dev ## native core (each backend) beside tongsuopy, gmssl and OpenSSL, /v1/sign beside aiohttp alone, devices
	@tools/apt-need.sh "the load generator" wrk
	@for backend in $$($(BIN)/python -c 'from signer._native import cpu; print(*cpu.backends())'); do \
	  QIANYAN_NATIVE_BACKEND=$$backend taskset -c 0 $(BIN)/python tests/bench/native_bench.py || exit 1; done
	$(BIN)/python tests/bench/http_bench.py
	$(BIN)/python tests/bench/ocsp_bench.py
	$(BIN)/python tests/bench/verify_bench.py
	$(BIN)/python tests/bench/hsm_bench.py
	$(BIN)/python -m tests.bench.store_bench
	$(BIN)/python -m tests.bench.issuance_bench
	$(BIN)/python -m tests.bench.registration_bench
	$(BIN)/python -m tests.bench.statistics_bench
	$(BIN)/python -m tests.bench.directory_bench
	taskset -c 0 $(BIN)/python tests/bench/set_bench.py
	taskset -c 0 $(BIN)/python tests/bench/crl_bench.py
	$(BIN)/python -m tests.bench.status_bench

load: $(VENV)/.built-dev ## PostgreSQL, Redis, slapd and the service under the standard mix: a report in ./var/load (LOAD_ARGS)
	@tools/apt-need.sh "what is loaded" $(LOAD_PACKAGES)
	$(BIN)/python -m tests.load_world --duration $(LOAD_SECONDS) --out var/load $(LOAD_ARGS)

load-smoke: $(VENV)/.built-dev ## the same for some seconds, judged: part of `make test`
	@tools/apt-need.sh "what is loaded" $(LOAD_PACKAGES)
	$(BIN)/python -m pytest -q -n0 tests/test_load_running.py -k smoke

SUITE = $(BIN)/python -m pytest -n0 -q -o python_files='bench_*.py' tests/bench/suite --benchmark-quiet \
  --benchmark-json=var/bench-suite.json

bench-save: $(VENV)/.built-dev ## the suites of tests/bench/suite; what they measure becomes the baseline
	@mkdir -p var
	$(SUITE) && $(BIN)/python -m tests.bench.compare var/bench-suite.json --write

bench-compare: $(VENV)/.built-dev ## the same suites beside the baseline: what is slower by a fifth is marked, nothing fails
	@mkdir -p var
	$(SUITE) && $(BIN)/python -m tests.bench.compare var/bench-suite.json

bench-counted: $(VENV)/.built-dev ## instructions of a few operations, counted, beside their limits in the tree
	@tools/apt-need.sh "the counter" valgrind binutils gcc
	$(BIN)/python -m tests.bench.counted

capacity-measure: $(VENV)/.built-dev ## every coefficient of `qianyan plan`, measured here; writes it and docs/capacity.md (CAPACITY_ARGS)
	@tools/apt-need.sh "the load and what is loaded" wrk nginx-light $(LOAD_PACKAGES)
	$(BIN)/python -m tests.bench.capacity_bench $(CAPACITY_ARGS)

simulate: $(VENV)/.built-dev ## a year of revocations for 1,000,000 holders: the delays to OCSP, CRL, delta, file and directory
	@tools/apt-need.sh "the simulated directory" slapd ldap-utils
	$(BIN)/python tests/simulate/year.py

dudect: $(VENV)/.built-dev ## constant time: by every compiler and level under valgrind, and by measurement, a minute an operation
	QIANYAN_NATIVE_ALL=1 $(BIN)/python -m pytest -q -n0 tests/native/test_ctime.py tests/native/test_c_core.py
	QIANYAN_DUDECT_SECONDS=60 $(BIN)/python -m pytest -q -s -n0 tests/native/test_dudect.py

soak: $(VENV)/.built-dev ## every fault under load, SOAK_SECONDS each, SOAK_ROUNDS times: no answer may be wrong
	QIANYAN_SOAK_SECONDS=$(SOAK_SECONDS) QIANYAN_SOAK_ROUNDS=$(SOAK_ROUNDS) \
	  $(BIN)/python -m pytest -q -s -n0 tests/test_status_faults.py

fuzz: $(VENV)/.built-dev ## ten minutes of each fuzzing program; what it finds goes to ./var/fuzz
	QIANYAN_FUZZ_SECONDS=600 QIANYAN_FUZZ_KEEP=var/fuzz $(BIN)/python -m pytest -q -n0 tests/fuzz

lock: $(VENV)/.built-dev ## resolve requirements/*.lock anew
	$(PIP) install uv
	$(BIN)/uv pip compile -q pyproject.toml --group build --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade -o requirements/run.lock
	$(BIN)/uv pip compile -q pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade -o requirements/dev.lock

clean: ## remove what was built; ./var stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find signer/_native signer/issuance service/wire status signer/engine/sdf qianyan_status loadtest -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that pip and the compiler work in; Debian keeps venv and the headers in packages of their own.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || tools/apt-need.sh "Python itself" python3
	@tools/python-ready.sh $(PYTHON)
	@printf '#include <ldap.h>\n#include <sasl/sasl.h>\n' | gcc -E -o /dev/null - 2>/dev/null || \
	  tools/apt-need.sh "the compiled core and the LDAP client" $(BUILD_PACKAGES)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.deps: requirements/run.lock | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements/run.lock
	@touch $@

$(VENV)/.deps-dev: requirements/dev.lock | $(VENV)/.deps
	$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/.built: $(VENV)/.deps setup.py pyproject.toml $(NATIVE)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.built-dev: $(VENV)/.deps-dev $(VENV)/.built
	@touch $@
