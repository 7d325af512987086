# Every command of the project. `make help` lists them; CI runs the same ones.

PYTHON ?= python3
CLIENTS ?= $(filter-out conformance,$(notdir $(wildcard clients/*)))
RECORDINGS ?= ../shared/recordings

UV_VERSION := 0.13.8
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
GHZ := github.com/bojand/ghz/cmd/ghz@v0.93.0

TOOLS := $(CURDIR)/.tools
VENV := $(CURDIR)/.venv
UV := $(TOOLS)/uv/bin/uv
UV_STAMP := $(TOOLS)/uv/.installed-$(UV_VERSION)
BUF_STAMP := $(TOOLS)/buf/.installed
GO_STAMP := $(TOOLS)/bin/.installed-$(notdir $(PROTOC_GEN_GO))-$(notdir $(PROTOC_GEN_GO_GRPC))
GHZ_STAMP := $(TOOLS)/bin/.installed-$(notdir $(GHZ))
STEP := $(PYTHON) -m tools.steps
HAS_GO := $(filter go,$(CLIENTS))

export PYTHON
export CARGO_TARGET_DIR := $(CURDIR)/target
export CARGO_TERM_COLOR ?= never
export TURNKEEPER_RECORDINGS := $(abspath $(RECORDINGS))
export UV_PYTHON_DOWNLOADS := never
# An environment that happens to be active is not ours.
unexport VIRTUAL_ENV
unexport PYTHONPATH

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-core test-service test-clients test-dist test-long dist lint fmt gen gen-check spec-coverage \
	bench load clean need-python need-core need-clients need-servers need-gen sync

help: ## List the targets
	@echo "make TARGET [CLIENTS=\"python go\"] [RECORDINGS=folder] [PYTHON=python3]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: need-core sync ## Build the environment: tools into .tools/, Python packages and the compiled core into .venv/

demo: setup ## Show the whole product at work, and check its promises while it runs
	@$(VENV)/bin/python -m examples.demo

serve: setup ## Start the server; ARGS="--config turnkeeper.toml" passes options on
	@$(VENV)/bin/turnkeeper serve $(ARGS)

test: setup need-clients need-servers ## Run all tests but the long ones
	@$(PYTHON) -m tools.test core service clients --clients "$(CLIENTS)"

test-core: need-core ## Run the Rust core's tests, the model-checked ones too
	@$(PYTHON) -m tools.test core

test-service: setup need-servers ## Run the Python tests of the binding, the service and the tools
	@$(PYTHON) -m tools.test service

test-clients: setup need-clients ## Run the clients' tests; CLIENTS="python" narrows
	@$(PYTHON) -m tools.test clients --clients "$(CLIENTS)"

test-dist: dist ## Build the wheels, install them into a clean environment and hold a conversation there
	@$(PYTHON) -m tools.test dist

test-long: setup need-clients need-servers ## Run the tests with big counts, without limits of time
	@$(PYTHON) -m tools.test core service clients --clients "$(CLIENTS)" --long

dist: setup ## Build the three wheels into dist/: the client, the service, the core
	@rm -rf dist
	@$(STEP) dist "the three wheels into dist/" $(UV) build --quiet --all-packages --wheel --out-dir dist --python $(PYTHON)

lint: setup need-gen $(BUF_STAMP) ## Check style, types, imports, the contract and the sizes of files
	@$(PYTHON) -m tools.lint

fmt: setup $(BUF_STAMP) ## Lay out all sources, and mend what can be mended
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format --quiet .
	@cargo fmt --all
	@cd proto && $(TOOLS)/buf/node_modules/.bin/buf format -w
	@if command -v gofmt >/dev/null; then gofmt -w $$(git ls-files 'clients/go/*.go' | grep -v '/gen/'); fi

gen: setup need-gen $(BUF_STAMP) $(GO_STAMP) ## Regenerate all code that comes from proto/
	@$(PYTHON) -m tools.gen

gen-check: setup need-gen $(BUF_STAMP) $(GO_STAMP) ## Fail if the generated code is not current
	@$(PYTHON) -m tools.gen --check

spec-coverage: need-python ## Say which rows of the specification the last `make test` covered; TEXT=1 says what is missing
	@$(PYTHON) -m tools.spec_coverage $(if $(TEXT),--text)

bench: setup ## Measure, and print the figures beside the goals
	@$(STEP) bench "the core, the binding and the service, each beside its baseline" $(VENV)/bin/python -m bench $(ARGS)

load: setup $(GHZ_STAMP) ## Load a server with ghz: unary, server stream, both ways
	@PATH="$(TOOLS)/bin:$$PATH" $(STEP) load "ghz against a server of its own" $(VENV)/bin/python -m bench.ghz $(ARGS)

clean: ## Remove what the other targets made, the tools too
	@rm -rf .tools .venv target .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -f core-rs/py/python/turnkeeper_core/*.so

need-python:
	@tools/need python

need-core:
	@tools/need python cargo cc git

need-clients:
	@tools/need $(if $(HAS_GO),go node) $(if $(filter java,$(CLIENTS)),java mvn) $(if $(filter typescript,$(CLIENTS)),node)

need-servers:
	@tools/need node

need-gen:
	@tools/need node $(if $(wildcard clients/go),go)

sync: $(UV_STAMP)
	@$(STEP) setup "Python packages and the compiled core into .venv" \
		$(UV) sync --quiet --all-packages --all-extras --locked --python $(PYTHON)

$(UV_STAMP):
	@$(STEP) setup "a Python environment for uv in .tools/uv" $(PYTHON) -m venv --clear $(TOOLS)/uv
	@$(STEP) setup "uv $(UV_VERSION) into .tools/uv" $(TOOLS)/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)
	@touch $@

$(BUF_STAMP): tools/buf/package-lock.json
	@mkdir -p $(TOOLS)/buf && cp tools/buf/package.json tools/buf/package-lock.json $(TOOLS)/buf/
	@$(STEP) setup "buf into .tools/buf" npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(TOOLS)/buf
	@touch $@

$(GO_STAMP):
	@GOBIN=$(TOOLS)/bin GOFLAGS= $(STEP) setup "protoc-gen-go into .tools/bin" go install $(PROTOC_GEN_GO)
	@GOBIN=$(TOOLS)/bin GOFLAGS= $(STEP) setup "protoc-gen-go-grpc into .tools/bin" go install $(PROTOC_GEN_GO_GRPC)
	@touch $@

$(GHZ_STAMP):
	@tools/need go
	@GOBIN=$(TOOLS)/bin GOFLAGS= $(STEP) setup "ghz into .tools/bin" go install $(GHZ)
	@touch $@
