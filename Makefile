# Everything a newcomer or a machine types. Nothing here needs to be installed by hand.
# PYTHON says which Python makes the environments: make test PYTHON=python3.12
export PYTHON ?= python3

OPENAI_2_TESTS = $(addprefix tests/integrations/test_,$(addsuffix .py,crewai llama_index semantic_kernel openai mcp langchain)) \
	tests/deliver/test_flywheel_record.py

RAGAS_TESTS = tests/evaluation/test_eval_ragas.py tests/simulate/test_web_query_example.py

# What an environment is made from; the package holds modules in C.
BUILT_FROM = pyproject.toml setup.py scripts/venv $(wildcard src/millstream/*/*.c)

# Tests of one file share their servers; most wait for processes of their own. PARALLEL= runs one after another.
# Each process imports all frameworks, which pays for the many tests of .venv only.
PARALLEL = --numprocesses 3 --dist loadfile

.PHONY: help demo demo-web-query environments test test-main test-openai-2 test-ragas test-servers test-faults check format bench-recording bench-delivery bench-profiler bench-evaluation clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: .venv-demo/.ready ## run the main job and the walk-through on a stand-in model server, or on yours; ARGS=--resume goes on after a kill
	@.venv-demo/bin/python examples/email_phishing_analyzer/demo.py $(ARGS)

demo-web-query: .venv-ragas/.ready ## the same for the agent that reads web pages, judged by ragas
	@.venv-ragas/bin/python examples/simple_web_query/demo.py $(ARGS)

test: .venv/.ready .venv-openai-2/.ready .venv-ragas/.ready test-main test-openai-2 test-ragas ## run the tests; those of frameworks that need openai 2, and of ragas, in environments of theirs

test-main: .venv/.ready
	.venv/bin/python -m pytest $(PARALLEL) $(ARGS)

test-openai-2: .venv-openai-2/.ready
	.venv-openai-2/bin/python -m pytest $(ARGS) $(OPENAI_2_TESTS)

test-ragas: .venv-ragas/.ready
	.venv-ragas/bin/python -m pytest $(ARGS) $(RAGAS_TESTS)

# What cannot be prepared has its tests skipped, with the reason; with CI=true they fail.
test-servers: .venv/.ready ## prepare real search servers and OTLP receivers (JDK, Maven, Go, nginx) and test against them
	-@nice .venv/bin/python -m tests.servers.prepare
	.venv/bin/python -m pytest $(ARGS) tests/servers

test-faults: .venv/.ready ## servers that fail in every way while applications are killed: nothing lost, nothing doubled; some six minutes
	.venv/bin/python -m pytest $(ARGS) tests/faults

check: .venv/.ready ## lint, types, layers, format, wheel
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache --no-logo
	scripts/check-wheel .venv/bin/python

format: .venv/.ready ## format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench-recording: .venv-bench/.ready ## what recording costs, beside other SDKs; some ten minutes, ARGS=--quick one
	.venv-bench/bin/python -m benchmarks.recording $(ARGS)

bench-delivery: .venv-bench-delivery/.ready ## documents a second into Elasticsearch and OpenSearch, beside their clients; ARGS="--server elasticsearch9"
	.venv-bench-delivery/bin/python -m benchmarks.delivery $(ARGS)

bench-profiler: .venv/.ready .venv-bench-nat/.ready ## millstream profile beside pandas and NAT, and by the number of spans; some 20 minutes, ARGS="--spans 10000000"
	.venv/bin/python -m benchmarks.profiler $(ARGS)

bench-evaluation: .venv/.ready .venv-bench-inspect/.ready .venv-bench-nat/.ready ## what millstream eval takes beside its model calls, and beside inspect_ai and NAT; some 15 minutes
	.venv/bin/python -m benchmarks.evaluation $(ARGS)

clean: ## remove environments, caches and what runs wrote
	rm -rf build src/millstream/*/*.so .venv .venv-demo .venv-openai-2 .venv-ragas .venv-bench .venv-bench-delivery .venv-bench-nat .venv-bench-inspect .tmp .millstream .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

environments: .venv/.ready .venv-demo/.ready .venv-openai-2/.ready .venv-ragas/.ready # not with -j: each compiles in src

.venv-demo/.ready: $(BUILT_FROM)
	@scripts/venv .venv-demo profiling,langchain,web demo

.venv/.ready: $(BUILT_FROM)
	@scripts/venv .venv all dev

.venv-openai-2/.ready: $(BUILT_FROM)
	@scripts/venv .venv-openai-2 langchain,web frameworks-openai-2

# Of its own: ragas needs older versions than the frameworks of .venv.
.venv-ragas/.ready: $(BUILT_FROM)
	@scripts/venv .venv-ragas profiling,langchain,web,ragas ragas

.venv-bench-delivery/.ready: $(BUILT_FROM)
	@scripts/venv .venv-bench-delivery elasticsearch bench-delivery

# Of its own, for it holds other versions of much; where it cannot be made, the benchmark says so in its rows.
.venv-bench-nat/.ready: $(BUILT_FROM)
	@scripts/venv .venv-bench-nat "" bench-nat || echo "NAT could not be installed; its rows will say so" >&2

.venv-bench-inspect/.ready: $(BUILT_FROM)
	@scripts/venv .venv-bench-inspect "" bench-inspect || echo "inspect_ai could not be installed; its row will say so" >&2

.venv-bench/.ready: $(BUILT_FROM)
	@scripts/venv .venv-bench "" bench
	@for sdk in langfuse logfire mlflow nat; do \
		scripts/venv .venv-bench "" bench-$$sdk || echo "$$sdk could not be installed; its rows will say so" >&2; \
	done
