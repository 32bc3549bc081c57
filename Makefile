# The contributor's whole interface: .ci/run calls the same targets.
#   make serve     run the service on 127.0.0.1:8000 (SONOTAG_HOST, SONOTAG_PORT and every other setting change it)
#   make test      run the tests but the slow ones, in three processes (minutes; TEST_PROCESSES, 0 for this one)
#   make test-slow run the slow ones      make lint types coverage    the other checks
#   make format    put the code in order  make export   rebuild the embedded bundle
#   make bench     compare the model with others, find out what the service can take here, and print the goals: minutes, into
#                  build/bench
#   make chaos     thousands of requests and streams while workers are killed (CHAOS_DEEDS=3000)
#   make load      overload with admission and without, and what one bad client costs the others (ten minutes)
#   make soak      clients who come and go, and what is left of it (SOAK_MINUTES=30)
#   make image-test  run the image's own steps in a clean Debian, and serve from it (root, debootstrap, a minute)
#   make gpu-test  try the steps of the GPU's benchmark on the CPU, with a model of two layers (minutes)
#   make fuzz      damaged files, messages and model files, 120,000 of them (FUZZ_CASES), and the OpenAPI
#   make wheel     build the wheel        make clean    remove what was built
#   make lock      renew docker/*.lock    make audit    look up known vulnerabilities of what they name
#   make sbom      write down what the images are made of (CycloneDX), with licences
# PYTHON=... picks the interpreter (3.11 or newer); arguments for pytest go into ARGS: make test ARGS="-k drain",
# those for python -m bench and sonotag bench into BENCH_MODEL and BENCH_SERVICE.

PYTHON ?=
ARGS ?=
TEST_PROCESSES ?= 3
FUZZ_CASES ?= 120000
FUZZ_EXAMPLES ?= 300
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint $(LOCK)
CHECKPOINT := export/checkpoints/ast-tiny-16-16-5s
BUNDLE := service/bundles/ast-tiny-16-16-5s
# Labelled clips are not part of the repository; where they are, they decide whether the short windows are good enough.
SHORT_WINDOWS := --short-windows 1,2 $(addprefix --eval ,$(wildcard ../shared/audio/esc50))
# Half of the time the tests wait, so that two cores have work for three processes. A file goes to one of them whole, since its
# tests share servers; in their order, the slow files come first.
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
BENCH := build/bench
BENCH_MODEL ?=
BENCH_SERVICE ?= --first 24 --seconds 8

# The tests of the pure modules, whose coverage must be complete, by branch. Decoders meet damage only in real encoded files.
PURE_TESTS := tests/unit/access tests/unit/audio tests/integration/test_containers.py tests/unit/postprocess tests/unit/streaming tests/unit/inference/test_policy.py tests/property
PURE_SESSION := service/streaming/session.py,service/streaming/negotiation.py,service/streaming/resumed_stream.py,service/streaming/timers.py,service/streaming/outgoing.py,service/streaming/ending.py
PURE_MODULES := service/access/origins.py,service/access/quotas.py,service/audio/*,service/postprocess/*,$(PURE_SESSION),service/inference/policy.py

.PHONY: serve test test-slow bench chaos load soak fuzz gpu-test image-test coverage lint types format export wheel lock audit sbom clean
.DELETE_ON_ERROR:

serve: $(VENV)/.serve
	@exec $(BIN)/sonotag serve

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench.suite --output $(BENCH) --model='$(BENCH_MODEL)' --service='$(BENCH_SERVICE)'

# A hundred thousand cases, some ten minutes: FUZZ_CASES and FUZZ_EXAMPLES (of each operation of the OpenAPI) change that.
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz --cases $(FUZZ_CASES)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q tests/fuzz tests/integration/test_hostile_input.py

gpu-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/bench/check_gpu.py $(ARGS)

image-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/image/check_image.py $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos.chaos

load: $(VENV)/.dev
	$(BIN)/python -m tests.load.overload
	$(BIN)/python -m tests.load.fairness

soak: $(VENV)/.dev
	$(BIN)/python -m tests.load.soak

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PURE_TESTS) --cov=service --cov-branch --cov-report=
	$(BIN)/python -m coverage report --include='$(PURE_MODULES)' --show-missing --skip-covered --fail-under=100

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

export: $(VENV)/.dev
	$(BIN)/sonotag export $(CHECKPOINT) $(BUNDLE) --precision fp32,fp16,int8 $(SHORT_WINDOWS)

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

lock: $(VENV)/.dev
	scripts/lock-images $(BIN)

audit: $(VENV)/.dev
	$(BIN)/python scripts/audit $(BIN)

sbom: wheel
	for target in cpu cuda; do scripts/make-sbom $(BIN) $$target dist/sonotag-$$target.cdx.json || exit; done
	$(BIN)/python scripts/list-licences dist/sonotag-cpu.cdx.json dist/sonotag-cuda.cdx.json > docs/licences.md

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov

# The stamps: an environment is made or brought up to date when what it depends on is newer, and not otherwise.
$(VENV)/.python:
	@PYTHON="$(PYTHON)" scripts/make-venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml $(LOCK)
	@echo "Installing what serving needs into $(VENV)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "Installing what the tests and checks need into $(VENV)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	@$(INSTALL) --editable '.[fuzz]'
	@touch $@
